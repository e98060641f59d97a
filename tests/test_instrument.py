"""debug, monitor_throughput, tree."""

import operator
import shelve
import threading
import time

import numpy as np
import pytest

from lazyseq import EvaluationError, add_cache, batch, collate, concatenate, gather, prefetch, repeat, smap, unbatch
from lazyseq.instrument import debug, monitor_throughput, tree


def test_debug_sees_each_read():
    seen = []
    view = debug(smap(operator.neg, range(4)), lambda i, value: seen.append((i, value)))
    assert seen == []
    assert view[2] == -2 and view[-1] == -3
    assert list(view[:2]) == [0, -1]
    assert seen == [(2, -2), (3, -3), (0, 0), (1, -1)]


def test_debug_has_limits():
    seen = []
    view = debug(range(100), lambda i, value: seen.append(i), max_calls=3)
    list(view)
    assert seen == [0, 1, 2]
    seen.clear()
    view = debug(range(100), lambda i, value: seen.append(i), max_rate=1e-6)
    list(view)
    assert seen == [], "as in SeqTools, the clock starts when the view is made"
    view = debug(range(100), lambda i, value: seen.append(i), max_calls=0)
    list(view)
    assert seen == []


def test_debug_counts_over_threads():
    seen = []
    view = debug(range(10_000), lambda i, value: seen.append(i), max_calls=100)
    readers = [threading.Thread(target=list, args=(view,)) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(seen) == 100


def test_an_error_of_the_probe_names_the_stage():
    with pytest.raises(EvaluationError, match="failed to evaluate item 1 of debug.<lambda>. made at"):
        debug([1, 2], lambda i, value: 1 // 0)[1]


def test_monitor_measures_reading_and_nothing_else():
    view = monitor_throughput(smap(lambda x: time.sleep(0.002), range(20)))
    for method in (view.read_delay, view.throughput):
        with pytest.raises(RuntimeError, match="nothing was read yet"):
            method()
    view[0]
    for _ in view:
        pass
    assert view.read_delay() >= 0.002
    assert view.throughput() == pytest.approx(1 / view.read_delay())
    view.reset()
    with pytest.raises(RuntimeError):
        view.read_delay()
    idle = monitor_throughput(range(10))
    for _ in idle:
        time.sleep(0.002)
    assert idle.read_delay() < 0.001, "what the loop does is not the view's"


def load(x):
    raise AssertionError("evaluated")


def test_tree_prints_the_pipeline_and_evaluates_nothing(capsys):
    loaded = smap(load, range(10))
    cached = add_cache(loaded, 3)
    tree(prefetch(batch(concatenate([cached, collate([repeat(1), loaded])]), 4), 2))
    lines = [line.partition(", made at ") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [
        "prefetch(2 threads), 5 items, read together",
        "  batch, 5 items",
        "    concatenate, 20 items",
        "      cache, 10 items",
        "        smap(load), 10 items",
        "          range, 10 items",
        "      collate, 10 items",
        "        repeat, unknown length",
        "        smap(load), 10 items",
    ]
    assert all(place.startswith(__file__) for _, _, place in lines if place)


def test_tree_marks_what_is_read_as_blocks_or_together(capsys):
    rows = np.zeros((9, 2))
    tree(batch(gather(rows, [1, 2, 0]), 2, collate_fn=np.stack))
    tree(batch(smap(str, unbatch(smap(list, ["ab", "cd"]), 2)), 3))
    assert [line.partition(", made at ")[0].strip() for line in capsys.readouterr().out.splitlines()] == [
        "batch(stack), 2 items, read as blocks",
        "gather, 3 items, read as blocks",
        "ndarray, 9 items",
        "batch, 2 items, read together",
        "smap(str), 4 items, read together",
        "unbatch, 4 items, read together",
        "smap(list), 2 items",
        "list, 2 items",
    ]


def test_tree_of_a_source_whose_length_raises(capsys):
    class Sick:
        def __getitem__(self, i):
            return i

        def __len__(self):
            raise OSError

    tree(smap(abs, Sick()))
    assert "smap(abs), a length that raises OSError" in capsys.readouterr().out


def test_tree_shows_what_is_shared_once_and_few_of_many(capsys):
    view = smap(abs, [1, 0])
    for _ in range(16):
        view = collate([view, view])
    tree(view)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 16 * 2 + 2 and lines[-1].endswith("(as above)")
    tree(concatenate([[1]] * 100))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22 and lines[-1] == "  and 80 more"


def test_debug_and_monitor_pass_assignments_on():
    xs = [1, 2, 3]
    debug(xs, print)[1] = 5
    monitor_throughput(xs)[0] = 4
    assert xs == [4, 5, 3]


def test_names_that_are_none():
    class Odd:
        __name__ = 3

        def __call__(self, x):
            raise KeyError(x)

        def __getattr__(self, name):
            raise OSError(name)

    assert repr(smap(Odd(), [1])) == "<lazyseq smap(Odd) of 1 item>"
    with pytest.raises(EvaluationError, match=r"item 0 of smap\(Odd\)"):
        smap(Odd(), [1])[0]


def test_tree_of_a_cache_whose_mapping_fails(capsys, tmp_path):
    with shelve.open(str(tmp_path / "shelf")) as shelf:
        view = add_cache(smap(str, range(3)), cache=shelf)
    tree(view)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cache, 3 items, a cache that raises ValueError, made at") and len(lines) == 3
