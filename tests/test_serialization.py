"""SerializableFunc."""

import pickle
import subprocess
import sys

from lazyseq import SerializableFunc


def test_it_is_the_function_after_its_module_has_gone(tmp_path):
    module = tmp_path / "functions.py"
    module.write_text(
        "from lazyseq import SerializableFunc\n"
        "offset = 10\n"
        "@SerializableFunc\n"
        "def shifted(x, *, by=1):\n"
        '    """Shift."""\n'
        "    return x + offset + by\n"
    )
    code = "import pickle, sys, functions; sys.stdout.buffer.write(pickle.dumps(functions.shifted))"
    data = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True).stdout
    module.unlink()
    shifted = pickle.loads(data)
    assert shifted(1) == 12 and shifted(1, by=5) == 16
    assert shifted.__doc__ == "Shift." and shifted.__name__ == "shifted"
    assert pickle.loads(pickle.dumps(shifted))(1) == 12


def test_a_function_that_calls_itself():
    code = (
        "import pickle, lazyseq\n"
        "@lazyseq.SerializableFunc\n"
        "def factorial(n):\n"
        "    return 1 if n == 0 else n * factorial(n - 1)\n"
        "print(factorial(5), pickle.loads(pickle.dumps(factorial))(5))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "120 120\n", result.stderr


def test_of_itself_it_is_the_same():
    double = SerializableFunc(lambda x: 2 * x)
    assert SerializableFunc(double).func is double.func
