"""Views without a length: unbounded ones, and those whose end shows only when it is reached."""

import pickle

import numpy as np
import pytest

from lazyseq import (
    EvaluationError,
    batch,
    collate,
    concatenate,
    cycle,
    gather,
    interleave,
    prefetch,
    repeat,
    smap,
    split,
    switch,
    unbatch,
    uniter,
)

MOST = 2**63 - 1


class Numbers:
    """As many as there are indices."""

    def __getitem__(self, i):
        return i


def unended(n):
    return uniter(list(range(n)))


@pytest.mark.parametrize(
    ("view", "items"),
    [
        (unended(3)[:10], [0, 1, 2]),
        (unended(9)[2:5], [2, 3, 4]),
        (unended(9)[1:8:3], [1, 4, 7]),
        (unended(9)[1:8:3][1:], [4, 7]),
        (unended(9)[1:8:3][1:9], [4, 7]),
        (unended(5)[2:][1:9], [3, 4]),
        (unended(3)[5:9], []),
        (unended(3)[2:2], []),
        (unended(3)[5:2], []),
        (batch(unended(5), 2)[:5], [[0, 1], [2, 3], [4]]),
        (smap(str, unended(3))[1:7], ["1", "2"]),
        (concatenate([[7], unended(3)])[1:9], [0, 1, 2]),
        (unbatch(batch(unended(3), 2, collate_fn=list), 2)[:9], [0, 1, 2]),
    ],
)
def test_a_slice_with_a_stop_ends_where_its_source_ends(view, items):
    assert list(view) == items and list(view) == items
    assert [view[i] for i in range(len(items))] == items
    with pytest.raises(IndexError):
        view[len(items)]
    assert (99 in view) is False and list(pickle.loads(pickle.dumps(view))) == items
    assert list(batch(view, 2)) == [items[i : i + 2] for i in range(0, len(items), 2)]


def test_such_a_slice_has_no_length_but_one_of_an_endless_view_has():
    for view in (unended(3)[:10], smap(str, unended(3))[1:2], collate([unended(3), cycle("ab")])[:4]):
        with pytest.raises(TypeError, match="has no length"):
            len(view)
        with pytest.raises(IndexError):
            view[-1]
    for view in (cycle("ab"), repeat(1), smap(str, cycle("ab")), collate([cycle("ab"), repeat(1)])):
        assert len(view[:10]) == 10 and len(view[3:9][1:]) == 5
    for view in (batch(cycle("ab"), 3), interleave(cycle("ab"), [1]), concatenate([[1], repeat(2)]), cycle("ab")[2:]):
        assert len(view[1:8:3]) == 3
    assert len(unended(3)[4:2]) == 0


@pytest.mark.parametrize("source", [Numbers(), cycle(range(MOST)), uniter([1, 2, 3])])
def test_slices_never_read_beyond_64_bits(source):
    view = smap(lambda x: x, source)
    assert view[:: 2**62][0] == view[0]
    for wrong in (view[:: 2**62], view[:: 2**62][:9]):
        for i in (3, 4, 9):
            with pytest.raises(IndexError):
                wrong[i]
    with pytest.raises(IndexError):
        view[MOST - 1 :][1]
    for key in (slice(2**70, None), slice(None, None, 2**70)):
        with pytest.raises(OverflowError, match="64 bits"):
            view[key]
    assert view[:: 2**40][:: 2**40][0] == view[0]
    with pytest.raises(IndexError):
        view[:: 2**40][:: 2**40][1]
    with pytest.raises(IndexError):
        prefetch(cycle([1, 2, 3])[:: 2**62], 2)[3]
    with pytest.raises(IndexError):
        batch(source, 2)[:: 2**62][2]


def test_index_with_a_stop():
    assert cycle([1, 2, 3]).index(3, 0, 10) == 2 and cycle([1, 2, 3]).index(1, 1) == 3
    with pytest.raises(ValueError, match="not in"):
        unended(3).index(7, 1, 9)


def test_an_index_that_is_out_of_range_is_not_the_end():
    view = gather([10, 20, 30], uniter([0, 99, 1]))
    items = iter(view)
    assert next(items) == 10
    with pytest.raises(EvaluationError) as caught:
        next(items)
    assert isinstance(caught.value.__cause__, IndexError) and list(items) == [20]
    with pytest.raises(EvaluationError):
        list(batch(view, 2))


def test_what_a_pickled_iterator_has_given_is_not_given_again():
    view = uniter(iter([10, 20, 30, 40]))
    assert view[1] == 20
    with pytest.raises(RuntimeError, match="cannot start again"):
        pickle.loads(pickle.dumps(view))[0]


def test_an_assignment_to_it_knows_no_count():
    view = cycle([1, 2, 3])
    with pytest.raises(ValueError, match="not known how many items"):
        view[:] = repeat(0)
    view[:2] = [8, 9]
    assert view[3] == 8
    with pytest.raises(ValueError, match="more than 2 values for 2 items"):
        view[:2] = repeat(0)


def test_the_last_items_of_all():
    assert list(batch(range(MOST), 3)[-1]) == [MOST - 1]
    assert unbatch(batch(range(MOST), 4), 4, 3)[-1] == MOST - 1
    pieces = split(range(10**12), 10**11 - 1)
    assert len(pieces) == 10**11 and pieces[-1] == range(10**12 - 10, 10**12)
    assert list(pieces[7]) == list(range(70, 80))


def test_shared_sources_are_asked_for_their_length_once():
    view = list(range(4))
    for _ in range(60):
        view = switch([True, False] * 2, smap(lambda x: x + 1, view), view)
    assert len(view) == 4 and view[0] == 60


def test_pieces_and_masks_of_every_kind():
    assert list(split(range(6), np.array([[0, 2], [2, 6]]))) == [range(2), range(2, 6)]

    class NoSlices(list):
        def __getitem__(self, i):
            if isinstance(i, slice):
                raise TypeError("no slices")
            return super().__getitem__(i)

    assert [list(piece) for piece in split(NoSlices([1, 2, 3]), [1])] == [[1], [2, 3]]
    with pytest.raises(EvaluationError, match="item 0 of gather"):
        gather("abc", smap(bool, [0, 1, 1]))[0]
    with pytest.raises(IndexError):
        gather("abc", [2**63, -1])
    with pytest.raises(TypeError):
        smap(str, "abc")[{0: 1}]


def test_a_mask_of_torch():
    torch = pytest.importorskip("torch")
    assert list(smap(str, "abc")[torch.tensor([True, False, True])]) == ["a", "c"]
