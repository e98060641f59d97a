"""What cuts across the functions: the public names, the documentation, the direction of imports."""

import doctest
import importlib
import inspect
import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import lazyseq

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "lazyseq"
TOPICS = ["mapping", "indexing", "shape", "buffering", "serialization", "evaluation", "guarding", "errors"]


def test_all_names_exist_and_are_sorted():
    assert sorted(lazyseq.__all__) == lazyseq.__all__
    assert {name for name in lazyseq.__all__ if not hasattr(lazyseq, name)} == set()
    public = {name for topic in TOPICS for name in importlib.import_module(f"lazyseq.{topic}").__all__}
    assert public == set(lazyseq.__all__) - {"View", "instrument"}


@pytest.mark.parametrize("topic", [*TOPICS, "instrument"])
def test_doctests(topic):
    module = importlib.import_module(f"lazyseq.{topic}")
    failed, tried = doctest.testmod(module)
    assert failed == 0 and tried > 0


FUNCTIONS = [
    getattr(module, name)
    for module in (lazyseq, lazyseq.instrument)
    for name in module.__all__
    if inspect.isfunction(getattr(module, name))
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_function_documents_its_arguments_and_has_a_doctest(function):
    text = inspect.getdoc(function)
    assert ">>>" in text
    if text.startswith("The same as"):
        return
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"^    \*?{parameter} \(", text, re.MULTILINE), parameter
    assert "Raises:" in text


def test_the_readme_example_prints_what_it_says():
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    expected = re.findall(r"^ *print.*# (.*?)(?:  \(.*)?$", code, re.MULTILINE)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == expected


PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_in_the_documentation_run(page):
    examples = "\n".join(re.findall(r"```python\n(>>>.*?)```", page.read_text(), re.DOTALL))
    test = doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(test).failed == 0


def test_every_function_has_a_section_with_a_diagram_and_an_example():
    page = (ROOT / "docs" / "functions.md").read_text()
    sections = {}
    for section in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        sections.update(dict.fromkeys(title.split(", "), text))
    public = {*lazyseq.__all__, *lazyseq.instrument.__all__} - {"View", "instrument"}
    assert public == set(sections)
    assert all("```\n" in text and "```python\n>>>" in text for text in sections.values())


def test_the_logger_has_a_null_handler():
    handlers = logging.getLogger("lazyseq").handlers
    assert [type(handler) for handler in handlers] == [logging.NullHandler]


ALLOWED = {
    "errors.py": set(),
    "_types.py": set(),
    "_workers.py": {"_processes"},  # its types
    "_core.pyx": {"errors"},
    "_core.pxd": set(),
    "_core.pyi": {"_types"},
    "_prefetch.pxd": set(),
    "_arena.pxd": set(),
    "_transfer.pxd": {"_arena"},
    "_transfer.pyx": {"_arena"},
    "_transfer.pyi": set(),
    "_processes.py": {
        "_core",
        "_engine",
        "_transfer",
        "_types",
        "errors",
    },  # _engine: when all is loaded
    "_engine.pyx": {"_core", "_prefetch", "_processes", "_transfer", "_workers", "errors"},
    "_engine.pyi": {"_core", "_processes", "_transfer", "_types"},
    "_checks.py": {"_core", "_types"},
    "mapping.py": {"_checks", "_core", "_types"},
    "indexing.py": {"_checks", "_core", "_types"},
    "shape.py": {"_checks", "_core", "_types"},
    "buffering.py": {"_checks", "_core", "_types"},
    "guarding.py": {"_checks", "_core", "_types", "errors"},
    "evaluation.py": {"_checks", "_engine", "_transfer", "_types", "_workers", "errors"},
    "instrument.py": {"_checks", "_core", "_types"},
    "serialization.py": set(),
    "__init__.py": {*TOPICS, "_core", "instrument"},
}


def test_imports_go_one_way():
    found = {}
    for path in SOURCE.iterdir():
        if path.suffix in {".py", ".pyi", ".pyx", ".pxd"}:
            lines = re.findall(r"^ *from \.(\w*) c?import (.*)$", path.read_text(), re.MULTILINE)
            found[path.name] = {name for module, names in lines for name in ([module] if module else names.split(", "))}
    assert found == ALLOWED


@pytest.mark.parametrize("file", ["_prefetch.c", "_prefetch.h", "_arena.c", "_arena.h"])
def test_the_ring_and_the_arena_know_nobody(file):
    includes = set(re.findall(r"#include [<\"](.*)[>\"]", (SOURCE / file).read_text()))
    own = file.replace(".c", ".h")
    assert not {name for name in includes if "Python" in name or name.startswith("_") and name != own}


RING_LABELS = ["E1", "E2", "E3", "E4", "E5", "E6", "E8", "E9", "E10", "E11", "E12", "E13", "E14", "P1", "P2", "R1"]


@pytest.mark.parametrize("file, labels", [("_prefetch.c", RING_LABELS), ("_arena.c", ["A1", "A2", "A3"])])
def test_every_label_has_its_two_sides(file, labels):
    comments = re.findall(r"/\*.*?\*/", (SOURCE / file).read_text(), re.DOTALL)[1:]  # the first one tells of them
    for label in labels:
        assert sum(bool(re.search(rf"\b{label}\b", comment)) for comment in comments) >= 2, label


def test_the_model_of_the_ring_has_the_same_labels():
    ring, model = (
        set(re.findall(r"\b[EPR]\d+\b", path.read_text()))
        for path in (SOURCE / "_prefetch.c", ROOT / "tests" / "model" / "ring.pml")
    )
    assert model == ring


@pytest.mark.parametrize("file", ["_prefetch.c", "_arena.c"])
def test_no_atomic_access_has_an_implicit_order(file):
    text = (SOURCE / file).read_text()
    assert re.findall(r"\batomic_\w+(?<!_explicit)(?<!atomic_init)\(", text) == []


def test_views_can_be_named_in_annotations():
    assert isinstance(lazyseq.smap(str, []), lazyseq.View)
    assert str(lazyseq.View[int]).endswith("View[int]") and issubclass(lazyseq.View, Sequence)
