"""smap, starmap."""

import operator

import pytest

from lazyseq import EvaluationError, smap, starmap


class Log:
    """A function that notes what it is called with."""

    def __init__(self, function=lambda x: x):
        self.function = function
        self.calls = []

    def __call__(self, x):
        self.calls.append(x)
        return self.function(x)


def test_smap_computes_an_item_when_it_is_read_and_every_time():
    log = Log(operator.neg)
    view = smap(log, [1, 2, 3, 4])
    assert len(view) == 4 and log.calls == []
    assert view[2] == -3 and log.calls == [3]
    assert view[-2] == -3 and log.calls == [3, 3]
    part = view[1:][::2]
    assert log.calls == [3, 3]
    assert list(part) == [-2, -4] and log.calls == [3, 3, 2, 4]


def test_smap_of_several_sequences():
    view = smap(lambda *xs: xs, [1, 2], "ab", range(2))
    assert list(view) == [(1, "a", 0), (2, "b", 1)]
    assert view.sequences == [[1, 2], "ab", range(2)]


def test_starmap_spreads_its_items():
    assert list(starmap(pow, [(2, 5), [3, 2], iter((10, 3))])) == [32, 9, 1000]
    assert list(starmap(lambda: 7, [(), ()])) == [7, 7]


@pytest.mark.parametrize("f", [operator.neg, lambda x: -x, (-1).__mul__, Log(operator.neg)])
def test_smap_of_any_kind_of_callable(f):
    assert list(smap(f, [1, 2])) == [-1, -2]


def test_smap_of_a_class_and_of_a_bound_method():
    assert list(smap(str, [1, 2])) == ["1", "2"]
    seen = []
    list(smap(seen.append, [1, 2]))
    assert seen == [1, 2]


def test_views_are_live():
    source = [1, 2]
    view = smap(operator.neg, source)
    source.append(3)
    assert list(view) == [-1, -2, -3] and len(view) == 3
    iterator = iter(view)
    next(iterator)
    source.clear()
    assert list(iterator) == [] and len(view) == 0


def test_iteration_goes_on_after_an_error():
    def fail_at_two(x):
        if x == 2:
            raise ValueError(x)
        return x

    for view in (smap(fail_at_two, [1, 2, 3]), smap(operator.pos, smap(fail_at_two, [1, 2, 3]))):
        iterator = iter(view)
        assert next(iterator) == 1
        with pytest.raises(EvaluationError, match="item 1 of"):
            next(iterator)
        assert list(iterator) == [3]


def test_properties():
    view = smap(operator.neg, [1])
    assert (view.f, view.sequences, view.children) == (operator.neg, [[1]], ([1],))
    assert repr(view) == "<lazyseq smap(neg) of 1 item>"
    assert repr(starmap(pow, [(1, 2)] * 2)) == "<lazyseq starmap(pow) of 2 items>"
