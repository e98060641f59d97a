"""What type checkers must find out, of right calls of every function; nothing here runs."""

import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, assert_type

import numpy as np
import numpy.typing as npt

import lazyseq
from lazyseq import View, instrument
from lazyseq._core import (
    Arange,
    Batch,
    Cache,
    Case,
    Collate,
    Concatenate,
    Cycle,
    Gather,
    Guard,
    Interleave,
    LazyGather,
    Monitor,
    Repeat,
    Smap,
    SmapN,
    Split,
    Starmap,
    Switch,
    Unbatch,
    Uniter,
)
from lazyseq._engine import Prefetch

Floats = npt.NDArray[np.float32]


class Squares:
    """The least that a source can be."""

    def __getitem__(self, i: int) -> float:
        return i * i


class Sample(NamedTuple):
    name: str
    label: int


class Dataset:
    """As PyTorch has them."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: Any) -> Sample:
        return Sample(str(index), index)


def area(width: int, height: float) -> float:
    return width * height


def views(view: View[int], words: View[str], floats: Floats, mask: npt.NDArray[np.bool_]) -> None:
    assert_type(view[0], int)
    assert_type(view[np.int64(2)], int)
    assert_type(view[1:], View[int])
    assert_type(view[[0, 2]], View[int])
    assert_type(view[[True, False]], View[int])
    assert_type(view[np.array([0, 2])], View[int])
    assert_type(view[mask], View[int])
    assert_type(view[range(3)], View[int])
    assert_type(view[view], View[int])
    assert_type(len(view), int)
    assert_type(iter(view), Iterator[int])
    assert_type(reversed(view), Iterator[int])
    assert_type(3 in view, bool)
    assert_type(view.index(3), int)
    assert_type(view.index(3, 1, None), int)
    assert_type(view.count(3), int)
    assert_type(list(view), list[int])
    assert_type([word.upper() for word in words], list[str])
    assert_type(view.stage, str)
    assert_type(view.children, tuple[Any, ...])
    assert_type(view.bulk, Literal["block", "items"] | None)
    assert_type(view.__getitems__([0, 2]), list[int])
    view[0] = 1
    view[np.int64(0)] = 1
    view[1:3] = [1, 2]
    view[[0, 1]] = range(2)
    view[mask] = floats
    array: npt.NDArray[Any] = np.asarray(view)
    np.stack([array])
    sequence: Sequence[float] = view
    wider: View[float] = view
    print(sequence, wider, {view: 1})


def sources(ints: list[int], pair: tuple[int, str], floats: Floats) -> None:
    assert_type(lazyseq.take(ints, [0]), Gather[int] | LazyGather[int])
    assert_type(lazyseq.take(pair, [0]), Gather[int | str] | LazyGather[int | str])
    assert_type(lazyseq.take("abc", [0]), Gather[str] | LazyGather[str])
    assert_type(lazyseq.take(b"abc", [0]), Gather[int] | LazyGather[int])
    assert_type(lazyseq.take(range(3), [0]), Gather[int] | LazyGather[int])
    assert_type(lazyseq.take(array.array("d"), [0]), Gather[float] | LazyGather[float])
    assert_type(lazyseq.take(Squares(), [0]), Gather[float] | LazyGather[float])
    assert_type(lazyseq.take(Dataset(), [0]), Gather[Sample] | LazyGather[Sample])
    assert_type(lazyseq.take(floats, [0]), Gather[Any] | LazyGather[Any])
    assert_type(lazyseq.take(lazyseq.take(ints, [0]), [0]), Gather[int] | LazyGather[int])


def mapping(ints: list[int], words: list[str], floats: Floats, parts: list[list[int]]) -> None:
    assert_type(lazyseq.smap(len, words), Smap[int])
    assert_type(lazyseq.smap(str.upper, words), Smap[str])
    assert_type(lazyseq.smap(str, ints), Smap[str])
    assert_type(lazyseq.smap(lambda x: x * 2.0, ints), Smap[float])
    assert_type(lazyseq.smap(lambda x: x + 1, lazyseq.smap(len, words)), Smap[int])
    assert_type(lazyseq.smap(lambda sample: sample.label, Dataset()), Smap[int])
    assert_type(lazyseq.smap(np.sqrt, floats), Smap[Any])
    assert_type(lazyseq.smap(area, ints, ints), SmapN[float])
    assert_type(lazyseq.smap(area, ints, Squares()), SmapN[float])
    assert_type(lazyseq.smap(lambda x, y: (x, y), ints, words), SmapN[tuple[int, str]])
    assert_type(lazyseq.smap(lambda x, y, z: (x, z), ints, words, ints), SmapN[tuple[int, int]])
    assert_type(lazyseq.smap(lambda w, x, y, z: (w, x), ints, words, ints, ints), SmapN[tuple[int, str]])
    assert_type(lazyseq.smap(lambda *args: str(args), ints, ints, ints, ints, ints, ints), SmapN[str])
    assert_type(lazyseq.smap(area, *parts), SmapN[float])

    assert_type(lazyseq.starmap(area, [(1, 2.0)]), Starmap[float])
    assert_type(lazyseq.starmap(area, lazyseq.collate((ints, Squares()))), Starmap[float])
    assert_type(lazyseq.starmap(area, lazyseq.collate([ints, Squares()])), Starmap[float])
    assert_type(lazyseq.starmap(area, lazyseq.smap(tuple, parts)), Starmap[float])
    assert_type(lazyseq.starmap(area, parts), Starmap[float])
    assert_type(lazyseq.starmap(area, np.zeros((3, 2))), Starmap[float])
    lazyseq.starmap(lambda x, y: (y, x), lazyseq.collate((ints, words)))
    lazyseq.starmap(lambda name, label: label, Dataset())


def indexing(ints: list[int], words: list[str], floats: Floats, lines: Iterable[str]) -> None:
    assert_type(lazyseq.arange(3), Arange)
    assert_type(lazyseq.arange(3, 9, np.int64(2)), Arange)
    assert_type(lazyseq.cycle(words), Cycle[str])
    assert_type(lazyseq.cycle(words, 5), Cycle[str])
    assert_type(lazyseq.interleave(words, "abc"), Interleave[str])
    assert_type(lazyseq.repeat("x"), Repeat[str])
    assert_type(lazyseq.repeat(ints, 3), Repeat[list[int]])
    assert_type(lazyseq.switch([True, False], ints, ints), Switch[int])
    assert_type(lazyseq.switch(floats, ints, words), Switch[int | str])
    assert_type(lazyseq.case([0, 1], words, "ab"), Case[str])
    assert_type(lazyseq.case(floats, words), Case[str])
    assert_type(lazyseq.uniter(lines), Uniter[str])
    assert_type(lazyseq.uniter(Squares(), cache_size=2, n_parallel=2, size=9), Uniter[float])
    assert_type(lazyseq.gather(words, [0, -1]), Gather[str] | LazyGather[str])
    assert_type(lazyseq.gather(words, np.array([0])), Gather[str] | LazyGather[str])
    assert_type(lazyseq.gather(words, lazyseq.arange(3)), Gather[str] | LazyGather[str])
    assert_type(lazyseq.take(words, range(2)), Gather[str] | LazyGather[str])


def properties(ints: list[int], words: list[str]) -> None:
    assert_type(lazyseq.gather(words, [0, -1]).indexes, list[int])
    assert_type(lazyseq.take(words, range(2)).indexes, list[int])
    assert_type(lazyseq.concatenate([ints, ints]).sequences, list[Any])
    assert_type(lazyseq.collate((ints, words)).sequences, list[Any])
    assert_type(lazyseq.interleave(ints, ints).sequences, list[Any])
    assert_type(lazyseq.smap(len, words).sequences, list[Any])
    assert_type(lazyseq.smap(area, ints, ints).sequences, list[Any])
    assert_type(lazyseq.starmap(area, [(1, 2.0)]).f(1, 2.0), float)
    view: View[str] = lazyseq.gather(words, [0])
    print(view)


def shape(ints: list[int], words: list[str], floats: Floats, batches: list[Floats]) -> None:
    assert_type(lazyseq.collate((ints,)), Collate[tuple[int]])
    assert_type(lazyseq.collate((ints, words)), Collate[tuple[int, str]])
    assert_type(lazyseq.collate((ints, floats, words)), Collate[tuple[int, Any, str]])
    assert_type(lazyseq.collate((ints, words, ints, Squares())), Collate[tuple[int, str, int, float]])
    assert_type(lazyseq.collate([ints, floats, Squares(), words]), Collate[tuple[Any, ...]])
    assert_type(lazyseq.collate([words] * 9), Collate[tuple[Any, ...]])
    assert_type(lazyseq.concatenate([ints, range(3), (7,)]), Concatenate[int])
    assert_type(lazyseq.concatenate(lazyseq.split(words, 3)), Concatenate[str])
    lazyseq.concatenate([ints, floats, Squares(), words])

    assert_type(lazyseq.batch(words, 2), Batch[list[str]])
    assert_type(lazyseq.batch(words, 2, True), Batch[list[str]])
    assert_type(lazyseq.batch(words, np.int64(2), pad=""), Batch[list[str]])
    assert_type(lazyseq.batch(words, 2, False, 0), Batch[list[str | int]])
    assert_type(lazyseq.batch(ints, 2, collate_fn=sum), Batch[int])
    assert_type(lazyseq.batch(words, 2, collate_fn="".join), Batch[str])
    assert_type(lazyseq.batch(words, 2, False, None, len), Batch[int])
    assert_type(lazyseq.batch(words, 2, pad="", collate_fn=lambda group: group[0]), Batch[str])
    assert_type(lazyseq.batch(batches, 2, collate_fn=np.stack), Batch[npt.NDArray[np.float32]])

    assert_type(lazyseq.unbatch([ints, ints], 2), Unbatch[int])
    assert_type(lazyseq.unbatch(lazyseq.batch(words, 2), 2, last_batch_size=1), Unbatch[str])
    assert_type(lazyseq.unbatch(batches, 2), Unbatch[Any])

    assert_type(lazyseq.split("abc", 2), Split[str])
    assert_type(lazyseq.split(ints, [1, 2]), Split[list[int]])
    assert_type(lazyseq.split((1, 2, 3), [(0, 2), (1, 3)]), Split[tuple[int, ...]])
    assert_type(lazyseq.split(range(3), np.array([1])), Split[range])
    assert_type(lazyseq.split(floats, [1]), Split[Floats])
    assert_type(lazyseq.split(lazyseq.arange(9), 2), Split[View[int]])
    assert_type(lazyseq.split(Dataset(), [[0, 2]]), Split[Sequence[Sample]])


def buffering_and_evaluation(words: list[str]) -> None:
    assert_type(lazyseq.add_cache(words), Cache[str])
    assert_type(lazyseq.add_cache(words, 3, cache={}), Cache[str])
    cache = lazyseq.add_cache(words, max_bytes=10**9, sizeof=len)
    assert_type(cache[0], str)
    assert_type(cache.cache_info().hits, int)
    cache.cache_clear()
    guarded = lazyseq.guard(words, retries=2, default=lambda i, error: "", errors=(OSError, ValueError), budget=0.01)
    assert_type(guarded, Guard[str])
    assert_type(guarded.failures, list[tuple[int, BaseException]])
    assert_type(lazyseq.prefetch(words), Prefetch[str])
    with lazyseq.prefetch(Dataset(), nworkers=2, max_buffered=8, start_hook=lambda worker: print(worker)) as ready:
        assert_type(ready, Prefetch[Sample])
        assert_type(ready[0], Sample)
        assert_type(ready[1:], Prefetch[Sample])
        assert_type(ready[[1, 2]], Prefetch[Sample])
        assert_type(dict(ready.as_completed()), dict[int, Sample])
        assert_type([sample.label for sample in ready], list[int])
        assert_type(ready.nworkers, int)
        assert_type(ready.max_buffered, int)
    ready.close()
    lazyseq.prefetch(words, -1, "thread", start_hook=print, shm_size=0)
    lazyseq.prefetch(words, start_hook=lambda: None)
    lazyseq.prefetch(words, timeout=1)


@lazyseq.SerializableFunc
def double(x: int, times: int = 2) -> str:
    return str(times * x)


def errors_and_functions() -> None:
    assert_type(double(2, times=3), str)
    assert_type(lazyseq.smap(double, [1, 2]), Smap[str])
    assert_type(lazyseq.seterr(), Literal["wrap", "passthrough"])
    assert_type(lazyseq.seterr("passthrough"), Literal["wrap", "passthrough"])
    try:
        lazyseq.seterr(evaluation="wrap")
    except lazyseq.EvaluationError as error:
        assert_type(error.index, int | None)
        assert_type(error.stage, str | None)
    raise lazyseq.EvaluationError("an item failed", index=3, stage="smap(f)")


def instruments(words: list[str]) -> None:
    def show(i: int, word: str) -> None:
        print(i, word)

    assert_type(instrument.debug(words, show), View[str])
    assert_type(instrument.debug(words, print, max_calls=3, max_rate=0.5), View[str])
    assert_type(instrument.debug(words, lambda i, word: word.upper()), View[str])
    monitored = instrument.monitor_throughput(words)
    assert_type(monitored, Monitor[str])
    assert_type(monitored[0], str)
    assert_type(monitored.read_delay(), float)
    assert_type(monitored.throughput(), float)
    monitored.reset()
    instrument.tree(monitored)
