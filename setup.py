"""The compiled parts; everything else about the package is in pyproject.toml."""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

ON_WINDOWS = sys.platform == "win32"
C_FLAGS = ["/std:c11", "/experimental:c11atomics"] if ON_WINDOWS else ["-std=c11"]
if not ON_WINDOWS and "-O" not in os.environ.get("CFLAGS", ""):  # which comes before these
    C_FLAGS.append("-O3")
# CPython's own flags ask for it: three quarters of a wheel.
if not ON_WINDOWS and not any(flag.startswith("-g") for flag in os.environ.get("CFLAGS", "").split()):
    C_FLAGS.append("-g0")

setup(
    ext_modules=cythonize(
        [
            Extension("lazyseq._core", ["src/lazyseq/_core.pyx"], extra_compile_args=C_FLAGS),
            Extension(
                "lazyseq._engine",
                ["src/lazyseq/_engine.pyx", "src/lazyseq/_prefetch.c"],
                include_dirs=["src/lazyseq"],
                depends=["src/lazyseq/_prefetch.h"],
                libraries=["synchronization"] if ON_WINDOWS else [],
                extra_compile_args=C_FLAGS,
            ),
            Extension(
                "lazyseq._transfer",
                ["src/lazyseq/_transfer.pyx", "src/lazyseq/_arena.c"],
                include_dirs=["src/lazyseq"],
                depends=["src/lazyseq/_arena.h"],
                extra_compile_args=C_FLAGS,
            ),
        ],
        build_dir="build/cython",  # beside the sources, a clean-up of generated C could take _prefetch.c along
    ),
    options={"build_ext": {"parallel": True}},
)
