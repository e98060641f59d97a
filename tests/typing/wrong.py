"""What type checkers must find wrong: a comment that ignores no error is an error itself; nothing here runs."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Iterator

import lazyseq
from lazyseq import instrument
from lazyseq._core import View


def area(width: int, height: float) -> float:
    return width * height


class Stream:
    """Has an iterator, and no items by index."""

    def __iter__(self) -> Iterator[int]:
        return iter([])


ints = [1, 2, 3]
words = ["a", "b", "c"]
view = lazyseq.smap(len, words)


def views() -> None:
    view["a"]  # type: ignore[call-overload]
    view[0.5]  # type: ignore[call-overload]
    view[words]  # type: ignore[index]
    view[0].upper()  # type: ignore[attr-defined]
    view[1:].upper()  # type: ignore[attr-defined]
    view[1:2] = 3  # type: ignore[call-overload]
    view.append(3)  # type: ignore[attr-defined]
    view.stage = "smap"  # type: ignore[misc]
    del view[0]  # type: ignore[attr-defined]
    view + view  # type: ignore[operator]
    strings: View[str] = view  # type: ignore[assignment]
    print(strings)


def mapping() -> None:
    lazyseq.smap(3, ints)  # type: ignore[call-overload]
    lazyseq.smap(len)  # type: ignore[call-overload]
    lazyseq.smap(len, ints)  # type: ignore[arg-type]
    lazyseq.smap(len, Stream())  # type: ignore[call-overload]
    lazyseq.smap(len, {1, 2})  # type: ignore[call-overload]
    lazyseq.smap(area, ints)  # type: ignore[arg-type]
    lazyseq.smap(area, words, ints)  # type: ignore[arg-type]
    lazyseq.smap(lambda word: word.upper(), ints)  # type: ignore[attr-defined]
    lazyseq.starmap(area, [("a", 1)])  # type: ignore[arg-type]
    lazyseq.starmap(area, lazyseq.collate((ints, words)))  # type: ignore[arg-type]
    lazyseq.starmap(area, ints)  # type: ignore[arg-type]


def indexing() -> None:
    lazyseq.arange(0.5)  # type: ignore[arg-type]
    lazyseq.cycle(Stream())  # type: ignore[arg-type]
    lazyseq.cycle(ints, 0.5)  # type: ignore[arg-type]
    lazyseq.interleave(ints, 3)  # type: ignore[arg-type]
    lazyseq.repeat(ints, "3")  # type: ignore[arg-type]
    lazyseq.switch([True], ints)  # type: ignore[call-arg]
    lazyseq.switch(True, ints, ints)  # type: ignore[arg-type]
    lazyseq.case(words, ints, ints)  # type: ignore[arg-type]
    lazyseq.uniter(3)  # type: ignore[arg-type]
    lazyseq.uniter(ints, cache_size=None)  # type: ignore[arg-type]
    lazyseq.gather(ints, words)  # type: ignore[arg-type]
    lazyseq.take(ints, 3)  # type: ignore[arg-type]


def shape() -> None:
    lazyseq.collate(ints)  # type: ignore[arg-type]
    lazyseq.collate((ints, 3))  # type: ignore[arg-type]
    lazyseq.collate((ints, words))[0][1] + 1  # type: ignore[operator]
    lazyseq.concatenate(ints)  # type: ignore[arg-type]
    lazyseq.batch(ints, 0.5)  # type: ignore[call-overload]
    lazyseq.batch(ints, 2, collate_fn=3)  # type: ignore[call-overload]
    lazyseq.batch(words, 2, collate_fn=sum)  # type: ignore[arg-type]
    lazyseq.batch(ints, 2)[0].upper()  # type: ignore[attr-defined]
    lazyseq.unbatch(ints, 2)  # type: ignore[arg-type]
    lazyseq.split(ints, "ab")  # type: ignore[arg-type]
    lazyseq.split(Stream(), 2)  # type: ignore[call-overload]


def others() -> None:
    lazyseq.add_cache(Stream())  # type: ignore[arg-type]
    lazyseq.add_cache(ints, 2, [])  # type: ignore[arg-type]
    lazyseq.prefetch(ints, 2, "fibre")  # type: ignore[arg-type]
    lazyseq.prefetch(ints, nworkers=0.5)  # type: ignore[arg-type]
    lazyseq.prefetch(ints, start_hook=area)  # type: ignore[arg-type]
    lazyseq.seterr("raise")  # type: ignore[arg-type]
    lazyseq.EvaluationError("an item failed", index="3")  # type: ignore[arg-type]
    lazyseq.SerializableFunc(area)("a", 1)  # type: ignore[arg-type]
    lazyseq.SerializableFunc(3)  # type: ignore[arg-type]
    instrument.debug(ints, len)  # type: ignore[arg-type]
    instrument.debug(ints, print, max_calls="3")  # type: ignore[arg-type]
    instrument.monitor_throughput(Stream())  # type: ignore[arg-type]
    instrument.tree(ints)  # type: ignore[arg-type]
