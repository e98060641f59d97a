"""Wrong calls: each says which argument, what it got and what was expected, when the call is made."""

import types

import numpy as np
import pytest

import lazyseq
from lazyseq import (
    SerializableFunc,
    add_cache,
    arange,
    batch,
    case,
    collate,
    concatenate,
    cycle,
    gather,
    guard,
    interleave,
    prefetch,
    repeat,
    seterr,
    smap,
    split,
    starmap,
    switch,
    unbatch,
    uniter,
)
from lazyseq.instrument import debug, monitor_throughput, tree

HUGE = 2**63
pandas_like = type("Series", (), {"__getitem__": None, "__len__": None, "__module__": "pandas.core.series"})()


class Unsized:
    def __getitem__(self, i):
        return i


WRONG = [
    # The function.
    (lambda: smap(None, [1]), TypeError, "smap: f must be callable, got None (NoneType)"),
    (lambda: starmap(3, [1]), TypeError, "starmap: f must be callable, got 3 (int)"),
    (lambda: batch([1], 2, collate_fn=3), TypeError, "batch: collate_fn must be callable, got 3 (int)"),
    (lambda: prefetch([1], start_hook=1), TypeError, "prefetch: start_hook must be callable, got 1 (int)"),
    # The source.
    (lambda: smap(abs), ValueError, "smap: at least one sequence must be given"),
    (lambda: smap(abs, 3), TypeError, "smap: sequences[0] must be a sequence, with a __getitem__, got 3 (int)"),
    (lambda: smap(abs, [], None), TypeError, "smap: sequences[1] must be a sequence, with a __getitem__, got None"),
    (lambda: smap(abs, {1}), TypeError, "smap: sequences[0] must be a sequence, with a __getitem__, got {1} (set)"),
    (lambda: smap(abs, iter([])), TypeError, "smap: sequences[0] must be a sequence, with a __getitem__, got <list_"),
    (lambda: smap(abs, list), TypeError, "smap: sequences[0] must be a sequence, with a __getitem__, got <class 'list'>"),
    (lambda: smap(abs, np.array(3)), TypeError, "smap: sequences[0] must be a sequence, with a __getitem__, got array(3)"),
    (lambda: smap(abs, {1: 2}), TypeError, "must be a sequence, not a mapping (use list(d.values())), got {1: 2} (dict)"),
    (lambda: smap(abs, types.MappingProxyType({})), TypeError, "must be a sequence, not a mapping"),
    (lambda: smap(abs, pandas_like), TypeError, "must be a sequence, not a pandas object (use .to_numpy()), got <"),
    (lambda: starmap(abs, 3), TypeError, "starmap: sequence must be a sequence, with a __getitem__, got 3 (int)"),
    (lambda: collate([[1], 2]), TypeError, "collate: sequences[1] must be a sequence, with a __getitem__, got 2 (int)"),
    (lambda: collate(3), TypeError, "collate: sequences must be an iterable of sequences, got 3 (int)"),
    (lambda: collate([]), ValueError, "collate: at least one sequence must be given"),
    (lambda: concatenate(None), TypeError, "concatenate: sequences must be an iterable of sequences, got None (NoneType)"),
    (lambda: concatenate([1]), TypeError, "concatenate: sequences[0] must be a sequence, with a __getitem__, got 1 (int)"),
    (lambda: gather(3, [1]), TypeError, "gather: sequence must be a sequence, with a __getitem__, got 3 (int)"),
    (lambda: batch(3, 1), TypeError, "batch: sequence must be a sequence, with a __getitem__, got 3 (int)"),
    (lambda: unbatch(3, 1), TypeError, "unbatch: sequence must be a sequence, with a __getitem__, got 3 (int)"),
    (lambda: add_cache(3), TypeError, "add_cache: arr must be a sequence, with a __getitem__, got 3 (int)"),
    (lambda: prefetch(3), TypeError, "prefetch: seq must be a sequence, with a __getitem__, got 3 (int)"),
    # Lengths.
    (lambda: smap(max, [1], [1, 2]), ValueError, "smap: sequences must have the same length, got lengths [1, 2]"),
    (lambda: collate([[1], [], Unsized()]), ValueError, "collate: sequences must have the same length, got lengths [1, 0, None]"),
    (lambda: concatenate([Unsized(), [1]]), TypeError, "concatenate: sequences[0] has no length, which only the last one may lack"),
    (lambda: concatenate([range(HUGE - 1), [1]]), OverflowError, f"concatenate: the sequences hold more than {HUGE - 1} items"),
    (lambda: len(unbatch(range(HUGE - 1), 2)), OverflowError, "unbatch: 9223372036854775807 batches of 2 items are more than"),
    # Counts.
    (lambda: batch([1], 0), ValueError, "batch: k must be at least 1, got 0 (int)"),
    (lambda: batch([1], -3), ValueError, "batch: k must be at least 1, got -3 (int)"),
    (lambda: batch([1], 2.0), TypeError, "batch: k must be an int, got 2.0 (float)"),
    (lambda: batch([1], None), TypeError, "batch: k must be an int, got None (NoneType)"),
    (lambda: batch([1], HUGE), OverflowError, "batch: k must be an int of 64 bits, got 9223372036854775808 (int)"),
    (lambda: unbatch([], 0), ValueError, "unbatch: batch_size must be at least 1, got 0 (int)"),
    (lambda: unbatch([], "3"), TypeError, "unbatch: batch_size must be an int, got '3' (str)"),
    (lambda: unbatch([], 3, 4), ValueError, "unbatch: last_batch_size must be at most batch_size, 3, got 4 (int)"),
    (lambda: unbatch([], 3, -1), ValueError, "unbatch: last_batch_size must be at least 0, got -1 (int)"),
    (lambda: unbatch([], 3, 1.5), TypeError, "unbatch: last_batch_size must be an int, got 1.5 (float)"),
    (lambda: add_cache([], -1), ValueError, "add_cache: cache_size must be at least 0, got -1 (int)"),
    (lambda: add_cache([], 1.5), TypeError, "add_cache: cache_size must be an int, got 1.5 (float)"),
    (lambda: add_cache([], max_bytes=-1), ValueError, "add_cache: max_bytes must be at least 0, got -1 (int)"),
    (lambda: add_cache([], max_bytes="1G"), TypeError, "add_cache: max_bytes must be an int, got '1G' (str)"),
    (lambda: add_cache([], max_bytes=9, sizeof=8), TypeError, "add_cache: sizeof must be callable, got 8 (int)"),
    (lambda: add_cache([], sizeof=len), ValueError, "add_cache: sizeof must be left out where there is no max_bytes"),
    (lambda: guard(3), TypeError, "guard: seq must be a sequence, with a __getitem__, got 3 (int)"),
    (lambda: guard([], retries=-1), ValueError, "guard: retries must be at least 0, got -1 (int)"),
    (lambda: guard([], retries=1.5), TypeError, "guard: retries must be an int, got 1.5 (float)"),
    (lambda: guard([], backoff="1"), TypeError, "guard: backoff must be a number, got '1' (str)"),
    (lambda: guard([], backoff=-1), ValueError, "guard: backoff must be from 0 to 86400 (seconds), got -1 (int)"),
    (lambda: guard([], backoff=float("nan")), ValueError, "guard: backoff must be from 0 to 86400 (seconds), got nan"),
    (lambda: guard([], on_error="skip"), ValueError, "guard: on_error must be 'raise', 'default' or 'neighbour', got 'skip'"),
    (lambda: guard([], on_error="neighbour", default=1), ValueError, "guard: default must be left out where on_error is 'nei"),
    (lambda: guard([], errors=OSError()), TypeError, "guard: errors must be an exception type, or a tuple of them, got OSE"),
    (lambda: guard([], errors=(OSError, 1)), TypeError, "guard: errors must be an exception type, or a tuple of them, got ("),
    (lambda: guard([], errors=()), ValueError, "guard: errors must be at least one exception type, got () (tuple)"),
    (lambda: guard([], default=dict), TypeError, "guard: default must be a value, or a function of index and error (of a class: lambda i, error: ...), got <class 'dict'> (type)"),
    (lambda: guard([], budget=-1), ValueError, "guard: budget must be at least 0, got -1 (int)"),
    (lambda: guard([], budget=1.5), ValueError, "guard: budget must be a fraction from 0 to 1, or an int, got 1.5 (float)"),
    (lambda: guard([], budget="1%"), TypeError, "guard: budget must be an int, a float or None, got '1%' (str)"),
    (lambda: add_cache([], cache=[]), TypeError, "add_cache: cache must be a mutable mapping, got [] (list)"),
    (lambda: add_cache([], 1, types.MappingProxyType({})), TypeError, "add_cache: cache must be a mutable mapping"),
    # The rest of the functions.
    (lambda: arange(1.0), TypeError, "arange: stop must be an int, got 1.0 (float)"),
    (lambda: arange(0, 5, 0), ValueError, "range() arg 3 must not be zero"),
    (lambda: arange(HUGE), OverflowError, "arange: stop must be an int of 64 bits, got 9223372036854775808 (int)"),
    (lambda: cycle(3), TypeError, "cycle: sequence must be a sequence, with a __getitem__, got 3 (int)"),
    (lambda: cycle([]), ValueError, "cycle: sequence must be not empty, got [] (list)"),
    (lambda: cycle([], 3), ValueError, "cycle: sequence must be not empty, got [] (list)"),
    (lambda: cycle(Unsized()), TypeError, "cycle: sequence must be of known length, got <"),
    (lambda: cycle([1], -1), ValueError, "cycle: limit must be at least 0, got -1 (int)"),
    (lambda: cycle([1], 2.5), TypeError, "cycle: limit must be an int, got 2.5 (float)"),
    (lambda: repeat(1, -1), ValueError, "repeat: times must be at least 0, got -1 (int)"),
    (lambda: repeat(1, "2"), TypeError, "repeat: times must be an int, got '2' (str)"),
    (lambda: repeat(1)[-1], IndexError, "repeat index -1 counts from the end, but the length is unknown"),
    (lambda: repeat(1).__setitem__(slice(None), [1]), ValueError, "it is not known how many items slice(None, None, None) means"),
    (lambda: len(cycle([1])), TypeError, "cycle has no length: that of its source is unknown or unbounded"),
    (lambda: cycle([1])[:-1], IndexError, "cycle slice slice(None, -1, None) counts from the end, but the length is unknown"),
    (lambda: interleave([1], 2), TypeError, "interleave: sequences[1] must be a sequence, with a __getitem__, got 2 (int)"),
    (lambda: interleave(range(HUGE - 1), [1]), OverflowError, "interleave: the sequences hold more than 9223372036854775807 items"),
    (lambda: switch(3, [], []), TypeError, "switch: condition must be a sequence, with a __getitem__, got 3 (int)"),
    (lambda: switch([], [], None), TypeError, "switch: y must be a sequence, with a __getitem__, got None (NoneType)"),
    (lambda: switch([1], [1], []), ValueError, "switch: sequences must have the same length, got lengths [1, 1, 0]"),
    (lambda: case([0]), ValueError, "case: at least one sequence must be given"),
    (lambda: case(0, [1]), TypeError, "case: selector must be a sequence, with a __getitem__, got 0 (int)"),
    (lambda: case([0], [1, 2]), ValueError, "case: sequences must have the same length, got lengths [1, 2]"),
    (lambda: split([1, 2, 3], 1), ValueError, "split: edges must cut 3 items into equal pieces, got 1 (2 pieces)"),
    (lambda: split([1], -1), ValueError, "split: edges must be at least 0, got -1 (int)"),
    (lambda: split([1], 1.5), TypeError, "split: edges must be an int, a sequence of ints, or one of (start, stop) pairs, got 1.5"),
    (lambda: split([1], ["a"]), TypeError, "split: edges must be an int, a sequence of ints, or one of (start, stop) pairs, got ['a']"),
    (lambda: split([1], [(1, 2, 3)]), TypeError, "split: edges must be an int, a sequence of ints, or one of"),
    (lambda: split(Unsized(), 1), TypeError, "split: sequence must be of known length, got <"),
    (lambda: uniter(3), TypeError, "uniter: iterable must be iterable, got 3 (int)"),
    (lambda: uniter([], -1), ValueError, "uniter: cache_size must be at least 0, got -1 (int)"),
    (lambda: uniter([], 1, 0), ValueError, "uniter: n_parallel must be at least 1, got 0 (int)"),
    (lambda: uniter([], size=1.5), TypeError, "uniter: size must be an int, got 1.5 (float)"),
    (lambda: SerializableFunc(3), TypeError, "SerializableFunc: func must be a Python function, got 3"),
    (lambda: debug(3, print), TypeError, "debug: sequence must be a sequence, with a __getitem__, got 3 (int)"),
    (lambda: debug([], 3), TypeError, "debug: func must be callable, got 3 (int)"),
    (lambda: debug([], print, -1), ValueError, "debug: max_calls must be at least 0, got -1 (int)"),
    (lambda: debug([], print, max_rate=0), ValueError, "debug: max_rate must be above 0, got 0 (int)"),
    (lambda: debug([], print, max_rate="1"), TypeError, "debug: max_rate must be a number, got '1' (str)"),
    (lambda: monitor_throughput(3), TypeError, "monitor_throughput: sequence must be a sequence, with a __getitem__"),
    (lambda: tree([1]), TypeError, "tree: view must be a view, got [1] (list)"),
    # Prefetch.
    (lambda: prefetch([], 1.5), TypeError, "prefetch: nworkers must be an int or None, got 1.5 (float)"),
    (lambda: prefetch([], 4096), ValueError, "prefetch: nworkers must be at most 4095, got 4096 (int)"),
    (lambda: prefetch([], 1, "process", shm_size=10**18), ValueError, "prefetch: shm_size must be no more bytes than there is memory, got 1000000000000000000 (int)"),
    (lambda: prefetch([], 1, "process", mp_context=3), ValueError, "prefetch: mp_context must be a context or its name, 'fork' or 'spawn' or 'forkserver', got 3 (int)"),
    (lambda: prefetch([], 1, "process", mp_context="knife"), ValueError, "prefetch: mp_context must be a context or its name, 'fork' or 'spawn' or 'forkserver', got 'knife' (str)"),
    (lambda: prefetch([], 1, "fibre"), ValueError, "prefetch: method must be 'thread' or 'process', got 'fibre' (str)"),
    (lambda: prefetch([], max_buffered=0), ValueError, "prefetch: max_buffered must be at least 1, got 0 (int)"),
    (lambda: prefetch([], max_buffered="9"), TypeError, "prefetch: max_buffered must be an int, got '9' (str)"),
    (lambda: prefetch([], timeout="1"), TypeError, "prefetch: timeout must be a number, got '1' (str)"),
    (lambda: prefetch([], timeout=0), ValueError, "prefetch: timeout must be above 0, got 0 (int)"),
    (lambda: prefetch([], timeout=float("nan")), ValueError, "prefetch: timeout must be above 0, got nan (float)"),
    (lambda: prefetch([], shm_size=-1), ValueError, "prefetch: shm_size must be at least 0, got -1 (int)"),
    (lambda: prefetch([1], 1, max_buffered=2**62)[0], MemoryError, "prefetch: no memory for max_buffered=4611686018427387904"),
    # Indices.
    (lambda: gather("ab", [1.0]), TypeError, "gather: indexes must be integers, got float64 values: [1.0]"),
    (lambda: gather("ab", [True, False]), TypeError, "gather: indexes must be integers, got booleans: to select by a mask write"),
    (lambda: gather("ab", [[0], [1]]), TypeError, "gather: indexes must have one dimension, got an array of shape (2, 1)"),
    (lambda: gather("ab", ["a"]), TypeError, "gather: indexes must be integers, got <U1 values: ['a']"),
    (lambda: gather("ab", "ab"), TypeError, "gather: indexes must be integers, got a string: 'ab'"),
    (lambda: gather("ab", [None]), TypeError, "gather: indexes must hold integers: "),
    (lambda: gather("ab", [HUGE]), IndexError, "gather: indexes: 9223372036854775808 is out of range of any sequence"),
    (lambda: gather("ab", 1), TypeError, "gather: indexes must be a sequence, with a __getitem__, got 1 (int)"),
    (lambda: gather("ab", [2])[0], IndexError, "gather: index 2 is out of range for the 2 items of its source"),
    (lambda: smap(abs, [1])[1.0], TypeError, "smap(abs) indices must be integers, slices, index arrays or boolean masks, not float: 1.0"),
    (lambda: smap(abs, [1])[None], TypeError, "not NoneType: None"),
    (lambda: smap(abs, [1])["a"], TypeError, "smap(abs) indices must be integers, got a string: 'a'"),
    (lambda: smap(abs, [1])[0, 0], TypeError, "not tuple: (0, 0)"),
    (lambda: smap(abs, [1])[[0.5]], TypeError, "smap(abs) indices must be integers, got float64 values: [0.5]"),
    (lambda: smap(abs, [1])[1], IndexError, "smap(abs) index 1 is out of range for 1 items"),
    (lambda: smap(abs, [1])[-2], IndexError, "smap(abs) index -2 is out of range for 1 items"),
    (lambda: smap(abs, [1])[::0], ValueError, "slice step cannot be zero"),
    (lambda: smap(abs, [1])[[True, False]], IndexError, "a mask of 2 values does not fit the <lazyseq smap(abs) of 1 item>"),
    (lambda: smap(abs, [1]).__setitem__(0, 1), TypeError, "smap(abs) does not support item assignment"),
    (lambda: smap(abs, [1]).__delitem__(0), TypeError, "smap(abs) does not support item deletion"),
    (lambda: concatenate([[1, 2]]).__setitem__(slice(2), [1]), ValueError, "concatenate only supports one-to-one assignment: 1 values for 2 items"),
    (lambda: concatenate([[1, 2]]).__setitem__(slice(2), 1), TypeError, "'int' object is not iterable"),
    (lambda: seterr("loud"), ValueError, "seterr: evaluation must be 'wrap', 'passthrough' or None, got 'loud'"),
    (lambda: np.asarray(smap(abs, [1]), copy=False), ValueError, "smap(abs) computes its items: an array of them is always a copy"),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(WRONG)))
def test_a_wrong_call(k):
    call, error, text = WRONG[k]
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
    assert type(caught.value) is error


def test_a_source_whose_length_raises():
    class Sick:
        def __getitem__(self, i):
            return i

        def __len__(self):
            raise OSError("no disk")

    for make in (lambda s: smap(abs, s), lambda s: add_cache(s), lambda s: prefetch(s, 1), lambda s: batch(s, 2)):
        view = make(Sick())
        assert "a length that raises OSError" in repr(view)
        with pytest.raises(OSError, match="no disk"):
            len(view)
        with pytest.raises(OSError, match="no disk"):
            view[0]
        with pytest.raises(OSError, match="no disk"):
            next(iter(view))


def test_sources_that_lie():
    class Liar:
        def __init__(self, length, item=lambda i: i):
            self.length, self.item = length, item

        def __len__(self):
            return self.length

        def __getitem__(self, i):
            return self.item(i)

    view = lazyseq.concatenate([Liar(3), Liar(2)])
    view.sequences[0].length = 0
    assert [view[i] for i in range(5)] == [0, 1, 2, 0, 1]
    for length in (-1, HUGE, "3", None):
        with pytest.raises((ValueError, OverflowError, IndexError, TypeError)):
            len(smap(abs, Liar(length)))
    with pytest.raises(lazyseq.EvaluationError):
        unbatch(Liar(3, lambda i: None), 2)[1]
