"""What type checkers must find out, of right calls of every function; nothing here runs."""

import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, assert_type

import numpy as np
import numpy.typing as npt

import lazyseq
from lazyseq import View, instrument
from lazyseq._core import Cache, Guard, Monitor
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
    assert_type(lazyseq.take(ints, [0]), View[int])
    assert_type(lazyseq.take(pair, [0]), View[int | str])
    assert_type(lazyseq.take("abc", [0]), View[str])
    assert_type(lazyseq.take(b"abc", [0]), View[int])
    assert_type(lazyseq.take(range(3), [0]), View[int])
    assert_type(lazyseq.take(array.array("d"), [0]), View[float])
    assert_type(lazyseq.take(Squares(), [0]), View[float])
    assert_type(lazyseq.take(Dataset(), [0]), View[Sample])
    assert_type(lazyseq.take(floats, [0]), View[Any])
    assert_type(lazyseq.take(lazyseq.take(ints, [0]), [0]), View[int])


def mapping(ints: list[int], words: list[str], floats: Floats, parts: list[list[int]]) -> None:
    assert_type(lazyseq.smap(len, words), View[int])
    assert_type(lazyseq.smap(str.upper, words), View[str])
    assert_type(lazyseq.smap(str, ints), View[str])
    assert_type(lazyseq.smap(lambda x: x * 2.0, ints), View[float])
    assert_type(lazyseq.smap(lambda x: x + 1, lazyseq.smap(len, words)), View[int])
    assert_type(lazyseq.smap(lambda sample: sample.label, Dataset()), View[int])
    assert_type(lazyseq.smap(np.sqrt, floats), View[Any])
    assert_type(lazyseq.smap(area, ints, ints), View[float])
    assert_type(lazyseq.smap(area, ints, Squares()), View[float])
    assert_type(lazyseq.smap(lambda x, y: (x, y), ints, words), View[tuple[int, str]])
    assert_type(lazyseq.smap(lambda x, y, z: (x, z), ints, words, ints), View[tuple[int, int]])
    assert_type(lazyseq.smap(lambda w, x, y, z: (w, x), ints, words, ints, ints), View[tuple[int, str]])
    assert_type(lazyseq.smap(lambda *args: str(args), ints, ints, ints, ints, ints, ints), View[str])
    assert_type(lazyseq.smap(area, *parts), View[float])

    assert_type(lazyseq.starmap(area, [(1, 2.0)]), View[float])
    assert_type(lazyseq.starmap(area, lazyseq.collate((ints, Squares()))), View[float])
    assert_type(lazyseq.starmap(area, lazyseq.collate([ints, Squares()])), View[float])
    assert_type(lazyseq.starmap(area, lazyseq.smap(tuple, parts)), View[float])
    assert_type(lazyseq.starmap(area, parts), View[float])
    assert_type(lazyseq.starmap(area, np.zeros((3, 2))), View[float])
    lazyseq.starmap(lambda x, y: (y, x), lazyseq.collate((ints, words)))
    lazyseq.starmap(lambda name, label: label, Dataset())


def indexing(ints: list[int], words: list[str], floats: Floats, lines: Iterable[str]) -> None:
    assert_type(lazyseq.arange(3), View[int])
    assert_type(lazyseq.arange(3, 9, np.int64(2)), View[int])
    assert_type(lazyseq.cycle(words), View[str])
    assert_type(lazyseq.cycle(words, 5), View[str])
    assert_type(lazyseq.interleave(words, "abc"), View[str])
    assert_type(lazyseq.repeat("x"), View[str])
    assert_type(lazyseq.repeat(ints, 3), View[list[int]])
    assert_type(lazyseq.switch([True, False], ints, ints), View[int])
    assert_type(lazyseq.switch(floats, ints, words), View[int | str])
    assert_type(lazyseq.case([0, 1], words, "ab"), View[str])
    assert_type(lazyseq.case(floats, words), View[str])
    assert_type(lazyseq.uniter(lines), View[str])
    assert_type(lazyseq.uniter(Squares(), cache_size=2, n_parallel=2, size=9), View[float])
    assert_type(lazyseq.gather(words, [0, -1]), View[str])
    assert_type(lazyseq.gather(words, np.array([0])), View[str])
    assert_type(lazyseq.gather(words, lazyseq.arange(3)), View[str])
    assert_type(lazyseq.take(words, range(2)), View[str])


def shape(ints: list[int], words: list[str], floats: Floats, batches: list[Floats]) -> None:
    assert_type(lazyseq.collate((ints,)), View[tuple[int]])
    assert_type(lazyseq.collate((ints, words)), View[tuple[int, str]])
    assert_type(lazyseq.collate((ints, floats, words)), View[tuple[int, Any, str]])
    assert_type(lazyseq.collate((ints, words, ints, Squares())), View[tuple[int, str, int, float]])
    assert_type(lazyseq.collate([ints, floats, Squares(), words]), View[tuple[Any, ...]])
    assert_type(lazyseq.collate([words] * 9), View[tuple[Any, ...]])
    assert_type(lazyseq.concatenate([ints, range(3), (7,)]), View[int])
    assert_type(lazyseq.concatenate(lazyseq.split(words, 3)), View[str])
    lazyseq.concatenate([ints, floats, Squares(), words])

    assert_type(lazyseq.batch(words, 2), View[list[str]])
    assert_type(lazyseq.batch(words, 2, True), View[list[str]])
    assert_type(lazyseq.batch(words, np.int64(2), pad=""), View[list[str]])
    assert_type(lazyseq.batch(words, 2, False, 0), View[list[str | int]])
    assert_type(lazyseq.batch(ints, 2, collate_fn=sum), View[int])
    assert_type(lazyseq.batch(words, 2, collate_fn="".join), View[str])
    assert_type(lazyseq.batch(words, 2, False, None, len), View[int])
    assert_type(lazyseq.batch(words, 2, pad="", collate_fn=lambda group: group[0]), View[str])
    assert_type(lazyseq.batch(batches, 2, collate_fn=np.stack), View[npt.NDArray[np.float32]])

    assert_type(lazyseq.unbatch([ints, ints], 2), View[int])
    assert_type(lazyseq.unbatch(lazyseq.batch(words, 2), 2, last_batch_size=1), View[str])
    assert_type(lazyseq.unbatch(batches, 2), View[Any])

    assert_type(lazyseq.split("abc", 2), View[str])
    assert_type(lazyseq.split(ints, [1, 2]), View[list[int]])
    assert_type(lazyseq.split((1, 2, 3), [(0, 2), (1, 3)]), View[tuple[int, ...]])
    assert_type(lazyseq.split(range(3), np.array([1])), View[range])
    assert_type(lazyseq.split(floats, [1]), View[Floats])
    assert_type(lazyseq.split(lazyseq.arange(9), 2), View[View[int]])
    assert_type(lazyseq.split(Dataset(), [[0, 2]]), View[Sequence[Sample]])


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
    assert_type(lazyseq.smap(double, [1, 2]), View[str])
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
