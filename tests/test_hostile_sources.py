"""Sources, functions and indices that lie, change, raise or call back: an error or a value, never a crash or a hang.

Run under a debug build of CPython and with ASan too.
"""

import collections
import gc
import itertools
import operator
import pickle
import sys
import threading

import pytest

from lazyseq import (
    add_cache,
    batch,
    case,
    collate,
    concatenate,
    cycle,
    gather,
    interleave,
    prefetch,
    repeat,
    smap,
    split,
    starmap,
    switch,
    unbatch,
    uniter,
)
from lazyseq.instrument import debug, monitor_throughput, tree


class Hostile:
    """A source made of two functions."""

    def __init__(self, size, item):
        self.size, self.item, self.view = size, item, None

    def __len__(self):
        return self.size()

    def __getitem__(self, i):
        return self.item(i)


class HostileMany(Hostile):
    """One that gives many items in one call, in its own way."""

    def __init__(self, size, item, many=lambda items: items):
        super().__init__(size, item)
        self.many = many

    def __getitems__(self, indices):
        return self.many([self.item(i) for i in indices])


def raising(error):
    def item(i):
        raise error

    return item


def changing(*values):
    """Another value at each call."""
    return itertools.cycle(values).__next__


def reentering(size, kind=Hostile):
    """Its item is an item of the view that reads it."""
    source = kind(lambda: size, lambda i: source.view[i])
    return source


def collecting(i):
    gc.collect(1)
    return i


def shrinking():
    """A list that loses its items while they are read: each is wanted by ==, by a function, or only held."""

    class Item(int):
        def __eq__(self, other):
            items.clear()
            return False

        __hash__ = int.__hash__

        def __neg__(self):
            items.clear()
            return self

        def __del__(self):
            items.clear()

    items = [Item(i) for i in range(6)]
    return items


SOURCES = {
    "longer than it says": lambda: Hostile(lambda: 2, list(range(9)).__getitem__),
    "shorter than it says": lambda: Hostile(lambda: 9, list(range(2)).__getitem__),
    "of a length below 0": lambda: Hostile(lambda: -1, int),
    "of the largest length": lambda: Hostile(lambda: 2**63 - 1, int),
    "of a length beyond 64 bits": lambda: Hostile(lambda: 2**63, int),
    "of a length that is a text": lambda: Hostile(lambda: "6", int),
    "of another length each time": lambda: Hostile(changing(6, 0, 3, 9, 1), int),
    "raising IndexError": lambda: Hostile(lambda: 6, raising(IndexError())),
    "raising StopIteration": lambda: Hostile(lambda: 6, raising(StopIteration(3))),
    "raising GeneratorExit": lambda: Hostile(lambda: 6, raising(GeneratorExit())),
    "raising KeyboardInterrupt": lambda: Hostile(lambda: 6, raising(KeyboardInterrupt())),
    "raising what cannot be made again": lambda: Hostile(
        lambda: 6, raising(UnicodeDecodeError("utf-8", b"", 0, 1, ""))
    ),
    "reading its reader": lambda: reentering(6),
    "collecting garbage": lambda: Hostile(lambda: 6, collecting),
    "giving None": lambda: Hostile(lambda: 6, lambda i: None),
    "giving NotImplemented": lambda: Hostile(lambda: 6, lambda i: NotImplemented),
    "giving itself": lambda: reentering_itself(),
    "giving views of the reader": lambda: views_of_the_reader(),
    "a list that shrinks": shrinking,
    "giving too few together": lambda: HostileMany(lambda: 6, int, lambda items: items[1:]),
    "giving None together": lambda: HostileMany(lambda: 6, int, lambda items: None),
    "giving a text together": lambda: HostileMany(lambda: 6, int, lambda items: "x" * len(items)),
    "giving changing lengths together": lambda: HostileMany(lambda: 6, int, lambda items: Hostile(changing(3, 1), int)),
    "raising KeyboardInterrupt together": lambda: HostileMany(lambda: 6, raising(KeyboardInterrupt())),
    "reading its reader together": lambda: reentering(6, HostileMany),
}


def reentering_itself():
    source = Hostile(lambda: 6, lambda i: ([source] * 6)[i])
    return source


def views_of_the_reader():
    source = Hostile(lambda: 6, lambda i: source.view[i:])
    return source


def selector(i):
    return i % 2


VIEWS = {
    "smap": lambda xs: smap(operator.neg, xs),
    "smap in C": lambda xs: smap(list, xs),
    "smap of a builtin": lambda xs: smap(sum, xs),
    "smap of the first": lambda xs: smap(operator.itemgetter(0), xs),
    "smap of two": lambda xs: smap(operator.eq, xs, xs),
    "starmap": lambda xs: starmap(operator.neg, xs),
    "collate": lambda xs: collate([xs, xs]),
    "concatenate": lambda xs: concatenate([xs, xs]),
    "gather": lambda xs: gather(xs, [1, 0]),
    "gather by it": lambda xs: gather(list(range(9)), smap(operator.neg, xs)),
    "batch": lambda xs: batch(xs, 4),
    "batch, collate_fn": lambda xs: batch(xs, 4, collate_fn=list, pad=0),
    "unbatch": lambda xs: unbatch(xs, 2),
    "unbatch, last": lambda xs: unbatch(xs, 2, 1),
    "split": lambda xs: split(xs, 2),
    "split at": lambda xs: split(xs, [1]),
    "interleave": lambda xs: interleave(xs, [1, 2], xs),
    "cycle": lambda xs: cycle(xs, 13),
    "unbounded cycle": lambda xs: cycle(xs),
    "repeat": lambda xs: repeat(xs, 3),
    "switch": lambda xs: switch(xs, xs, xs),
    "case": lambda xs: case(xs, xs, xs),
    "uniter": lambda xs: uniter(xs, cache_size=2),
    "cache": lambda xs: add_cache(xs, 2),
    "prefetch": lambda xs: prefetch(xs, nworkers=2, max_buffered=3),
    "debug": lambda xs: debug(xs, operator.eq),
    "monitor_throughput": lambda xs: monitor_throughput(xs),
    "slice": lambda xs: smap(operator.neg, xs)[1:5][::-1],
}

ACTS = {
    "iterate": lambda view: list(itertools.islice(view, 20)),
    "go back": lambda view: list(itertools.islice(reversed(view), 20)),
    "read": lambda view: [view[i] for i in range(4)],
    "read from the end": lambda view: view[-1],
    "slice": lambda view: list(view[1:8:2]),
    "gather": lambda view: list(view[[2, 0]]),
    "batch": lambda view: batch(view, 3)[0],
    "read together": lambda view: view.__getitems__([2, 0, 2]),
    "look for": lambda view: None in view[:9],
    "count": lambda view: view[:9].count(None),
    "len": len,
    "repr": repr,
    "tree": tree,
    "assign": lambda view: operator.setitem(view, 0, 1),
    "pickle": lambda view: pickle.loads(pickle.dumps(view)),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", VIEWS)
def test_nothing_crashes(kind, name):
    for act in ACTS.values():
        source, view = SOURCES[kind](), None
        try:
            view = VIEWS[name](source)
            if isinstance(source, Hostile):
                source.view = view
            act(view)
        except (Exception, GeneratorExit, KeyboardInterrupt) as error:
            assert not isinstance(error, SystemError)  # what CPython says of C code that broke its rules
        finally:
            if isinstance(source, Hostile):
                source.view = None  # a prefetch whose workers know their reader is never garbage
            if name == "prefetch" and view is not None:
                view.close()


def test_indices_that_lie():
    class Index:
        def __init__(self, value):
            self.value = value

        def __index__(self):
            items.clear()
            if isinstance(self.value, BaseException):
                raise self.value
            return self.value

    for value in (2, -3, 2**70, "2", None, OSError("no disk"), RecursionError()):
        for make in VIEWS.values():
            for act in (
                operator.getitem,
                lambda view, i: view[i:],
                lambda view, i: view[[i, 0]],
                lambda view, i: operator.setitem(view, i, 1),
                lambda view, i: view.index(0, i),
            ):
                items = [0, 1, 2, 3, 4, 5]
                try:
                    act(make(items), Index(value))
                except Exception as error:
                    assert not isinstance(error, SystemError)


def test_an_item_may_drop_its_view_and_the_iterator():
    holder = {}

    def drop(x):
        holder.clear()
        gc.collect()
        return x

    for make in VIEWS.values():
        holder["iterator"] = iter(make(smap(drop, [0, 1, 2, 3, 4, 5])))
        try:
            next(holder["iterator"])
        except Exception as error:
            assert not isinstance(error, SystemError)


@pytest.mark.parametrize("name", VIEWS)
def test_an_iterator_that_is_called_by_what_it_calls(name):
    def reenter(x):
        if holder and x in (0, 3):
            try:
                list(itertools.islice(holder[0], 50))
            finally:
                raise KeyError(x)
        return [x]

    for source in ((0, 1, 2, 3, 4, 5), [0, 1, 2, 3, 4, 5]):
        holder = []
        try:
            holder.append(iter(VIEWS[name](smap(reenter, source))))
        except Exception as error:
            assert not isinstance(error, SystemError)
        for _ in range(8):
            try:
                next(holder[0], None)
            except Exception as error:
                assert not isinstance(error, (SystemError, AttributeError))
        holder.clear()


@pytest.mark.parametrize("name", VIEWS)
def test_an_iterator_that_threads_share(name):
    if name == "unbounded cycle":
        return
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    unexpected = []

    def read():
        try:
            collections.deque(itertools.islice(iterator, 200), maxlen=0)
        except Exception as error:
            if isinstance(error, (SystemError, AttributeError)) or "NoneType" in str(error):
                unexpected.append(error)

    try:
        for _ in range(10):
            source = smap(lambda x: [x], list(range(100)))
            try:
                iterator = iter(VIEWS[name](source))
            except Exception:
                return  # this view takes another kind of items
            threads = [threading.Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert not unexpected
    finally:
        sys.setswitchinterval(interval)


def test_uniters_over_uniters_have_a_depth():
    view = [0, 1]
    with pytest.raises(RecursionError):
        for _ in range(2000):
            view = uniter(view, 0, 1, 2)


def test_a_view_is_made_once():
    view = concatenate([[1], [2]])
    with pytest.raises(TypeError, match="made once"):
        type(view).__init__(view, ([1],) * 100)
    assert list(view) == [1, 2]
