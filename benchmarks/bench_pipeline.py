"""The image pipeline of examples/preprocessing_pipeline.py, two threads, against SeqTools: medians of paired rounds."""

import statistics
import sys
import tempfile
from pathlib import Path

import seqtools
from compare import verdict

import lazyseq

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from preprocessing_pipeline import measure, sample_paths  # noqa: E402

ROUNDS = 15
LIMITS = {"prefetch": 1.0, "frugal": 0.6}


def main():
    print(f"Wall time of 400 images, lazyseq / SeqTools, median of {ROUNDS} pairs:")
    with tempfile.TemporaryDirectory() as folder:
        paths = sample_paths(folder, 200)
        for way, limit in LIMITS.items():
            ratios, libs = [], [lazyseq, seqtools]
            for _ in range(ROUNDS):
                wall = {lib: measure(lib, way, paths).wall for lib in libs}
                ratios.append(wall[lazyseq] / wall[seqtools])
                libs.reverse()  # neither always goes first
            spread = f"(from {min(ratios):.2f} to {max(ratios):.2f})"
            print(f"  {way:<12}{verdict(statistics.median(ratios), limit)}  {spread}")


if __name__ == "__main__":
    main()
