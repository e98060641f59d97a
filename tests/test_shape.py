"""collate, concatenate, batch, unbatch, split."""

import logging
import tracemalloc

import numpy as np
import pytest

from lazyseq import EvaluationError, batch, collate, concatenate, smap, split, unbatch


def noting(function=lambda x: x):
    calls = []

    def noted(x):
        calls.append(x)
        return function(x)

    return noted, calls


# ---- collate


def test_collate_pairs_and_assigns():
    a, b = [1, 2, 3], ["x", "y", "z"]
    view = collate([a, b])
    assert list(view) == [(1, "x"), (2, "y"), (3, "z")]
    view[1] = (20, "Y")
    view[-2:] = [(21, "Z"), (31, "W")]
    assert (a, b) == ([1, 21, 31], ["x", "Z", "W"])
    with pytest.raises(ValueError, match="item 0 takes 2 values, got 3"):
        view[0] = (1, 2, 3)
    assert collate(iter([a, b])).sequences == [a, b]


def test_the_shortest_rules_when_lengths_change_later():
    a, b = [1, 2, 3], [4, 5, 6]
    view = collate([a, b])
    a.append(9)
    b.pop()
    assert list(view) == [(1, 4), (2, 5)]


# ---- concatenate


def test_a_part_of_a_concatenation_takes_an_offset_and_a_reference():
    parts = [[1, 2, 3]] * 10**6
    tracemalloc.start()
    view = concatenate(parts)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size <= peak < 16.1 * 10**6
    assert view[2_999_999] == 3 and len(view) == 3 * 10**6


def test_concatenate_finds_its_parts():
    parts = [[], [0], [], [], [1, 2, 3], [], (4,), range(5, 9), []]
    view = concatenate(parts)
    assert list(view) == list(range(9))
    assert [view[i] for i in range(9)] == list(range(9))
    assert len(concatenate([])) == 0 and list(concatenate([])) == []


def test_nested_concatenation_becomes_one():
    inner = concatenate([[1], [2]])
    view = concatenate([inner, [3], concatenate([inner, [4]])])
    assert view.sequences == [[1], [2], [3], [1], [2], [4]]
    assert list(view) == [1, 2, 3, 1, 2, 4]


def test_a_part_that_changes_length():
    parts = [[1, 2], [3, 4]]
    view = concatenate(parts)
    parts[0].append(9)
    assert list(view) == [1, 2, 3, 4]
    del parts[0][1:]
    assert view[0] == 1 and view[2] == 3
    iterator = iter(view)
    assert next(iterator) == 1
    with pytest.raises(IndexError):
        next(iterator)
    assert list(iterator) == [3, 4]


def test_assignment_reaches_the_parts():
    parts = [[1, 2], [3, 4, 5]]
    view = concatenate(parts)
    view[0], view[-1] = "a", "e"
    view[1:4] = "bcd"
    assert parts == [["a", "b"], ["c", "d", "e"]]


# ---- batch


def test_batch_is_lazy_and_reads_each_item_once():
    noted, calls = noting()
    view = batch(smap(noted, range(10)), 4)
    assert len(view) == 3 and calls == []
    assert view[1] == [4, 5, 6, 7] and calls == [4, 5, 6, 7]
    assert view[-1] == [8, 9]


@pytest.mark.parametrize("n", range(9))
@pytest.mark.parametrize("k", [1, 2, 3, 4, 100])
def test_batch_in_all_its_forms(n, k):
    whole = [list(range(j, min(j + k, n))) for j in range(0, n, k)]
    assert list(batch(range(n), k)) == whole
    assert list(batch(range(n), k, drop_last=True)) == [b for b in whole if len(b) == k]
    assert list(batch(range(n), k, pad=-1)) == [b + [-1] * (k - len(b)) for b in whole]
    assert list(batch(range(n), k, collate_fn=tuple)) == [tuple(b) for b in whole]


def test_batch_of_arrays():
    rows = np.arange(12).reshape(6, 2)
    assert np.array_equal(batch(rows, 3, collate_fn=np.stack)[1], rows[3:])


def test_assigning_batches():
    source = list(range(7))
    view = batch(source, 3)
    view[0] = "abc"
    view[-1] = ["g"]
    assert source == ["a", "b", "c", 3, 4, 5, "g"]
    view[:2] = [[0, 1, 2], [3, 4, 5]]
    assert source == [0, 1, 2, 3, 4, 5, "g"]
    for i, value in ((0, [1, 2]), (2, [1, 2, 3])):
        with pytest.raises(ValueError, match=f"{len(value)} values for the . items of batch {i}"):
            view[i] = value
    padded = batch(source, 3, pad=0)
    padded[2] = [6]
    assert source[6] == 6
    padded[2] = [7, 0, 0]
    assert source == [0, 1, 2, 3, 4, 5, 7]


def test_pad_beside_drop_last_is_said_to_have_no_effect(caplog):
    with caplog.at_level(logging.WARNING, "lazyseq"):
        assert list(batch([1, 2, 3], 2, drop_last=True, pad=0)) == [[1, 2]]
    assert "pad=0 has no effect" in caplog.text


def test_an_error_of_collate_fn_names_the_batch():
    with pytest.raises(EvaluationError, match="failed to evaluate item 1 of batch.<lambda>. made at"):
        batch(range(4), 2, collate_fn=lambda xs: xs[0] // (xs[0] - 2) and xs or 1 // 0)[1]


# ---- unbatch


def test_unbatch_reverses_batch():
    for n in range(1, 12):
        for k in (1, 2, 3, 5):
            batches = batch(range(n), k)
            view = unbatch(batches, k, n % k)
            assert len(view) == n
            assert list(view) == [view[i] for i in range(n)] == list(range(n))
    assert len(unbatch([], 3)) == 0 and list(unbatch([], 3, 2)) == []


def test_iteration_reads_each_batch_once_and_a_single_read_one_batch():
    noted, calls = noting(lambda i: [i, -i])
    view = unbatch(smap(noted, range(4)), 2)
    assert view[5] == -2 and calls == [2]
    calls.clear()
    assert list(view) == [0, 0, 1, -1, 2, -2, 3, -3] and calls == [0, 1, 2, 3]
    calls.clear()
    assert list(smap(str, smap(abs, view))) == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert calls == [0, 1, 2, 3]
    calls.clear()
    assert list(smap(abs, view)[1:-1]) == [0, 1, 1, 2, 2, 3] and calls == [0, 1, 2, 3]
    calls.clear()
    assert list(view[3:7][1:]) == [2, -2, 3] and calls == [2, 3]


def test_iteration_goes_on_after_a_batch_that_fails():
    def fail_at_one(i):
        if i == 1:
            raise ValueError(i)
        return [i, i]

    iterator = iter(unbatch(smap(fail_at_one, range(3)), 2))
    assert [next(iterator), next(iterator)] == [0, 0]
    for i in (2, 3):
        with pytest.raises(EvaluationError) as caught:
            next(iterator)
        assert f"while evaluating item {i} of unbatch" in caught.value.__notes__[0]
    assert list(iterator) == [2, 2]


@pytest.mark.parametrize(
    "batches", [[[1, 2], [3], [4, 5]], [(1, 2), (3,), (4, 5)], [np.ones(2), np.ones(1), np.ones(2)]]
)
def test_a_batch_that_is_too_short_is_an_error_and_no_end(batches):
    view = unbatch(batches, 2)
    with pytest.raises(EvaluationError, match="failed to evaluate item 3 of unbatch") as caught:
        view[3]
    assert str(caught.value.__cause__) == "batch 1 holds 1 items, which is less than its share of 2"

    class Unsized:
        def __getitem__(self, i):
            return batches[i]

    with pytest.raises(EvaluationError, match="item 3 of unbatch"):
        list(unbatch(Unsized(), 2))


def test_a_batch_that_is_no_sequence():
    with pytest.raises(EvaluationError) as caught:
        unbatch([1, 2], 2)[0]
    assert str(caught.value.__cause__) == "batch 0 is no sequence but of type int"


def test_a_batch_that_is_the_view_itself():
    batches = []
    view = unbatch(batches, 1)
    batches.append(view)
    with pytest.raises(EvaluationError) as caught:
        view[0]
    assert isinstance(caught.value.__cause__, RecursionError)


def test_assignment_goes_into_the_batch():
    batches = [[1, 2], [3, 4]]
    unbatch(batches, 2)[3] = "d"
    assert batches == [[1, 2], [3, "d"]]
    source = list(range(5))
    view = unbatch(batch(source, 2), 2, 1)
    view[1], view[-1] = "b", "e"
    assert source == [0, "b", 2, 3, "e"]
    a, b = [1, 2], [3, 4]
    unbatch(collate([a, b]), 2)[3] = "d"
    assert (a, b) == ([1, 2], [3, "d"])
    with pytest.raises(TypeError, match="does not support item assignment"):
        unbatch(smap(list, ["ab"]), 2)[0] = 1


def test_a_million_parts_take_their_offsets_and_references():
    part = [1]
    view = concatenate([part] * 10**6)
    assert len(view) == 10**6 and view[999_999] == 1


# ---- split


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        (0, ["abcdef"]),
        (1, ["abc", "def"]),
        (5, list("abcdef")),
        ([], ["abcdef"]),
        ([2], ["ab", "cdef"]),
        ([0, 2, 2, 6], ["", "ab", "", "cdef", ""]),
        ([-2], ["abcd", "ef"]),
        ([4, 99], ["abcd", "ef", ""]),
        ([4, 2], ["abcd", "", "cdef"]),
        ([(0, 2), (4, 5), (5, 3), (-1, 99)], ["ab", "e", "", "f"]),
        (np.array([2, 4]), ["ab", "cd", "ef"]),
    ],
)
def test_split_cuts_as_slices_do(edges, expected):
    view = split("abcdef", edges)
    assert list(view) == expected and len(view) == len(expected)
    assert ["".join(piece) for piece in split(list("abcdef"), edges)] == expected
    lazy = split(smap(str, "abcdef"), edges)
    assert ["".join(piece) for piece in lazy] == expected


def test_the_pieces_of_a_view_are_views():
    noted, calls = noting()
    pieces = split(smap(noted, range(6)), 2)
    assert calls == [] and [len(piece) for piece in pieces] == [2, 2, 2]
    assert pieces[1][0] == 2 and calls == [2]


def test_split_of_a_source_that_has_no_slices_of_its_own():
    class Dataset:
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return {"rows": i}

    assert [list(piece) for piece in split(Dataset(), [1])] == [
        [{"rows": 0}],
        [{"rows": 1}, {"rows": 2}, {"rows": 3}],
    ]


def test_assigning_pieces():
    source = list(range(6))
    view = split(source, [2])
    view[0] = "ab"
    view[1:] = ["cdef"]
    assert source == list("abcdef")
    with pytest.raises(ValueError, match="3 values for the 2 items of piece 0"):
        view[0] = "abc"
    source = list(range(4))
    split(concatenate([source]), 1)[1] = "xy"
    assert source == [0, 1, "x", "y"]
