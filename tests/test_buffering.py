"""add_cache."""

import collections
import dbm.dumb
import gc
import itertools
import operator
import os
import pickle
import random
import shelve
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lazyseq import EvaluationError, add_cache, batch, gather, prefetch, smap, unbatch, uniter
from lazyseq.buffering import default_sizeof
from lazyseq.instrument import debug


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
    noted, calls = noting(lambda x: [x])
    for _ in range(2):
        with shelve.open(str(tmp_path / "shelf")) as shelf:
            shelf["name"] = "a data set"
            view = add_cache(smap(noted, range(5)), cache=shelf)
            assert list(view) == [[i] for i in range(5)] and view.cache_info().currsize == 5
            assert sorted(shelf) == ["0", "1", "2", "3", "4", "name"]
    assert calls == list(range(5))
    with shelve.open(str(tmp_path / "shelf")) as shelf:
        view = add_cache(smap(noted, range(9)), 3, shelf)
        assert view[1] == [1] and view[7] == [7] and view.cache_info() == (1, 1, 3, 3, None, None)
        assert view[1] == [1] and view[8] == [8] and view[5] == [5] and sorted(shelf) == ["1", "5", "8", "name"]
        view.cache_clear()
        assert list(shelf) == ["name"] and view.cache_info().currsize == 0


@pytest.mark.parametrize("size", [None, 0, 2])
def test_keys_of_a_shelf_that_are_no_indices(tmp_path, size):
    others = ["007", "-1", "1_0", "\u0663", "9" * 20, "9" * 5000, "name"]
    with shelve.Shelf(dbm.dumb.open(str(tmp_path / "shelf"))) as shelf:
        shelf.update(dict.fromkeys(others, "mine"))
        view = add_cache(smap(str, range(9)), size, shelf)
        assert list(view) == list("012345678")
        assert view.cache_info().currsize == len(shelf) - len(others) == (9 if size is None else size)
        view.cache_clear()
        assert sorted(shelf) == sorted(others) and set(shelf.values()) == {"mine"}


class ByBytes(collections.abc.MutableMapping):
    """Lists its key 007 as 7, under which it is not found: a KeyError says so, or nobody."""

    def __init__(self, is_silent):
        self.is_silent, self.data, self.listed = is_silent, {b"007": "mine"}, 0

    def __getitem__(self, i):
        return self.data[b"%d" % i]

    def __setitem__(self, i, value):
        self.data[b"%d" % i] = value

    def __delitem__(self, i):
        if not self.is_silent or b"%d" % i in self.data:
            del self.data[b"%d" % i]

    def __iter__(self):
        self.listed += 1
        return map(int, list(self.data))

    def __len__(self):
        return len(self.data)


@pytest.mark.parametrize("is_silent", [False, True])
@pytest.mark.parametrize("size", [0, 1, 2, 4])
def test_a_mapping_that_does_not_drop_what_it_lists(size, is_silent):
    mapping = ByBytes(is_silent)
    view = add_cache(smap(operator.neg, range(50)), size, mapping)
    assert run_all(lambda: list(view)) == [list(range(0, -50, -1))]
    assert sorted(mapping.data) == [b"007", *[b"%d" % i for i in range(51 - size, 50)]] or size == 0
    assert mapping.data[b"007"] == "mine" and mapping.listed <= 2
    view.cache_clear()
    assert list(mapping.data) == [b"007"]


def test_pickled_it_is_the_recipe_and_empty():
    view = add_cache(smap(operator.neg, [1, 2, 3]), 2)
    assert view[0] == -1
    copy = pickle.loads(pickle.dumps(view))
    assert list(copy) == [-1, -2, -3] and copy.cache_size == 2


def test_a_plain_dict_is_pickled_empty_and_other_mappings_as_they_are():
    view = add_cache(range(3), cache={0: b"x" * 10**6})
    data = pickle.dumps(view)
    assert len(data) < 1000 and pickle.loads(data).cache == {}
    assert pickle.loads(pickle.dumps(add_cache(range(3), cache=collections.OrderedDict({1: 1})))).cache == {1: 1}


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

    all_there = threading.Barrier(8, lambda: threading.Timer(0.5, go_on.set).start())

    def late():
        computing.wait(10)
        all_there.wait(10)
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
        together.wait()  # they do not wait for each other
        return i

    calls, together = [], threading.Barrier(3, timeout=10)
    view = add_cache(smap(fails_once, range(3)), 3)

    def late():
        computing.wait(10)
        threading.Timer(0.2, go_on.set).start()
        return view[2]

    first, *others = run_all(lambda: view[2], late, late, late)
    assert isinstance(first, EvaluationError) and others == [2, 2, 2]
    assert calls == [2] * 4 and view[2] == 2 and len(calls) == 4


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


def test_two_caches_that_read_each_other_do_not_deadlock():
    inside = threading.Barrier(2, timeout=10)

    def read_the_other(mine, other, depth):
        def read(i):
            depth.append(i)
            if len(depth) > 1:
                return f"from {mine}"
            inside.wait()  # both are being computed, and now each wants the other
            return caches[other][i]

        return read

    caches = [add_cache(smap(read_the_other(k, 1 - k, []), range(2)), 2) for k in range(2)]
    assert set(run_all(lambda: caches[0][1], lambda: caches[1][1])) <= {"from 0", "from 1"}


@pytest.mark.parametrize("n", [3, 5])
def test_a_ring_of_caches_and_of_their_batches_does_not_deadlock(n):
    inside = threading.Barrier(n, timeout=10)

    def read_the_next(k):
        def read(x):
            if not visited[k]:
                visited[k] = True
                inside.wait()
                return x + caches[(k + 1) % n][5 - x]  # which is in the other's batch
            return x

        return read

    visited = [False] * n
    shards = smap(list, [[0, 1, 2], [3, 4, 5]])
    caches = [add_cache(smap(read_the_next(k), unbatch(shards, 3)), 10) for k in range(n)]
    results = run_all(*[lambda k=k: caches[k].__getitems__([0, 1, 2, 3, 4, 5]) for k in range(n)])
    assert all(result[1:] == [1, 2, 3, 4, 5] for result in results)
    assert all(view.cache_info().currsize == 6 for view in caches)


def test_a_thread_that_computes_waits_for_others_where_it_can():
    computing, go_on = threading.Event(), threading.Event()
    slow, calls = noting(lambda x: computing.set() or go_on.wait(10) and x)
    shards = add_cache(smap(slow, range(3)), 3)
    items = add_cache(smap(lambda i: shards[i // 10] + i, range(30)), 30)

    def late(i):
        computing.wait(10)
        threading.Timer(0.05, go_on.set).start()
        return items[i]

    assert run_all(lambda: items[3], *[lambda i=i: late(i) for i in range(8)]) == [3, *range(8)]
    assert calls == [0]


@pytest.mark.parametrize("read", [lambda view: view.__getitems__(range(12)), list, lambda view: view[0]])
def test_workers_that_read_the_cache_of_their_reader_do_not_deadlock(read):
    p = prefetch(smap(lambda i: i if i == 0 else view[i - 1] + 1, range(12)), 2)
    view = add_cache(p, 12)
    assert run_all(lambda: read(view)) in ([list(range(12))], [0])
    p.close()


def test_workers_of_one_prefetch_compute_an_item_once():
    slow, calls = noting(lambda x: time.sleep(0.2) or x)
    view = add_cache(smap(slow, range(3)), 3)
    with prefetch(smap(lambda i: view[i // 8], range(8)), 4, max_buffered=8) as p:
        assert list(p) == [0] * 8
    assert calls == [0]


def slow_load(seconds=0.2):
    return noting(lambda k: time.sleep(seconds) or [10 * k + j for j in range(10)])


def test_workers_of_a_prefetch_wait_for_a_thread_that_is_none():
    load, calls = slow_load()
    shards = add_cache(smap(load, range(3)), 3)
    with prefetch(smap(lambda i: shards[i // 10][i % 10], range(10)), 8) as p:
        assert run_all(lambda: shards[0][3], lambda: time.sleep(0.05) or list(p)) == [3, list(range(10))]
    assert calls == [0]


@pytest.mark.parametrize("how", ["in turn", "side by side"])
def test_workers_of_several_prefetches_compute_an_item_once(how):
    load, calls = slow_load(0.06)
    shards = add_cache(smap(load, range(3)), 3)
    items = smap(lambda i: shards[i // 10][i % 10], range(30))
    with prefetch(items, 4) as p, prefetch(items, 4) as q:
        if how == "in turn":
            assert list(zip(p, q, strict=True)) == [(i, i) for i in range(30)]
        else:
            assert run_all(lambda: list(p), lambda: list(q)) == [list(range(30))] * 2
    assert sorted(calls) == [0, 1, 2]


def test_workers_wait_for_one_of_them_who_reads_a_prefetch():
    load, calls = slow_load()
    inner = prefetch(smap(load, range(3)), 1)
    shards = add_cache(smap(lambda k: inner[k], range(3)), 3)
    with inner, prefetch(smap(lambda i: shards[i // 10][i % 10], range(10)), 4, max_buffered=8) as p:
        assert list(p) == list(range(10))
    assert calls.count(0) == 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_ring_of_caches_over_prefetches_does_not_deadlock(n):
    inside = threading.Barrier(n, timeout=10)

    def read_the_next(k):
        def read(i):
            if not visited[k]:
                visited[k] = True
                inside.wait()
                return 1 + caches[(k + 1) % n][i]
            return 1

        return read

    visited = [False] * n
    prefetches = [prefetch(smap(read_the_next(k), range(1)), 2) for k in range(n)]
    caches = [add_cache(p, 1) for p in prefetches]
    assert set(run_all(*[lambda k=k: caches[k][0] for k in range(n)])) <= set(range(1, n + 2))
    for p in prefetches:
        p.close()


def test_a_worker_does_not_wait_for_who_waits_for_its_reader():
    started = threading.Event()

    def read(i):
        if i == 0:
            started.set()
            time.sleep(0.1)
            return view[0]  # whose thread waits until the other, which we work for, lets it read on
        return i

    with prefetch(smap(read, range(9)), 1, max_buffered=1) as p:
        iterator = iter(p)
        view = add_cache(smap(lambda k: next(iterator), range(1)))
        first, second = run_all(lambda: next(iterator), lambda: started.wait(10) and view[0])
    assert first in (1, second) and second > 0


@pytest.mark.parametrize("cache", [None, {}])
def test_what_an_abandoned_worker_computes_is_computed_again(cache):
    """An item that hangs is late, and those of its shard are not for ever."""
    release, calls = threading.Event(), []

    def load(k):
        calls.append(k)
        if k == 1 and calls.count(1) == 1:
            release.wait(60)
            return ["late"] * 10
        return [10 * k + j for j in range(10)]

    shards = add_cache(smap(load, range(3)), 10, cache)
    with prefetch(smap(lambda i: shards[i // 10][i % 10], range(30)), 2, timeout=0.3) as p:
        found = []
        for i in range(30):
            try:
                found.append(p[i])
            except TimeoutError:
                found.append("late")
        assert found.count("late") <= 2 and {10, 11} >= {i for i in range(30) if found[i] != i}
        release.set()
        time.sleep(0.05)
        assert list(p) == list(range(30)) and shards[1][0] == 10 and calls.count(1) == 2


def test_who_uses_an_iterable_does_not_wait_for_who_wants_to():
    inside, started = threading.Event(), threading.Event()

    class Stream:
        def __iter__(self):
            yield 10
            inside.set()
            started.wait(10)
            time.sleep(0.05)
            yield view[0] + 1  # which the other thread computes, and wants item 0 for

    def double(i):
        started.set()
        return 2 * stream[i]

    stream = uniter(Stream(), 10, 2)
    view = add_cache(smap(double, range(2)), 2)
    assert stream[0] == 10
    assert run_all(lambda: stream[1], lambda: inside.wait(10) and view[0]) == [21, 20]


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


@pytest.mark.parametrize("cache", [None, {}])
def test_an_assignment_leaves_the_flights_of_other_items(cache):
    computing, go_on = threading.Event(), threading.Event()

    class Source(list):
        def __getitem__(self, i):
            reads.append(i)
            computing.set()
            go_on.wait(10)
            return super().__getitem__(i)

    reads, source = [], Source([1, 2, 3])
    view = add_cache(source, 3, cache)

    def assign_another():
        computing.wait(10)
        view[1] = "new"
        threading.Timer(0.05, go_on.set).start()
        return view[0]

    assert run_all(lambda: view[0], assign_another) == [1, 1]
    assert reads == [0] and view.cache_info()[:2] == (1, 1) and view[0] == 1 and reads == [0]


def test_what_is_computed_during_an_assignment_is_not_kept():
    class Source(list):
        def __setitem__(self, i, value):
            seen.append(view[i])
            seen.append(view[i])
            super().__setitem__(i, value)

    seen, source = [], Source([1, 2])
    view = add_cache(source, 2)
    view[0] = "new"
    assert seen == [1, 1] and view[0] == "new"


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


# ---- Bytes ----------------------------------------------------------------------------------------------------------


def test_a_bound_in_bytes():
    f, calls = noting(lambda n: b"x" * n)
    view = add_cache(smap(f, [3, 4, 5, 1, 99, 0]), max_bytes=10)
    assert [len(view[i]) for i in (0, 1, 0)] == [3, 4, 3]
    assert view.cache_info() == (1, 2, None, 2, 10, 7)
    assert len(view[2]) == 5  # 4 goes, which was used longest ago
    assert view.cache_info() == (1, 3, None, 2, 10, 8)
    assert len(view[4]) == 99  # larger than all: returned, and nothing goes for it
    assert view.cache_info().currbytes == 8 and [len(view[i]) for i in (0, 2)] == [3, 5] and len(calls) == 4
    assert view[5] == b"" and view.cache_info().currsize == 3
    both = add_cache(smap(f, [3, 4, 5]), 1, max_bytes=100)
    assert [len(x) for x in both] == [3, 4, 5] and both.cache_info() == (0, 3, 1, 1, 100, 5)


class Together(list):
    def __getitems__(self, indices):
        return [self[i] for i in indices]


def in_batches(values):
    return unbatch(gather([values[:5], values[5:10], values[10:]], range(3)), 5, 2)


class LruModel(RuleBasedStateMachine):
    """A cache beside the least that does the same: an ordered dict of sizes."""

    @initialize(
        limit=st.sampled_from([None, 0, 1, 3, 10]),
        most=st.sampled_from([None, 0, 5, 20]),
        own=st.booleans(),
        kind=st.sampled_from([list, Together, in_batches]),
    )
    def make(self, limit, most, own, kind):
        self.limit, self.most = limit, most
        if limit is None and most is None:
            self.limit = 1 if own else None
        self.values, self.kept, self.source = list(range(12)), collections.OrderedDict(), kind(list(range(12)))
        self.calls, self.expected_calls, self.hits, self.misses = [], [], 0, 0
        self.view = add_cache(
            debug(self.source, lambda i, x: self.calls.append(x)), limit, None if own else {},
            max_bytes=most, sizeof=None if most is None else lambda x: x % 7,
        )  # fmt: skip
        assert self.view.bulk == (None if kind is list else "items")

    def expect(self, i):
        if i in self.kept:
            self.kept.move_to_end(i)
            self.hits += 1
            return
        self.expected_calls.append(self.values[i])
        self.misses += 1
        self.keep(i)

    def keep(self, i):
        size = self.values[i] % 7
        if self.limit == 0 or (self.most is not None and size > self.most):
            return
        self.kept[i] = size
        while (self.limit is not None and len(self.kept) > self.limit) or (
            self.most is not None and sum(self.kept.values()) > self.most
        ):
            self.kept.popitem(last=False)

    @rule(i=st.integers(0, 11))
    def read(self, i):
        self.expect(i)
        assert self.view[i] == self.values[i]

    @rule(indices=st.lists(st.integers(0, 11), max_size=6))
    def read_many(self, indices):
        # Where items are read together, all that is kept is taken first; else one after the other.
        together = self.view.bulk is not None
        wanted = list(dict.fromkeys(indices)) if together else indices
        for i in sorted(wanted, key=lambda i: i not in self.kept) if together else wanted:
            self.expect(i)
        assert self.view.__getitems__(indices) == [self.values[i] for i in indices]

    @rule(n=st.integers(0, 12))
    def iterate(self, n):
        for i in range(n):
            self.expect(i)
        assert list(itertools.islice(self.view, n)) == self.values[:n]

    @rule(i=st.integers(0, 11), value=st.integers(0, 30))
    def assign(self, i, value):
        self.view[i] = self.values[i] = value
        assert self.source[i] == value
        self.kept.pop(i, None)

    @rule()
    def clear(self):
        self.view.cache_clear()
        self.kept.clear()
        self.hits = self.misses = 0

    @invariant()
    def same(self):
        if not hasattr(self, "view"):
            return
        assert self.calls == self.expected_calls
        info = self.view.cache_info()
        assert (info.hits, info.misses, info.currsize) == (self.hits, self.misses, len(self.kept))
        assert info.currbytes == (None if self.most is None else sum(self.kept.values()))


TestLruModel = LruModel.TestCase
TestLruModel.settings = settings(deadline=None)


def test_sizes_by_default():
    numpy = pytest.importorskip("numpy")
    image = pytest.importorskip("PIL.Image")
    assert default_sizeof(numpy.zeros((3, 4), numpy.int16)) == 24
    assert default_sizeof(b"abc") == 3 and default_sizeof("abc") == 3
    assert default_sizeof(image.new("RGB", (4, 5))) == 60
    assert default_sizeof(object()) == sys.getsizeof(object())
    pair = (numpy.zeros(1000), 7)
    assert default_sizeof(pair) == sys.getsizeof(pair) + 8000 + sys.getsizeof(7)
    assert default_sizeof({"x": pair}) > 8000


@pytest.mark.parametrize(
    "wrong, text", [(lambda x: -1, "got -1"), (lambda x: 1.5, "float"), (lambda x: 1 // 0, "zero")]
)
def test_a_sizeof_that_fails_is_the_items_error(wrong, text):
    view = add_cache(["a", "b"], max_bytes=10, sizeof=wrong)
    for _ in range(2):
        with pytest.raises(EvaluationError, match="failed to evaluate item 1 of cache") as caught:
            view[1]
        assert text in str(caught.value.__cause__)


def test_sizes_of_what_holds_other_objects():
    import dataclasses

    @dataclasses.dataclass
    class Sample:
        image: bytes
        label: int

    Pair = collections.namedtuple("Pair", ["left", "right"])
    image = b"x" * 5000
    for held in (Pair(image, 1), Sample(image, 1), {image}, frozenset([image]), {1: image}, collections.UserList):
        assert (default_sizeof(held) > 5000) == (held is not collections.UserList)
    assert 10_000 > default_sizeof([image, image]) > 5000
    ring = [image]
    ring.append(ring)
    assert 6000 > default_sizeof(ring) > 5000
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert default_sizeof(deep) > 100_000 * sys.getsizeof([])


def test_clearing():
    f, calls = noting()
    view = add_cache(smap(f, range(5)), 3, max_bytes=10**6)
    assert list(view) == list(range(5))
    view.cache_clear()
    assert view.cache_info() == (0, 0, 3, 0, 10**6, 0)
    assert view[4] == 4 and len(calls) == 6
    kept = {}
    view = add_cache(smap(f, range(5)), cache=kept)
    assert view[1] == 1 and kept == {1: 1}
    view.cache_clear()
    assert kept == {}


def test_what_is_computed_while_the_cache_is_cleared_is_not_kept():
    view = add_cache(smap(lambda x: view.cache_clear() or x, range(3)), 3)
    assert view[1] == 1 and view.cache_info().currsize == 0


# ---- What is missing, together --------------------------------------------------------------------------------------


def test_a_batch_reads_what_is_missing_together():
    f, loads = noting(lambda k: [10 * k + j for j in range(10)])
    view = add_cache(unbatch(smap(f, range(5)), 10), 100)
    assert view.bulk == "items"
    assert view.__getitems__([3, 25, 4, 3, 21]) == [3, 25, 4, 3, 21]
    assert loads == [0, 2] and view.cache_info()[:2] == (0, 4)
    assert batch(view, 10)[2] == list(range(20, 30)) and loads == [0, 2, 2]
    assert batch(view, 10)[2] == list(range(20, 30)) and loads == [0, 2, 2]


def test_iteration_computes_what_its_neighbours_share_once():
    f, loads = noting(lambda k: [10 * k + j for j in range(10)])
    view = add_cache(unbatch(smap(f, range(5)), 10), 100)
    assert view[12] == 12
    assert list(view) == list(range(50))
    assert loads.count(0) == loads.count(2) == 1
    assert list(view) == list(range(50)) and len(loads) <= 7


def test_a_batch_and_threads_compute_each_item_once():
    def slow(k):
        time.sleep(0.002)
        return [5 * k + j for j in range(5)]

    computed = []
    items = smap(lambda x: computed.append(x) or x, unbatch(smap(slow, range(40)), 5))
    view = add_cache(items, 200)
    wanted = [random.Random(k).sample(range(200), 60) for k in range(6)]
    assert run_all(*[lambda k=k: view.__getitems__(wanted[k]) for k in range(6)]) == wanted
    assert sorted(computed) == sorted(set().union(*wanted))


def test_a_batch_that_fails_keeps_nothing_and_lets_others_compute():
    first = threading.Event()

    def fail_first(x):
        if not first.is_set():
            first.set()
            raise OSError
        return x

    view = add_cache(smap(fail_first, unbatch([[0, 1], [2, 3]], 2)), 10)
    with pytest.raises(EvaluationError):
        view.__getitems__([0, 1, 2])
    assert view.cache_info().currsize == 0 and view.__getitems__([0, 1, 2]) == [0, 1, 2]


# ---- Mappings that fail, processes that fork ------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["__getitem__", "__setitem__"])
def test_the_error_of_a_mapping_names_the_item(fails):
    class Broken(dict):
        pass

    def fail(*_):
        raise OSError("no space left")

    setattr(Broken, fails, fail)
    with pytest.raises(EvaluationError, match="failed to evaluate item 2 of cache") as caught:
        add_cache("abcd", cache=Broken())[2]
    assert str(caught.value.__cause__) == "no space left"


def test_the_error_of_a_mapping_that_cannot_forget():
    class Stubborn(dict):
        def __delitem__(self, key):
            raise OSError("read-only")

        def clear(self):
            raise OSError("read-only")

    source = [1, 2, 3]
    view = add_cache(source, cache=Stubborn({1: "kept"}))
    with pytest.raises(EvaluationError, match="failed to evaluate item 1 of cache") as caught:
        view[1] = "new"
    assert str(caught.value.__cause__) == "read-only" and caught.value.index == 1 and source == [1, 2, 3]
    with pytest.raises(OSError, match="read-only") as caught:
        view.cache_clear()
    assert "while cache made at" in str(caught.value.__notes__)
    with pytest.raises(EvaluationError) as caught:
        add_cache(source, 1, Stubborn({1: "kept"}))[0]
    assert caught.value.__cause__.__notes__ == ["while the cache drops 1"]


@pytest.mark.parametrize("drop", [lambda kept: kept.__delitem__(min(kept)), dict.popitem, dict.clear])
def test_a_mapping_that_drops_values_by_itself(drop):
    class Small(dict):
        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            while len(self) > 5:
                drop(self)

    view = add_cache(range(2000), cache=Small(), max_bytes=10**6, sizeof=lambda x: 10)
    assert list(view) == list(range(2000)) == list(view)
    assert view.cache_info().currbytes <= 10 * (2 * 5 + 17)


def test_a_large_mapping_is_trimmed_in_linear_time():
    def seconds(n):
        view = add_cache(range(n), 10, dict.fromkeys(range(n), 0))
        start = time.perf_counter()
        assert view[0] == 0 and [view[i] for i in range(-5, 0)] == [0] * 5  # these are used
        add_cache(range(n), 10, view.cache)
        view.cache.clear()
        view.cache.update(dict.fromkeys(range(1, n), 0))
        assert view[0] == 0 and len(view.cache) == 10
        return time.perf_counter() - start

    assert min(seconds(200_000) for _ in range(3)) < 60 * min(seconds(10_000) for _ in range(3))


def test_others_use_a_mapping_while_it_is_trimmed():
    class Slow(dict):
        def __delitem__(self, key):
            time.sleep(1e-5)
            super().__delitem__(key)

    mapping = Slow.fromkeys(range(1, 12_000), 0)
    view = add_cache(range(12_000), 9, mapping)
    reads = []

    def read_meanwhile():
        while len(mapping) == 11_999:
            time.sleep(0.001)
        while len(mapping) > 10:
            assert view[11_999] == 0
            reads.append(len(mapping))
            time.sleep(0.001)

    assert run_all(lambda: view[0], read_meanwhile, seconds=60) == [0, None]
    assert len([n for n in reads if n > 10]) >= 3


def test_a_mapping_whose_values_cannot_be_dropped():
    class Stubborn(dict):
        def __delitem__(self, key):
            raise OSError("read-only")

        def pop(self, *_):
            raise AssertionError("it would read the value")

    mapping = Stubborn()
    view = add_cache(range(9), 2, mapping)
    assert [view[0], view[1]] == [0, 1]
    for _ in range(2):
        with pytest.raises(EvaluationError, match="failed to evaluate item 2 of cache") as caught:
            add_cache(range(9), 2, Stubborn({0: 0, 1: 1}))[2]
        assert str(caught.value.__cause__) == "read-only"
    assert view[1] == 1 and view[0] == 0


@pytest.mark.parametrize("cache", [None, {}])
def test_a_cache_that_nobody_knows_dies_at_once(cache):
    view = add_cache(smap(operator.neg, range(3)), 3, cache, max_bytes=10**6)
    assert list(view) == view.__getitems__([0, 1, 2]) == [0, -1, -2]
    known = weakref.ref(view)
    gc.disable()
    try:
        del view
        assert known() is None
    finally:
        gc.enable()


def test_the_end_of_an_unknown_length_is_no_miss():
    class Five:
        def __getitem__(self, i):
            if i >= 5:
                raise IndexError(i)
            return i

    view = add_cache(Five(), 9)
    assert list(view) == list(range(5)) and view.cache_info()[:2] == (0, 5)
    with pytest.raises(IndexError):
        view[7]
    assert view.cache_info()[:2] == (0, 5)


def test_iteration_of_what_is_kept_in_part_goes_on_with_its_prefetch():
    noted, calls = noting()
    with prefetch(smap(noted, range(600)), 2, max_buffered=20) as p:
        view = add_cache(p, 600)
        assert [view[i] for i in range(0, 600, 3)] == list(range(0, 600, 3))
        p[500]
        time.sleep(0.05)
        calls.clear()
        assert list(view) == list(range(600))
        time.sleep(0.05)
    assert len(calls) < 700


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("cache", [None, {}])
def test_a_child_that_is_forked_during_a_computation_computes_itself(cache):
    computing, release = threading.Event(), threading.Event()

    def slow(x):
        if os.getpid() == parent:
            computing.set()
            release.wait(60)
        return x

    parent = os.getpid()
    view = add_cache(smap(slow, range(3)), 3, cache)
    thread = threading.Thread(target=view.__getitem__, args=(1,))
    thread.start()
    computing.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if view[1] == 1 and view[2] == 2 else 1)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.005)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    release.set()
    thread.join()
    assert ended == (child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("cache", [None, {}])
def test_an_assignment_in_a_forked_child(cache):
    class Source(list):
        def __setitem__(self, i, value):
            view[i]
            super().__setitem__(i, value)

    view = add_cache(Source(["old"]), 2, cache)
    child = os.fork()
    if child == 0:
        view[0] = "new"
        os._exit(view[0] != "new")
    assert os.waitpid(child, 0) == (child, 0)


@pytest.mark.parametrize("read_while_used", ["__getitem__", "__setitem__", "__delitem__"])
def test_a_mapping_that_reads_its_cache(read_while_used):
    """Whoever uses the mapping does not wait for who wants to use it."""
    computing, waiting = threading.Event(), threading.Event()

    class Reading(dict):
        pass

    def use_and_read(self, key, *value):
        if key == 1 and computing.is_set() and not waiting.is_set():
            waiting.set()
            self.read = view[2]
        return getattr(dict, read_while_used)(self, key, *value)

    setattr(Reading, read_while_used, use_and_read)

    def slow(x):
        if x == 2 and not computing.is_set():
            computing.set()
            waiting.wait(10)
            time.sleep(0.05)
        return x

    mapping = Reading()
    view = add_cache(smap(slow, range(5)), 2, mapping)

    def late():
        dict.update(mapping, {1: 1} if read_while_used == "__getitem__" else {})
        if read_while_used == "__delitem__":
            assert [view[1], view[0]] == [1, 0]
        computing.wait(10)
        return [view[1], view[3], view[4]]

    assert run_all(lambda: view[2], late) == [2, [1, 3, 4]]
    assert waiting.is_set() and mapping.read == 2


@pytest.mark.parametrize("cache", [None, {2: 2}])
def test_a_sizeof_that_reads_its_cache(cache):
    computing, measuring = threading.Event(), threading.Event()

    def slow(x):
        if x == 1:
            computing.set()
            measuring.wait(10)
        return x

    def size(x):
        if x == 2:
            measuring.set()
            assert view[1] == 1
        return 1

    view = add_cache(smap(slow, range(5)), None, cache, max_bytes=10, sizeof=size)
    assert run_all(lambda: view[1], lambda: computing.wait(10) and view[2]) == [1, 2]
    assert view.cache_info().currbytes == 2


# ---- What a reviewer found ------------------------------------------------------------------------------------------


def test_items_of_a_batch_may_read_their_neighbours():
    shards = unbatch(smap(lambda k: [5 * k + j for j in range(5)], range(4)), 5)
    view = add_cache(smap(lambda x: x if x == 0 else view[x - 1] + 1, shards), 100)
    assert view.__getitems__([3, 1, 7]) == [3, 1, 7] and batch(view, 5)[3] == list(range(15, 20))
    selfish = add_cache(smap(lambda x: selfish[x], shards), 100)
    with pytest.raises(EvaluationError) as caught:
        selfish.__getitems__([1, 2])
    assert "item 1 reads itself" in repr(caught.value.__cause__)


@pytest.mark.parametrize("mapping", [collections.Counter(), collections.defaultdict(list)])
def test_mappings_that_answer_to_what_they_do_not_hold(mapping):
    view = add_cache(smap(str, range(5)), cache=mapping)
    assert list(view) == list("01234") and view.cache_info()[:2] == (0, 5)


def test_what_a_mapping_held_counts_for_the_bytes():
    view = add_cache(range(10), cache={i: i for i in range(10)}, max_bytes=3, sizeof=lambda x: 1)
    assert list(view) == list(range(10)) and view.cache_info().currbytes == 3
    huge = add_cache(range(10), cache={0: 0, 1: 1, 2: 2}, max_bytes=2**62, sizeof=lambda x: 2**62)
    assert list(huge) == list(range(10))


@pytest.mark.parametrize("cache", [None, {3: 3}])
@pytest.mark.parametrize("most", [2**62, 2**63 - 1])
@pytest.mark.parametrize("size", [2**60, 2**62 - 1, 2**63 - 1, 2**70])
def test_sizes_whose_sum_is_no_number_of_64_bits(cache, most, size):
    view = add_cache(range(20), cache=cache, max_bytes=most, sizeof=lambda x: size)
    assert list(view) == list(range(20))
    info = view.cache_info()
    assert info.currsize == (3 if size == 2**60 else 1) and 0 < info.currbytes <= most == info.max_bytes
