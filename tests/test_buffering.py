"""add_cache."""

import collections
import gc
import operator
import pickle
import shelve
import subprocess
import sys
import textwrap
import threading

import pytest

from lazyseq import EvaluationError, add_cache, smap


def noting(function=lambda x: x):
    calls = []

    def noted(x):
        calls.append(x)
        return function(x)

    return noted, calls


def run_all(*functions, seconds=10):
    """Run functions side by side and return what they return, or raised; a deadlock is a failure."""
    results = [None] * len(functions)

    def run(k):
        try:
            results[k] = functions[k]()
        except BaseException as error:
            results[k] = error

    threads = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "deadlock"
    return results


def test_the_default_keeps_one_item():
    noted, calls = noting(operator.neg)
    view = add_cache(smap(noted, [1, 2, 3]))
    assert [view[0], view[-3], view[1], view[1], view[0]] == [-1, -1, -2, -2, -1]
    assert calls == [1, 2, 1]


def test_the_item_used_longest_ago_goes_first():
    noted, calls = noting()
    view = add_cache(smap(noted, range(10)), 3)
    for i in (0, 1, 2, 0, 3):  # 1 goes
        assert view[i] == i
    calls.clear()
    for i in (0, 2, 3):
        assert view[i] == i
    assert calls == []
    assert view[1] == 1 and calls == [1]  # 0 goes
    assert view[2] == 2 and calls == [1]
    assert view[0] == 0 and calls == [1, 0]


@pytest.mark.parametrize("size", [0, 1, 2, 5, 50])
def test_against_a_model(size):
    import random

    draw = random.Random(size)
    noted, calls = noting(operator.neg)
    source = list(range(20))
    view = add_cache(smap(noted, source), size)
    writable = add_cache(source, size)
    model = collections.OrderedDict()
    for _ in range(3000):
        i = draw.randrange(20)
        calls.clear()
        assert view[i] == -source[i]
        assert calls == ([] if i in model else [source[i]])
        model[i] = None
        model.move_to_end(i)
        while len(model) > size:
            model.popitem(last=False)
        k = draw.randrange(20)
        assert writable[k] == source[k]
    for i in range(20):
        writable[i] = i + 100
        assert writable[i] == source[i] == i + 100


def test_iteration_uses_and_fills_the_cache():
    noted, calls = noting()
    view = add_cache(smap(noted, range(4)), 4)
    assert view[2] == 2
    assert list(view) == [0, 1, 2, 3] and calls == [2, 0, 1, 3]
    assert list(view) == [0, 1, 2, 3] and calls == [2, 0, 1, 3]


def test_the_same_object_while_it_is_kept():
    view = add_cache(smap(lambda i: [i], range(3)), 2)
    assert view[1] is view[1]


def test_what_is_dropped_dies():
    class Item:
        alive = 0

        def __init__(self, i):
            Item.alive += 1

        def __del__(self):
            Item.alive -= 1

    view = add_cache(smap(Item, range(100)), 7)
    for i in range(100):
        view[i]
    assert Item.alive == 7
    del view
    gc.collect()
    assert Item.alive == 0


def test_errors_are_not_kept():
    noted, calls = noting(lambda x: 1 // (len(calls) - 1))
    view = add_cache(smap(noted, [0]), 5)
    with pytest.raises(EvaluationError):
        view[0]
    assert view[0] == 1
    assert calls == [0, 0]


@pytest.mark.parametrize("bring", [dict, collections.OrderedDict, collections.UserDict])
def test_a_mapping_of_the_users(bring):
    mapping = bring({1: "mine"})
    noted, calls = noting()
    view = add_cache(smap(noted, range(5)), cache=mapping)
    assert [view[1], view[2], view[2]] == ["mine", 2, 2]
    assert calls == [2] and dict(mapping) == {1: "mine", 2: 2}
    assert list(view) == [0, "mine", 2, 3, 4] and len(mapping) == 5


def test_a_mapping_with_a_limit():
    mapping = {9: "old"}
    view = add_cache(range(9), 2, mapping)
    for i in (0, 1, 0, 2):
        assert view[i] == i
    assert mapping == {0: 0, 2: 2}


def test_a_shelf(tmp_path):
    class Shelf(collections.abc.MutableMapping):
        def __init__(self, shelf):
            self.shelf = shelf

        def __getitem__(self, i):
            return self.shelf[str(i)]

        def __setitem__(self, i, value):
            self.shelf[str(i)] = value

        def __delitem__(self, i):
            del self.shelf[str(i)]

        def __iter__(self):
            return map(int, self.shelf)

        def __len__(self):
            return len(self.shelf)

    noted, calls = noting(lambda x: [x])
    for _ in range(2):
        with shelve.open(str(tmp_path / "shelf")) as shelf:
            assert list(add_cache(smap(noted, range(5)), cache=Shelf(shelf))) == [[i] for i in range(5)]
    assert calls == list(range(5))


def test_pickled_it_is_the_recipe_and_empty():
    view = add_cache(smap(operator.neg, [1, 2, 3]), 2)
    assert view[0] == -1
    copy = pickle.loads(pickle.dumps(view))
    assert list(copy) == [-1, -2, -3] and copy.cache_size == 2


def test_assignment_writes_to_the_source_and_forgets():
    source = [1, 2, 3]
    view = add_cache(source, 3)
    assert list(view) == [1, 2, 3]
    view[1] = 20
    view[-1:] = [30]
    assert source == [1, 20, 30] and list(view) == [1, 20, 30]
    with pytest.raises(TypeError):
        add_cache(smap(abs, source))[0] = 1


# ---- Threads --------------------------------------------------------------------------------------------------------


def test_different_items_are_computed_side_by_side():
    together = threading.Barrier(4, timeout=10)
    view = add_cache(smap(lambda i: together.wait() and i or i, range(4)), 4)
    assert run_all(*[lambda i=i: view[i] for i in range(4)]) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [0, 4])
def test_one_item_is_computed_once(size):
    computing, go_on = threading.Event(), threading.Event()

    def slow(i):
        calls.append(i)
        computing.set()
        go_on.wait(10)
        return [i]

    calls = []
    view = add_cache(smap(slow, range(3)), size)

    def late():
        computing.wait(10)
        threading.Timer(0.05, go_on.set).start()
        return view[1]

    results = run_all(lambda: view[1], *[late] * 8)
    assert calls == [1]
    assert all(result is results[0] for result in results)


def test_those_who_wait_for_a_computation_that_fails_compute_themselves():
    computing, go_on = threading.Event(), threading.Event()

    def fails_once(i):
        calls.append(i)
        if len(calls) == 1:
            computing.set()
            go_on.wait(10)
            raise ValueError("first")
        return i

    calls = []
    view = add_cache(smap(fails_once, range(3)), 3)

    def late():
        computing.wait(10)
        threading.Timer(0.05, go_on.set).start()
        return view[2]

    first, *others = run_all(lambda: view[2], late, late)
    assert isinstance(first, EvaluationError) and others == [2, 2]
    assert calls == [2, 2]


def test_two_items_that_read_each_other_do_not_deadlock():
    inside = threading.Barrier(2, timeout=10)

    def read_the_other(i):
        depth.append(i)
        if len([x for x in depth if x == i]) == 1:
            inside.wait()  # both are being computed, and now each wants the other
            return view[1 - i]
        return f"from {i}"

    depth = []
    view = add_cache(smap(read_the_other, range(2)), 2)
    # Who of the two computes the other's item, and who finds it, is left open.
    assert set(run_all(lambda: view[0], lambda: view[1])) <= {"from 0", "from 1"}


def test_an_item_that_reads_itself():
    view = add_cache(smap(lambda i: view[i], range(3)), 3)
    with pytest.raises(EvaluationError) as caught:
        view[1]
    assert type(caught.value.__cause__) is RuntimeError
    assert str(caught.value.__cause__) == "cache: item 1 reads itself"
    both = add_cache(smap(lambda i: both[1 - i], range(2)), 3)
    with pytest.raises(EvaluationError) as caught:
        both[0]
    assert "cache: item 0 reads itself" in str(caught.value.__cause__)


def test_an_assignment_during_a_computation_leaves_no_stale_value():
    computing, go_on = threading.Event(), threading.Event()

    class Source(list):
        def __getitem__(self, i):
            value = super().__getitem__(i)
            if not go_on.is_set():
                computing.set()
                go_on.wait(10)
            return value

    view = add_cache(Source([1, 2]), 2)

    def assign():
        computing.wait(10)
        view[0] = "new"
        go_on.set()
        return view[0]

    assert run_all(lambda: view[0], assign) == [1, "new"]
    assert view[0] == "new"


def test_many_threads_over_a_small_cache():
    view = add_cache(smap(operator.neg, range(50)), 7)

    def read(seed):
        import random

        draw = random.Random(seed)
        return all(view[i] == -i for i in (draw.randrange(50) for _ in range(3000)))

    assert run_all(*[lambda k=k: read(k) for k in range(8)], seconds=60) == [True] * 8


def test_ctrl_c_reaches_a_thread_that_waits():
    script = textwrap.dedent("""
        import os, signal, threading, lazyseq
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
        computing = threading.Event()
        view = lazyseq.add_cache(lazyseq.smap(lambda i: computing.set() or threading.Event().wait(), [0]))
        threading.Thread(target=lambda: view[0], daemon=True).start()
        computing.wait()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            view[0]
        except KeyboardInterrupt:
            print("interrupted")
    """)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (result.stdout, result.stderr) == ("interrupted\n", "")
