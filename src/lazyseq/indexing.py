"""Choose items by their indices."""

from . import _checks, _core

__all__ = ["gather", "take"]


def gather(sequence, indexes):
    """Return a view of the items at the given indices, in their order.

    ``gather(xs, indexes)[i] == xs[indexes[i]]``. Lists and arrays of indices are copied into 8 bytes each;
    ranges and other lazy sequences are kept as they are. Items can be assigned: the sequence gets them.

    Args:
        sequence (Sequence): where the items come from.
        indexes (Sequence[int]): which items; negative ones count from the end.

    Returns:
        View: as long as indexes.

    Raises:
        TypeError: if the sequence cannot be indexed, or indexes are no integers (write ``view[mask]``
            to select by a boolean mask).
        IndexError: on reading, for an index that the sequence does not have.

    >>> letters = gather("dehlorw ", [2, 1, 3, 3, 4, 7, 6, 4, 5, 3, 0])
    >>> "".join(letters)
    'hello world'
    >>> letters[-1]
    'd'
    """
    _checks.source(sequence, "gather", "sequence")
    _checks.source(indexes, "gather", "indexes")
    return _core.gather(sequence, indexes)


def take(sequence, indexes):
    """The same as :func:`gather`.

    >>> list(take(["a", "b", "c"], [2, 0]))
    ['c', 'a']
    """
    return gather(sequence, indexes)
