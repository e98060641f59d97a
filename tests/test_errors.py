"""What goes wrong while an item is evaluated, and how it is told."""

import operator
import pickle
import threading
import traceback

import pytest

from lazyseq import EvaluationError, batch, collate, concatenate, gather, seterr, smap, starmap, unbatch


@pytest.fixture
def passthrough():
    seterr("passthrough")
    yield
    seterr("wrap")


def fail(x):
    raise KeyError(x)


def here():
    """The line that calls."""
    return traceback.extract_stack()[-2].lineno


def test_the_message_names_item_stage_and_place():
    view, line = smap(fail, [10, 20, 30]), here()
    with pytest.raises(EvaluationError) as caught:
        view[-2]
    error = caught.value
    assert str(error) == f"failed to evaluate item 1 of smap(fail) made at {__file__}:{line}"
    assert (error.index, error.stage) == (1, f"smap(fail) at {__file__}:{line}")
    assert type(error.__cause__) is KeyError and error.__cause__.args == (20,)
    frames = traceback.extract_tb(error.__cause__.__traceback__)
    assert frames[-1].name == "fail" and frames[-1].filename == __file__


def test_the_place_is_the_line_of_the_call_in_a_long_statement():
    views = [
        smap(fail, [1]),
        smap(fail, [2]),
    ]
    first = here() - 3
    for k, view in enumerate(views):
        with pytest.raises(EvaluationError, match=f":{first + k}$"):
            view[0]


def test_wrapped_once_and_noted_by_the_stages_further_out():
    inner = smap(fail, [1, 2, 3, 4])
    view = unbatch(batch(smap(operator.neg, gather(concatenate([[], inner]), [3, 2])), 2, collate_fn=list), 2)
    with pytest.raises(EvaluationError) as caught:
        view[1]
    error = caught.value
    assert str(error).startswith("failed to evaluate item 3 of smap(fail) made at")
    assert type(error.__cause__) is KeyError
    told = [note.partition(" made at ")[0] for note in error.__notes__]
    assert told == [f"while evaluating item {i} of {stage}" for i, stage in (
        (3, "concatenate"), (0, "gather"), (0, "smap(neg)"), (0, "batch(list)"), (1, "unbatch"),
    )]  # fmt: skip


@pytest.mark.parametrize("make", [
    lambda: smap(lambda x, y: fail(x), [1], [2]),
    lambda: starmap(lambda x: fail(x), [(1,)]),
    lambda: batch([1], 1, collate_fn=fail),
    lambda: gather([5], smap(fail, [0])),
])  # fmt: skip
def test_functions_of_every_kind_of_view(make):
    with pytest.raises(EvaluationError) as caught:
        make()[0]
    assert type(caught.value.__cause__) is KeyError


class Broken:
    """A source with a length whose items fail."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 3

    def __getitem__(self, i):
        raise self.error


@pytest.mark.parametrize("error", [OSError("gone"), IndexError("inside"), StopIteration(), TypeError()])
def test_an_error_of_a_source_counts_as_the_first_stage_above_it(error):
    for view, name in (
        (smap(abs, Broken(error)), "smap.abs."),
        (gather(Broken(error), [1, 1, 1]), "gather"),
        (concatenate([Broken(error)]), "concatenate"),
        (collate([Broken(error)]), "collate"),
    ):
        with pytest.raises(EvaluationError, match=f"failed to evaluate item 2 of {name}") as caught:
            view[2]
        assert caught.value.__cause__ is error
        found = []
        iterator = iter(view)
        for _ in range(3):
            with pytest.raises(EvaluationError) as caught:
                next(iterator)
            found.append(caught.value.index)
        assert found == [0, 1, 2]
        assert list(iterator) == []


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_base_exceptions_are_never_wrapped(error):
    def leave(x):
        raise error

    with pytest.raises(type(error)) as caught:
        gather(smap(leave, [1]), [0])[0]
    assert caught.value is error


def test_reading_again_tries_again():
    attempts = []

    def second_time(x):
        attempts.append(x)
        return 1 // (len(attempts) - 1)

    view = smap(second_time, [7])
    with pytest.raises(EvaluationError):
        view[0]
    assert view[0] == 1


# ---- seterr


def test_seterr_is_per_thread(passthrough):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(seterr()))
    thread.start()
    thread.join()
    assert (seen, seterr()) == (["wrap"], "passthrough")


def test_passthrough_lets_the_original_through(passthrough):
    with pytest.raises(KeyError) as caught:
        gather(smap(fail, [1, 2]), [1])[0]
    assert caught.value.args == (2,)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("read", [list, next])
def test_passthrough_never_ends_a_loop_early(read, passthrough):
    def stop(x):
        raise StopIteration

    with pytest.raises(RuntimeError, match="item 0 of smap.stop. raised StopIteration"):
        read(iter(smap(stop, [1, 2])))


def test_passthrough_of_an_index_error_over_a_source_without_length(passthrough):
    class Unsized:
        def __getitem__(self, i):
            return i

    def outside(x):
        return [][x]

    with pytest.raises(RuntimeError, match="raised IndexError"):
        list(smap(outside, Unsized()))
    with pytest.raises(IndexError):
        list(smap(outside, [1, 2]))


# ---- Pickling


class Stubborn(Exception):
    """Pickles, and does not load again."""

    def __init__(self, a, b):
        super().__init__(a)


def roundtrip(error):
    return pickle.loads(pickle.dumps(error))


def caught_from(view):
    with pytest.raises(EvaluationError) as caught:
        view[0]
    return caught.value


def test_an_error_pickles_with_its_cause():
    error = caught_from(gather(smap(fail, [1]), [0]))
    copy = roundtrip(error)
    assert (str(copy), copy.index, copy.stage, copy.__notes__) == (
        str(error), error.index, error.stage, error.__notes__
    )  # fmt: skip
    assert type(copy.__cause__) is KeyError and copy.__cause__.args == (1,)


@pytest.mark.parametrize("cause", [Stubborn(1, 2), ValueError(lambda: None)])
def test_an_error_pickles_without_a_cause_that_does_not(cause):
    def fail_with(x):
        raise cause

    copy = roundtrip(caught_from(smap(fail_with, [1])))
    assert copy.__cause__ is None and copy.index == 0
    assert copy.__notes__[-1].startswith("caused by:\n") and type(cause).__name__ in copy.__notes__[-1]


def test_the_place_survives_pickling():
    view, line = smap(fail, [1]), here()
    assert f"made at {__file__}:{line}" in str(caught_from(roundtrip(view)))
    assert f"made at {__file__}:{line}" in str(caught_from(roundtrip(roundtrip(view))))


# ---- Deep


def test_many_views_one_over_the_other():
    view = range(5)
    for _ in range(900):
        view = smap(operator.neg, view)
    assert list(view) == [0, 1, 2, 3, 4] and view[-1] == 4
    with pytest.raises(RecursionError, match="smap.neg.: more than 1000 views"):
        for _ in range(2000):
            view = smap(operator.neg, view)
