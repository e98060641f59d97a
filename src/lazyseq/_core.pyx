# cython: language_level=3, auto_pickle=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The view, one final class for each operation, and the cache.

Everything here trusts its caller: arguments are checked, defaulted and documented in the topic modules
(mapping, indexing, shape, buffering). Iterators stand beside the view that they iterate.

Threads: a view's fields are set when it is made and never change, so views may be read from any number of threads,
with and without a GIL; a class that departs from this says what guards what. Lists of the user's may change at any
moment: they are read by item_at.

Iterators may be shared as well. Each `__next__` takes an index that nobody else gets, and the item that belongs to it,
also in a function that calls next() on the iterator which calls it. What an iterator reads never changes either, unless
it says otherwise; where it stands is an atomic number. They never wait for each other while an item is evaluated.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject, PyObject_SetItem
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int64_t

from array import array as typed_array
from collections import OrderedDict, deque, namedtuple
from collections.abc import Mapping, Sequence, Set
from itertools import islice
from numbers import Number
from operator import attrgetter, index as as_index
from reprlib import repr as short_repr
from sys import _getframe
from threading import RLock, current_thread, enumerate as all_threads
from time import perf_counter, sleep
from types import GenericAlias

import numpy
import os

from .errors import EvaluationError, TooManyFailures, seterr

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    bint PyLong_CheckExact(object)
    bint PyFloat_CheckExact(object)
    bint PyIndex_Check(object)
    Py_ssize_t PyLong_AsSsize_t(object) except? -1
    Py_ssize_t PyNumber_AsSsize_t(object, object error) except? -1
    Py_ssize_t PyObject_Size(object) except -1
    bint PySequence_Check(object)
    object PySequence_GetItem(object, Py_ssize_t)
    int PySlice_Unpack(object, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t *step) except -1
    Py_ssize_t PySlice_AdjustIndices(Py_ssize_t size, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t step)
    void PyException_SetCause(object, PyObject *stolen)
    PyObject *PyErr_Occurred()
    PyObject *PyIter_Next(PyObject *)
    ctypedef void *PyThread_type_lock
    ctypedef long long PY_TIMEOUT_T
    enum:
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    unsigned long PyThread_get_thread_ident()
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock)
    int PyThread_acquire_lock(PyThread_type_lock, int wait)
    int PyThread_acquire_lock_timed(PyThread_type_lock, PY_TIMEOUT_T us, int interruptible) nogil
    void PyThread_release_lock(PyThread_type_lock)
    void Py_INCREF(object)
    Py_ssize_t list_size "PyList_GET_SIZE" (PyObject *)
    bint PyCFunction_Check(object)
    bint PyFunction_Check(object)
    ctypedef PyObject *(*vectorcallfunc)(PyObject *, PyObject **, size_t, PyObject *)
    vectorcallfunc PyVectorcall_Function(object)
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET

    ctypedef struct PyCodeObject
    int PyCode_Addr2Line(PyCodeObject *, int)

cdef extern from *:
    """
    /* The value of an int of one digit, which is most; negative for others, which take the long way. */
    static inline Py_ssize_t small_int(PyObject *key)
    {
    #if PY_VERSION_HEX >= 0x030C0000
        return PyUnstable_Long_IsCompact((PyLongObject *)key) ? PyUnstable_Long_CompactValue((PyLongObject *)key) : -1;
    #else
        return Py_SIZE(key) == 1 ? (Py_ssize_t)((PyLongObject *)key)->ob_digit[0] : Py_SIZE(key) == 0 ? 0 : -1;
    #endif
    }

    /* How many of the first items of a tuple are exact lists. Of a million parts, each look counts. */
    static Py_ssize_t leading_lists(PyObject *tuple)
    {
        Py_ssize_t k = 0, n = PyTuple_GET_SIZE(tuple);
        while (k < n && PyList_CheckExact(PyTuple_GET_ITEM(tuple, k)))
            k++;
        return k;
    }

    /* The same, and where each of them begins in their concatenation, which cannot be too long. */
    static Py_ssize_t begin_lists(PyObject *tuple, Py_ssize_t *offsets, Py_ssize_t *total)
    {
        Py_ssize_t k = 0, n = PyTuple_GET_SIZE(tuple);
        for (*total = 0; k < n && PyList_CheckExact(PyTuple_GET_ITEM(tuple, k)); k++) {
            offsets[k] = *total;
            *total += PyList_GET_SIZE(PyTuple_GET_ITEM(tuple, k));
        }
        return k;
    }
    """
    Py_ssize_t small_int(object key)
    Py_ssize_t leading_lists(object sequences)
    Py_ssize_t begin_lists(object sequences, Py_ssize_t *offsets, Py_ssize_t *total)

cdef inline bint is_number(object value):
    """Whether it is a plain number, in which no view hides."""
    return PyLong_CheckExact(value) or PyFloat_CheckExact(value)


cdef extern from *:
    """
    #ifdef _MSC_VER
    #define lzs_thread_local __declspec(thread)
    #else
    #define lzs_thread_local _Thread_local
    #endif
    /* About how many views' worth of C stack this thread's unfinished calls of enter() stand for. */
    static lzs_thread_local int nesting = 0;
    /* How many locks this thread holds under which code of the user's runs: see MappingStore and Uniter. */
    static lzs_thread_local int holding = 0;
    """
    int nesting
    int holding

cdef extern from *:
    """
    /* Numbers that several threads change: atomic where there is no GIL that makes them so. */
    #ifdef Py_GIL_DISABLED
    #include <stdatomic.h>
    #define FREE_THREADED 1
    typedef _Atomic Py_ssize_t lzs_number;
    #define lzs_add(number, n) atomic_fetch_add_explicit(number, n, memory_order_relaxed)
    #define lzs_begin(flag) (!atomic_exchange_explicit(flag, 1, memory_order_acquire))
    #define lzs_end(flag) atomic_store_explicit(flag, 0, memory_order_release)
    #else
    #define FREE_THREADED 0
    typedef Py_ssize_t lzs_number;
    #define lzs_add(number, n) ((*(number)) += (n), *(number) - (n))
    #define lzs_begin(flag) (*(flag) ? 0 : (*(flag) = 1))
    #define lzs_end(flag) ((void)(*(flag) = 0))
    #endif
    #define lzs_take(number) lzs_add(number, 1)
    """
    const bint FREE_THREADED
    ctypedef Py_ssize_t lzs_number
    Py_ssize_t lzs_take(lzs_number *) noexcept  # its value, which becomes one more
    Py_ssize_t lzs_add(lzs_number *, Py_ssize_t n) noexcept  # the same, n more
    bint lzs_begin(lzs_number *flag) noexcept  # whether the flag was down; it is up then, until lzs_end
    void lzs_end(lzs_number *flag) noexcept

cdef object MISSING = object()
cdef object basic_size = attrgetter("__basicsize__")
cdef enum:
    MAX_DEPTH = 1000
    MAX_NESTING = 5000
    VIEWS_OF_BULK = 4  # whose C stack each level of a read of many items takes; MAX_DEPTH levels are to fit
    MOST_NEIGHBOURS = 16  # on each side, among which a guard looks for one that can be had
    MOST_SHOWN = 10  # failures that an error tells
    MOST_TEXT = 200  # characters of each
    MOST_HELD = 2000  # characters or bytes of a value that the record of a failure holds
    MOST_DROPPED = 1000  # values of a mapping, before another thread may use it
    FIRST_WAIT_US = 20_000  # how long who waits for a computation does not ask whether that is in vain
    LONGEST_WAIT_US = 100_000  # and at last, each time twice as long

cdef Py_ssize_t MOST_BYTES = PY_SSIZE_T_MAX // 2  # of a bound and of a value: so the sum of both can be had
cdef Py_ssize_t ENDED = -PY_SSIZE_T_MAX  # where an iterator stands at its end: so low that no count reaches 0


# ---- Where a view was made ------------------------------------------------------------------------------------------


@cython.final
cdef class Site:
    """Where a view was made: the first caller outside this package.

    It keeps the code object and the offset of the instruction, never the frame, which would keep the caller's data
    alive; the line is worked out when shown.
    """

    def __init__(self, code, Py_ssize_t where):
        self.code = code
        self.where = where

    def place(self):
        """The file's name and the line."""
        if isinstance(self.code, str):
            return self.code, self.where
        return self.code.co_filename, PyCode_Addr2Line(<PyCodeObject *>self.code, <int>self.where)

    def __str__(self):
        return "%s:%d" % self.place()

    def __reduce__(self):
        return Site, self.place()


cdef Site here():
    """The site of the innermost frame outside this package."""
    cdef Site site = Site.__new__(Site)
    frame = _getframe()
    while frame.f_globals.get("__package__") == "lazyseq" and frame.f_back is not None:
        frame = frame.f_back
    site.code, site.where = frame.f_code, frame.f_lasti
    return site


# ---- Errors ---------------------------------------------------------------------------------------------------------


cdef object stage_error(View stage, Py_ssize_t i, object error, object evaluation):
    """What to raise when `error` came out of the evaluation of the stage's item i.

    Wrapped once, by the innermost stage; the stages further out add a note. Wrapping also keeps a StopIteration or
    an IndexError of user code from ending somebody's loop; where it is off, these become RuntimeErrors. `evaluation`
    is seterr's word.
    """
    cdef bint passthrough = evaluation == "passthrough"
    if isinstance(error, EvaluationError) and error.index is not None:
        if not passthrough:
            error.add_note(f"while evaluating item {i} of {stage.label()} made at {stage.site}")
        return error
    if not isinstance(error, Exception):
        return error
    if not passthrough:
        wrapped = EvaluationError(f"failed to evaluate item {i} of {stage.label()} made at {stage.site}",
                                  index=i, stage=stage.stage)
    elif isinstance(error, StopIteration) or (isinstance(error, IndexError) and stage.size() == UNKNOWN):
        wrapped = RuntimeError(f"item {i} of {stage.label()} raised {type(error).__name__}")
    else:
        return error
    Py_INCREF(error)
    PyException_SetCause(wrapped, <PyObject *>error)
    return wrapped


cdef int fail() except -1:
    return -1


cdef object taken_error():
    """The exception that a C function has set, which is no longer set."""
    try:
        fail()
    except BaseException as error:
        return error


cdef object function_error(View stage, Py_ssize_t i, object error):
    """What to raise when the stage's own function raised `error` for item i."""
    return stage_error(stage, i, error, seterr())


cdef object source_error(View stage, Py_ssize_t i, object source, Py_ssize_t j, object error, object evaluation):
    """What to raise when reading source[j] for the stage's item i raised `error`."""
    cdef Py_ssize_t size
    if isinstance(source, View):
        # What is no failure of an item is the view's own to say: that it has ended, or is closed.
        return stage_error(stage, i, error, evaluation) if isinstance(error, EvaluationError) else error
    if isinstance(error, IndexError):  # the end of a source, known or not, is no failure of an item
        size = foreign_size(source)
        if size == UNKNOWN or j >= size:
            return error
    return stage_error(stage, i, error, evaluation)


# ---- Sources that are no views --------------------------------------------------------------------------------------


cdef Py_ssize_t foreign_size(object source) except? -1:
    try:
        return PyObject_Size(source)
    except TypeError:  # as operator.length_hint has it: no length, or none at the moment
        return UNKNOWN


cdef object pull_with_care(View stage, Py_ssize_t i, object source, Py_ssize_t j):
    try:
        return read(source, j)
    except BaseException as error:
        raise source_error(stage, i, source, j, error, seterr())


cdef object pull_failed(View stage, Py_ssize_t i, object source, Py_ssize_t j):
    """Raise what the view `source` has raised for its item j as the stage's."""
    raise source_error(stage, i, source, j, taken_error(), seterr())


cdef object foreign_item(object source, Py_ssize_t i):
    if PySequence_Check(source):
        return PySequence_GetItem(source, i)
    return source[i]


cdef int store(object source, Py_ssize_t i, object value) except -1:
    """source[i] = value."""
    if isinstance(source, View):
        (<View>source).assign(i, value)
    else:
        PyObject_SetItem(source, i, value)
    return 0


cdef bint endless_of(object source) except -1:
    """Whether a source of unknown size has no end."""
    return isinstance(source, View) and (<View>source).endless()


cdef Py_ssize_t grain_of(object source) except -1:
    return (<View>source).grain() if isinstance(source, View) else 1


# ---- Many items at once ---------------------------------------------------------------------------------------------


cdef inline bint is_builtin(object source):
    """Whether it is a sequence of the most common kinds, in which nothing is gained by reading many items at once."""
    return type(source) is list or type(source) is tuple or type(source) is range


cdef bint takes_index_arrays(object source):
    """Whether it is an array in a file, say: h5py's, zarr's and others have these, and cost much for each read."""
    kind = type(source)
    return (hasattr(kind, "shape") and hasattr(kind, "dtype") and hasattr(kind, "__array__")
            and not hasattr(kind, "__dlpack__"))


cdef bint shares_of(object source):
    """Whether the source's items cost less when they are read together."""
    if isinstance(source, View):
        return (<View>source).shares
    if is_builtin(source):
        return False
    return hasattr(type(source), "__getitems__") or takes_index_arrays(source)


cdef list pull_many(View stage, const Py_ssize_t *wanted, object source, const Py_ssize_t *indices, Py_ssize_t n):
    """[source[j] for j in indices], which the stage needs for its items `wanted`; together if that is worth it."""
    cdef PyObject *found
    if n == 0 or not shares_of(source):
        return pull_each(stage, wanted, source, indices, n)
    if not is_a(source, View):
        return pull_foreign(stage, wanted, source, indices, n)
    enter(stage, VIEWS_OF_BULK)
    found = (<items_function>(<View>source).items)(<PyObject *>source, indices, n)
    leave(VIEWS_OF_BULK)
    return <list>owned(found) if found != NULL else pull_many_failed(stage, wanted, source, indices, n)


cdef list pull_each(View stage, const Py_ssize_t *wanted, object source, const Py_ssize_t *indices, Py_ssize_t n):
    """The same, one after the other."""
    cdef Py_ssize_t k
    return [pull(stage, wanted[k], source, indices[k]) for k in range(n)]


cdef list pull_many_failed(View stage, const Py_ssize_t *wanted, object source, const Py_ssize_t *indices,
                           Py_ssize_t n):
    """Raise what the view `source` has raised for these items as the stage's."""
    raise joint_error(stage, wanted[0], source, indices, n, taken_error(), seterr())


cdef list pull_foreign(View stage, const Py_ssize_t *wanted, object source, const Py_ssize_t *indices, Py_ssize_t n):
    """The same of a source that is no view and shares work."""
    cdef list found
    enter(stage, views_of(stage))
    try:
        found = foreign_items(source, indices, n)
    except BaseException as error:
        raise joint_error(stage, wanted[0], source, indices, n, error, seterr())
    finally:
        leave(views_of(stage))
    return pull_each(stage, wanted, source, indices, n) if found is None else found


@cython.final
cdef class Raised:
    """Stands for an item that could not be had, or several that need what could not be had."""

    def __init__(self, error):
        self.error = error

    cdef int tell(self, View stage, Py_ssize_t i, object source, Py_ssize_t j) except -1:
        """The stage's item i needs item j of the source, which is this."""
        if self.stage is not stage:
            self.stage = stage
            self.error = source_error(stage, i, source, j, self.error, seterr())
        return 0


cdef list tried(View stage, const Py_ssize_t *wanted, object source, const Py_ssize_t *indices, Py_ssize_t n):
    """The same, but a Raised takes the place of what fails."""
    cdef Py_ssize_t k
    cdef list found
    if n == 0 or not shares_of(source):
        found = tried_singly(source, indices, n)
    else:
        enter(stage, VIEWS_OF_BULK)
        try:
            found = (<View>source).tries(indices, n) if isinstance(source, View) else tried_foreign(source, indices, n)
        finally:
            leave(VIEWS_OF_BULK)
    for k in range(n):
        if type(found[k]) is Raised:
            (<Raised>found[k]).tell(stage, wanted[k], source, indices[k])
    return found


cdef list tried_foreign(object source, const Py_ssize_t *indices, Py_ssize_t n):
    cdef list found = None
    try:
        found = foreign_items(source, indices, n)
    except Exception:  # which does not tell what failed
        pass
    return tried_singly(source, indices, n) if found is None else found


cdef list tried_singly(object source, const Py_ssize_t *indices, Py_ssize_t n):
    cdef Py_ssize_t k
    cdef list found = []
    for k in range(n):
        try:
            found.append(read(source, indices[k]))
        except Exception as error:
            found.append(Raised(error))
    return found


cdef list foreign_items(object source, const Py_ssize_t *indices, Py_ssize_t n):
    """The items, or None where the source takes no such indices."""
    cdef list wanted, found
    if not hasattr(type(source), "__getitems__"):
        rows = rows_of(source, array_of(indices, n))
        if rows is None:
            return None
        if n > 1 and getattr(rows, "ndim", 1) > 1:  # each would keep all of them in memory
            return [row.copy() for row in rows]
        return list(rows)
    wanted = array_of(indices, n).tolist()
    values = source.__getitems__(wanted)
    # One by one: Cython does not ask whether a class among several has raised, as a signal's handler may.
    if (not hasattr(type(values), "__len__") or isinstance(values, str) or isinstance(values, bytes)
            or isinstance(values, Mapping) or isinstance(values, Set)):
        raise TypeError(f"{type(source).__name__}.__getitems__ must return {n} items, got {type(values).__name__}")
    found = list(values) if type(values) is list else list(islice(values, n + 1))  # whose length need not be true
    if len(found) != n:
        count = max(len(found), len(values))
        raise ValueError(f"{type(source).__name__}.__getitems__ must return {n} items, got {count}")
    return found


# What a source raises that takes no such indices; it may mean other things too, which the items tell then.
REFUSALS = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError)


cdef object rows_of(object source, object rows):
    """source[rows], where such an array takes slices, and indices that increase; None where it does not take them."""
    cdef Py_ssize_t n
    cdef object order = None
    if type(rows) is not slice:
        unique, order = numpy.unique(rows, return_inverse=True)
        if (numpy.diff(rows) > 0).all():
            order = None
        rows = unique
    key = as_slice(rows)
    n = key.stop - key.start if type(rows) is slice else len(rows)
    try:
        found = source[key]
        return None if len(found) != n else found if order is None else found[order]
    except REFUSALS:
        return None


cdef object as_slice(object rows):
    """A slice, where the rows, which increase, are evenly spaced."""
    cdef Py_ssize_t n
    if type(rows) is slice:
        return rows
    n = len(rows)
    first, last = int(rows[0]), int(rows[n - 1])
    if last - first == n - 1:
        return slice(first, last + 1)
    # Of two that are far apart, a slice would pass over much.
    return slice(first, last + 1, int(rows[1]) - first) if n > 2 and not numpy.diff(rows, 2).any() else rows


cdef object joint_error(View stage, Py_ssize_t i, object source, const Py_ssize_t *indices, Py_ssize_t n, object error,
                        object evaluation):
    """What to raise when reading n items of the source together raised, which the stage needs for item i and others."""
    cdef Py_ssize_t k, size
    note = f"in a read of {n} items together, of which item {i} of {stage.label()} made at {stage.site} is the first"
    if isinstance(source, View):
        if isinstance(error, EvaluationError) and error.index is not None and evaluation != "passthrough":
            error.add_note(note)
        return error
    if isinstance(error, IndexError):
        size = foreign_size(source)
        if size == UNKNOWN or any([indices[k] >= size for k in range(n)]):
            return error
    raised = stage_error(stage, i, error, evaluation)
    if raised is not error:
        raised.add_note(note)
    return raised


cdef list scattered(View stage, const Py_ssize_t *wanted, tuple parts, which, positions):
    """[parts[k][j] for k, j in zip(which, positions)], each part being asked once."""
    cdef Py_ssize_t k, begin, end
    cdef list values = [None] * len(which)
    order = numpy.argsort(which, kind="stable")
    inner, outer = positions[order], array_of(wanted, len(which))[order]
    for k, begin, end in runs_of(which[order]):
        put(values, order[begin:end],
            pull_many(stage, data_of(outer) + begin, parts[k], data_of(inner) + begin, end - begin))
    return values


cdef int put(list values, object places, list found) except -1:
    """values[places[k]] = found[k]"""
    for place, value in zip(places.tolist(), found):
        values[place] = value
    return 0


cdef list runs_of(object numbers):
    """[(k, begin, end), ...], numbers[begin:end] being k all along."""
    cdef const Py_ssize_t[::1] which = numbers
    cdef Py_ssize_t begin = 0, end, n = which.shape[0]
    cdef list runs = []
    while begin < n:
        end = begin + 1
        while end < n and which[end] == which[begin]:
            end += 1
        runs.append((which[begin], begin, end))
        begin = end
    return runs


cdef object array_of(const Py_ssize_t *indices, Py_ssize_t n):
    """A copy of the indices, as an array."""
    cdef Py_ssize_t k
    cdef Py_ssize_t[::1] copy = numpy.empty(n, numpy.intp)
    for k in range(n):
        copy[k] = indices[k]
    return numpy.asarray(copy)


cdef Py_ssize_t *data_of(object array) except? NULL:
    """Where an array of indices lies, as long as the caller holds it.

    What reads on has no memoryviews of its own: each takes as much C stack as two views.
    """
    cdef Py_ssize_t[::1] numbers = array
    return &numbers[0] if numbers.shape[0] else NULL


# ---- Many items as one array ----------------------------------------------------------------------------------------
#
# `rows` are the items wanted: a slice with a step of 1, or an array of intp, none of them negative. The answer is what
# numpy.stack makes of the items, or None where it is not known to be; the items then tell, or their error does.


STACKS = (numpy.stack, numpy.array, numpy.asarray)  # these make the same array of the items that are found here
ARRAYS = (numpy.ndarray, numpy.memmap)
NUMBERS = (typed_array, bytes, bytearray, memoryview)  # the items are Python's ints, floats and bools
SMALL_NUMBERS = [*"bBhHiIlqfd?"]  # the formats of those that become int64, float64 and bool whatever their values are
AS_IT_IS = {"copy": False} if numpy.lib.NumpyVersion(numpy.__version__) >= "2.1.0" else {}


cdef bint stackable(object dtype):
    """Whether an array of items of this type is of this type too: with others it depends on the values."""
    return getattr(dtype, "kind", None) in ("b", "i", "u", "f", "c", "m", "M") and dtype.isnative


cdef bint dense_of(object source):
    """Whether the source may answer with blocks."""
    if isinstance(source, View):
        return (<View>source).dense
    if is_builtin(source):
        return False
    if isinstance(source, numpy.ndarray):
        return type(source) in ARRAYS and stackable(source.dtype)
    if takes_index_arrays(source):
        try:
            return stackable(source.dtype)
        except Exception:  # such as that of a closed file
            return False
    if type(source) in NUMBERS:
        return array_over(source) is not None
    return lends_its_rows(source)


cdef bint lends_its_rows(object source) except -1:
    """Whether it has DLPack without a copy, and its items are the rows there: pyarrow's are objects of its own.

    A subclass may have a __getitem__ of another mind. To say how batches will be read, the first item is looked at.
    """
    for base in type(source).__mro__:
        if "__dlpack__" in base.__dict__:
            break
        if "__getitem__" in base.__dict__:
            return False
    else:
        return False
    lent = array_over(source)
    if lent is None or not numpy.may_share_memory(lent, array_over(source)):
        return False
    try:
        first = numpy.asarray(source[0])
    except Exception:  # none, or one that is no array
        return False
    return first.dtype == lent.dtype and first.shape == lent.shape[1:] and first.tobytes() == lent[0].tobytes()


cdef object array_over(object source):
    """An array over the source's own memory, of which stack would make one of the same type, or None."""
    cdef object found = None
    if type(source) in ARRAYS:
        found = numpy.asarray(source)
    try:
        if type(source) in NUMBERS:
            view = memoryview(source)
            if view.ndim != 1 or view.format not in SMALL_NUMBERS:
                return None
            found = numpy.asarray(view)
        elif found is None:
            if source.__dlpack_device__()[0] != 1 or (hasattr(source, "is_neg") and source.is_neg()):
                return None  # the memory of another device, or one that holds something else than the values
            found = lent_array(source)
    except Exception:  # it would rather not: tensors with gradients, types that numpy lacks
        return None
    return found if stackable(found.dtype) else None


cdef object lent_array(object source):
    """What it gives by DLPack: not a copy, if it is old enough not to know that it may be told so."""
    try:
        return numpy.from_dlpack(source, **AS_IT_IS)
    except TypeError:
        return numpy.from_dlpack(source)


cdef object row_of(object source):
    """The dtype and shape of the items of a dense source: all that such views read agree in it."""
    while isinstance(source, View):
        source = (<View>source).sources()[0]
    if takes_index_arrays(source):
        return numpy.dtype(source.dtype), tuple(source.shape[1:])
    found = array_over(source)
    return None if found is None else (item_dtype(source, found), found.shape[1:])


cdef object item_dtype(object source, object found):
    """What numpy makes of the source's items: Python's own numbers are of few types."""
    if type(source) in NUMBERS and found.dtype.kind != "b":
        return numpy.dtype("f8" if found.dtype.kind == "f" else "i8")
    return found.dtype


cdef bint casts(object source, object dtype) except -1:
    """Whether a block of the source becomes what its items do: of these, a number that does not fit may be an error."""
    if dtype is None:
        return True
    row = row_of(source)
    return row is not None and numpy.can_cast(row[0], dtype, "same_kind" if row[0].kind == "f" else "safe")


cdef bint dense_together(object sources) except -1:
    """Whether blocks of all these sources fit together."""
    return all([dense_of(source) for source in sources]) and len({row_of(source) for source in sources}) == 1


cdef object block_of(View stage, object wanted, object source, object rows):
    """numpy.stack([source[j] for j in rows]) as a fresh array, needed for the stage's items `wanted`, or None."""
    cdef PyObject *found
    if not is_a(source, View):
        return foreign_block(stage, wanted, source, rows)
    if not (<View>source).dense:
        return None
    enter(stage, VIEWS_OF_BULK)
    found = (<block_function>(<View>source).block)(<PyObject *>source, <PyObject *>rows)
    leave(VIEWS_OF_BULK)
    return owned(found)


cdef object foreign_block(View stage, object wanted, object source, object rows):
    """The same of a source that is no view."""
    cdef Py_ssize_t n, i
    rows = neighbours(rows)
    if takes_index_arrays(source):
        try:
            found = rows_of(source, rows)
        except BaseException as error:
            n = rows.stop - rows.start if type(rows) is slice else len(rows)
            i = wanted.start if type(wanted) is slice else wanted[0]
            raise joint_error(stage, i, source, NULL, n, error, seterr())
        if type(found) is not numpy.ndarray or not stackable(found.dtype):
            return None
        return numpy.array(found, order="C")  # a copy: it may be a part that the source keeps
    found = array_over(source)
    if found is None:
        return None
    try:
        if type(rows) is slice:
            block = numpy.array(found[rows], order="C") if rows.stop <= len(found) else None
        elif found.flags.c_contiguous and found.flags.aligned:
            block = found.take(rows, 0)  # which would copy all of another array first
        else:
            block = numpy.ascontiguousarray(found[rows])
    except (IndexError, MemoryError):
        return None
    if block is not None and type(source) in NUMBERS:
        return block.astype(item_dtype(source, found), copy=False)
    return block


cdef object neighbours(object rows):
    """The rows as a slice, if they follow one another: they are copied in one go then."""
    cdef Py_ssize_t k, n
    cdef const Py_ssize_t[:] wanted
    if type(rows) is not slice:
        wanted, n = rows, len(rows)
        if n and wanted[n - 1] - wanted[0] == n - 1:
            for k in range(n):
                if wanted[k] != wanted[0] + k:
                    return rows
            return slice(wanted[0], wanted[0] + n)
    return rows


cdef object all_rows(object rows):
    """The rows as an array."""
    return numpy.arange(rows.start, rows.stop) if type(rows) is slice else rows


cdef object scattered_block(View stage, object wanted, tuple parts, which, positions):
    """The block of parts[k][j] for k, j in zip(which, positions), each part being asked once, or None."""
    cdef Py_ssize_t k, begin, end
    cdef object block = None
    order = numpy.argsort(which, kind="stable")
    inner, outer = positions[order], all_rows(wanted)[order]
    for k, begin, end in runs_of(which[order]):
        found = block_of(stage, outer[begin:end], parts[k], inner[begin:end])
        if found is None:
            return None
        if block is None:
            block = numpy.empty((len(which), *found.shape[1:]), found.dtype)
        elif found.dtype != block.dtype or found.shape[1:] != block.shape[1:]:
            return None
        block[order[begin:end]] = found
    return block


unbounded = UNKNOWN  # for the topic modules: the size of a view without a limit


def length(source):
    """len(source), or None for a source without a length."""
    cdef Py_ssize_t n = size_of(source)
    return None if n == UNKNOWN else n


cdef inline bint within_size(Py_ssize_t i, Py_ssize_t n):
    """Whether an i >= 0 is below n, or n is UNKNOWN: unsigned, the only negative size is beyond every index."""
    return <size_t>i < <size_t>n


# ---- The view -------------------------------------------------------------------------------------------------------


cdef class View:
    """A lazy sequence: it computes items when they are asked for, and keeps none.

    The contract for those who write one; whatever is not named here exists once, in this class:

    1. `item(i)` is the item, for 0 <= i < size, or for any i >= 0 when the size is unknown; there, an IndexError
       says that the sequence ends before i. Memory of its own it guards itself: a size may change meanwhile.
    2. `size()` is the length now, or UNKNOWN. Views are live: a list that grows, grows its smap. `endless()` says, of
       a view whose size is unknown, whether it is so because there is no end.
    3. `items(indices, n)` is many items at once, for views that `shares` says can share work between them. User
       functions see what they would see item by item, each item once, at most until the first error. `tries` goes
       on behind errors, for guards: a Raised takes the place of an item that fails. Views that can tell which one does
       override it, so that nothing is evaluated twice. `block(rows)` is what numpy.stack makes of the items, as a fresh
       array, or None; no user function is called on the way.
    4. `assign(i, value)` where the formula can be inverted.
    5. `iterate(start)` is an iterator from item `start` on that may beat item-by-item reads, but yields the same,
       and that can go on with the next item after an error.
    6. `grain()` is how many consecutive items share one evaluation. Views that keep order and alignment pass
       their child's on.
    7. `label()` names the operation, `sources()` what it reads; `__reduce__` ends with `self.site`.
    """

    def __cinit__(self, *args, **kwargs):
        self.site = here()

    cdef object item(self, Py_ssize_t i):
        raise NotImplementedError

    cdef Py_ssize_t size(self) except? -1:
        raise NotImplementedError

    cdef bint endless(self) except -1:
        return False

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        cdef Py_ssize_t k
        return [self.item(indices[k]) for k in range(n)]

    cdef list tries(self, const Py_ssize_t *indices, Py_ssize_t n):
        try:
            return self.items(indices, n)
        except Exception:  # which does not tell what failed
            return tried_singly(self, indices, n)

    cdef object block(self, object rows):
        return None

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        raise TypeError(f"{self.label()} does not support item assignment")

    cdef Py_ssize_t grain(self) except -1:
        return 1

    cdef object iterate(self, Py_ssize_t start):
        return ViewIterator(self, start)

    cdef View of_part(self, View part):
        """What a slice or a gather of this view is to be, for views that do not leave it at that."""
        return part

    cdef str label(self):
        return type(self).__name__.lower()

    cdef tuple sources(self):
        raise NotImplementedError

    @cython.final
    cdef int go_under(self, object source) except -1:
        """Count the views below; every read goes down all of them on the C stack, which must not run out.

        What shares work between its items below does so here, unless the view says otherwise.
        """
        self.shares = self.shares or shares_of(source)
        if isinstance(source, View) and self.depth <= (<View>source).depth:
            self.depth = (<View>source).depth + 1
            if self.depth > MAX_DEPTH:
                raise RecursionError(f"{self.label()}: more than {MAX_DEPTH} views, each over the one before")
        return 0

    def __setstate__(self, Site site):
        self.site = site

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)  # for annotations: View[int]

    @property
    def stage(self):
        """What this view does and where it was made, as in the errors that name it."""
        return f"{self.label()} at {self.site}"

    @property
    def children(self):
        """What this view reads directly, as a tuple."""
        return self.sources()

    def __len__(self):
        cdef Py_ssize_t n = self.size()
        if n == UNKNOWN:
            raise TypeError(f"{self.label()} has no length: that of its source is unknown or unbounded")
        return n

    def __getitem__(self, key):
        cdef Py_ssize_t i
        if PyLong_CheckExact(key):
            i = small_int(key)
            if i >= 0 and within_size(i, self.size()):
                return self.item(i)
        elif isinstance(key, slice):
            return self.of_part(slice_of(self, key))
        elif not is_integer(key):
            return self.of_part(gather_of(self, select(self, key)))
        return self.item(self.position(as_index(key)))

    def __getitems__(self, indices):
        """Return the items at the indices, or of the mask, as a list: read together, where that shares work."""
        cdef Py_ssize_t k, n, size = self.size()
        cdef Py_ssize_t[::1] positions
        packed = select(self, indices)
        if not isinstance(packed, numpy.ndarray):
            if length(packed) is None:
                raise TypeError(f"{self.label()}.__getitems__ reads all of its indices, and {packed!r} has no length")
            packed = pack_indices(list(packed), f"{self.label()} indices")
        positions = numpy.array(packed, numpy.intp)
        n = positions.shape[0]
        for k in range(n):
            if positions[k] < 0 or not within_size(positions[k], size):
                positions[k] = self.position(positions[k])
        if self.shares and n:
            return self.items(&positions[0], n)
        return [self.item(positions[k]) for k in range(n)]

    @property
    def bulk(self):
        """How a batch of items is read: "block", as one array for numpy.stack; "items", together; None: each alone."""
        return "block" if self.dense else "items" if self.shares else None

    def __setitem__(self, key, value):
        cdef View part
        cdef list values
        cdef Py_ssize_t n
        if is_integer(key):
            self.assign(self.position(as_index(key)), value)
            return
        part = slice_of(self, key) if isinstance(key, slice) else gather_of(self, select(self, key))
        n = part.size()
        if n == UNKNOWN:
            raise ValueError(f"{self.label()} only supports one-to-one assignment, and it is not known how many items "
                             f"{key!r} means")
        values = list(islice(value, n + 1))  # which may have no end
        if n != len(values):
            many = f"more than {n}" if len(values) > n else len(values)
            raise ValueError(f"{self.label()} only supports one-to-one assignment: {many} values for {n} items")
        for i, value in enumerate(values):
            part.assign(i, value)

    def __delitem__(self, key):
        raise TypeError(f"{self.label()} does not support item deletion")

    @cython.final
    cdef Py_ssize_t position(self, object key) except -1:
        """The item that an int means, from either end."""
        cdef Py_ssize_t n = self.size()
        cdef Py_ssize_t i = PyNumber_AsSsize_t(key, IndexError)
        cdef Py_ssize_t from_start = i
        if i < 0:
            if n == UNKNOWN:
                raise IndexError(f"{self.label()} index {i} counts from the end, but the length is unknown")
            from_start += n
        if from_start < 0 or (from_start >= n and n != UNKNOWN):
            raise IndexError(f"{self.label()} index {i} is out of range for {n} items")
        return from_start

    def __length_hint__(self):
        cdef Py_ssize_t n = self.size()
        return NotImplemented if n == UNKNOWN else n

    def __iter__(self):
        return self.iterate(0)

    def __reversed__(self):
        return iter(self[::-1])

    def __contains__(self, value):
        for item in self:
            if item is value or item == value:
                return True
        return False

    def index(self, value, start=0, stop=None):
        """Return the first index of the value, within start and stop as a slice has them; ValueError if absent."""
        cdef Py_ssize_t i
        if self.size() == UNKNOWN:
            start = as_index(start)
            part = self[start:stop]
            i = start
        else:
            i = slice(start, stop).indices(len(self))[0]
            part = self[start:stop]
        for item in part:
            if item is value or item == value:
                return i
            i += 1
        raise ValueError(f"{value!r} is not in {self.label()}")

    def count(self, value):
        """Return how many items equal the value."""
        return sum(1 for item in self if item is value or item == value)

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError(f"{self.label()} computes its items: an array of them is always a copy")
        n = len(self)
        block = self.block(slice(0, n)) if n and self.dense and casts(self, dtype) else None
        return numpy.array(list(self), dtype=dtype) if block is None else numpy.asarray(block, dtype=dtype)

    def __repr__(self):
        try:
            n = self.size()
            items = "unknown length" if n == UNKNOWN else f"{n} item{'' if n == 1 else 's'}"
        except Exception as error:  # a repr is for those who look for the error
            items = f"a length that raises {type(error).__name__}"
        return f"<lazyseq {self.label()} of {items}>"


Sequence.register(View)


@cython.final
cdef class ViewIterator:
    """Any view, index by index."""
    cdef View view
    cdef lzs_number i

    def __init__(self, View view, Py_ssize_t start):
        self.view, self.i = view, start

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t n = self.view.size(), i = lzs_take(&self.i)
        if n != UNKNOWN:
            if within_size(i, n):
                return self.view.item(i)
        elif i >= 0:
            try:
                return self.view.item(i)
            except IndexError:
                pass
        self.i = ENDED
        raise StopIteration


# ---- Indices --------------------------------------------------------------------------------------------------------


cdef bint is_integer(object key):
    """Whether key means one item; arrays have an __index__ too, to refuse it unless they hold one number."""
    return PyLong_CheckExact(key) or (PyIndex_Check(key) and not getattr(key, "ndim", 0))


cdef object array_of_any(object indexes, str name):
    try:
        return numpy.asarray(indexes)
    except ValueError:  # lists of different lengths
        raise TypeError(f"{name} must be integers, got sequences of different lengths") from None


cdef object pack_indices(object indexes, str name, str whole="any sequence"):
    """How a gather keeps its indices: arrays and lists as int64, ranges and lazy sequences as they are.

    Errors call them `name`, and what they are of `whole`.
    """
    if isinstance(indexes, str):
        raise TypeError(f"{name} must be integers, got a string: {indexes!r}")
    if type(indexes) is Arange:
        return (<Arange>indexes).numbers
    if not isinstance(indexes, (list, tuple, numpy.ndarray)):
        if not (hasattr(type(indexes), "__array__") or hasattr(indexes, "typecode")) or isinstance(indexes, View):
            return indexes
    array = array_of_any(indexes, name)
    if array.dtype.kind == "f" and isinstance(indexes, (list, tuple)) and all([PyIndex_Check(i) for i in indexes]):
        array = array.astype(object)  # ints that are too large for numpy together
    if array.size == 0 and array.ndim == 1:
        return numpy.empty(0, numpy.int64)
    if array.dtype.kind == "O":  # ints beyond int64, or objects with an __index__, or neither
        try:
            numbers = [as_index(i) for i in indexes]
        except TypeError as error:
            raise TypeError(f"{name} must hold integers: {error}") from None
        beyond = [i for i in numbers if not -PY_SSIZE_T_MAX <= i <= PY_SSIZE_T_MAX]
        if beyond:
            raise IndexError(f"{name}: {beyond[0]} is out of range of {whole}")
        array = numpy.array(numbers, numpy.int64)
    if array.ndim != 1:
        raise TypeError(f"{name} must have one dimension, got an array of shape {array.shape}")
    if array.dtype.kind == "b":
        raise TypeError(f"{name} must be integers, got booleans: to select by a mask write view[mask]")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype} values: {array[:3].tolist()}...")
    if array.dtype.kind == "u" and array.max() > PY_SSIZE_T_MAX:
        raise IndexError(f"{name}: {array.max()} is out of range of {whole}")
    return numpy.array(array, numpy.int64, order="C")  # a copy: what becomes of the original is not our concern


cdef object select(View view, object key):
    """The indices meant by an index array or a boolean mask; TypeError for whatever else stands in brackets."""
    if (isinstance(key, tuple) or isinstance(key, Mapping)  # see foreign_items
            or not (hasattr(type(key), "__getitem__") and hasattr(type(key), "__len__"))):
        raise TypeError(f"{view.label()} indices must be integers, slices, index arrays or boolean masks, "
                        f"not {type(key).__name__}: {key!r}")
    if isinstance(key, list) or (hasattr(type(key), "__array__") and not isinstance(key, View)):
        mask = array_of_any(key, f"{view.label()} indices")
        if mask.dtype == bool and mask.ndim == 1:
            if len(mask) != view.size():
                raise IndexError(f"a mask of {len(mask)} values does not fit the {view!r}")
            return numpy.flatnonzero(mask)
    return pack_indices(key, f"{view.label()} indices", f"the {view!r}")


# ---- What many views share ------------------------------------------------------------------------------------------


cdef class Derived(View):
    """A view of one source, as long as the source unless it says otherwise."""

    cdef int adopt(self, object source) except -1:
        self.source = source
        self.go_under(source)
        return 0

    cdef Py_ssize_t size(self) except? -1:
        return size_of(self.source)

    cdef bint endless(self) except -1:
        return endless_of(self.source)

    cdef tuple sources(self):
        return (self.source,)


cdef class Joined(View):
    """A view of several sources, as long as the shortest unless it says otherwise; unknown lengths are unbounded."""

    cdef int adopt(self, tuple parts) except -1:
        self.parts = parts
        for part in parts:
            self.go_under(part)
        return 0

    @property
    def sequences(self):
        """The sources, as a list."""
        return list(self.parts)

    cdef Py_ssize_t size(self) except? -1:
        cdef Py_ssize_t size, n = UNKNOWN
        for source in self.parts:
            size = size_of(source)
            if n == UNKNOWN or (size < n and size != UNKNOWN):
                n = size
        return n

    cdef bint endless(self) except -1:
        for source in self.parts:
            if size_of(source) == UNKNOWN and not endless_of(source):
                return False
        return True

    cdef Py_ssize_t grain(self) except -1:
        """Runs of the largest keep all together, where one is a multiple of the other."""
        cdef Py_ssize_t grain = 1
        for source in self.parts:
            grain = max(grain, grain_of(source))
        return grain

    cdef tuple sources(self):
        return self.parts


# ---- Reading on -----------------------------------------------------------------------------------------------------


cdef object iterator_of(object source, Py_ssize_t start):
    """An iterator over what reading from item `start` on gives, where it is sure to be the same; else None."""
    if is_a(source, View):
        return (<View>source).iterate(start)
    if type(source) is range:
        return iter(source[start:] if start else source)
    if type(source) is tuple:
        iterator = iter(source)
        if start:
            iterator.__setstate__(start)
        return iterator
    return None


# Cursor.read_on as C sees it: see item_function.
ctypedef PyObject *(*read_function)(PyObject *cursor, PyObject *stage, Py_ssize_t i, Py_ssize_t j) noexcept


@cython.final
cdef class Cursor:
    """Reads items of a source that follow one another, the fastest way that gives what reading by index gives.

    Threads: `iterator` and `j` are for the one who has raised `busy`. Whoever finds it raised, another thread or a
    function that calls what is calling it, reads by index.
    """
    cdef object source
    cdef list plain  # the source if it is an exact list
    cdef bint reads_on  # whether iterator_of has an iterator for it
    cdef lzs_number busy
    cdef object iterator
    cdef Py_ssize_t j  # the iterator's next item

    def __init__(self, source):
        self.source, self.j = source, -1
        if type(source) is list:
            self.plain = source
        self.reads_on = is_a(source, View) or type(source) is tuple or type(source) is range

    cdef inline object read(self, View stage, Py_ssize_t i, Py_ssize_t j):
        """Item j, which the stage needs for its item i; IndexError past the end."""
        cdef PyObject *item
        if self.plain is not None:
            item = item_at(<PyObject *>self.plain, j)
            if item != NULL:
                return owned(item)
        if self.reads_on:
            return self.read_on(stage, i, j)
        return pull(stage, i, self.source, j)

    cdef object read_on(self, View stage, Py_ssize_t i, Py_ssize_t j):
        cdef PyObject *item
        if not lzs_begin(&self.busy):
            return self.read_aside(stage, i, j)
        if j != self.j:
            self.go_to(j)
        item = PyIter_Next(<PyObject *>self.iterator)
        self.j = j + 1
        lzs_end(&self.busy)
        if item != NULL:
            return owned(item)
        if PyErr_Occurred() == NULL:
            raise IndexError(f"{stage.label()} index {i} is out of range: its source has ended")
        raise source_error(stage, i, self.source, j, taken_error(), seterr())

    cdef int go_to(self, Py_ssize_t j) except -1:
        """Have an iterator that goes on at item j."""
        try:
            self.iterator, self.j = iterator_of(self.source, j), j
        except BaseException:
            self.j = -1
            lzs_end(&self.busy)
            raise
        return 0

    cdef object read_aside(self, View stage, Py_ssize_t i, Py_ssize_t j):
        if not within_size(j, size_of(self.source)):
            raise IndexError(f"{stage.label()} index {i} is out of range: its source has ended")
        return pull(stage, i, self.source, j)

    cdef int drop(self) except -1:
        """Let the iterator go."""
        cdef object _dead  # which may call us when it dies
        if lzs_begin(&self.busy):
            _dead, self.iterator, self.j = self.iterator, None, -1
            lzs_end(&self.busy)
        return 0


cdef class CursorIterator:
    """Iterates a view whose items come from the next items of its sources: `combine` says how.

    It goes on with the next item after an error, also when only some of the sources have moved on.
    """
    cdef View view
    cdef list cursors
    cdef lzs_number i

    def __init__(self, View view, Py_ssize_t start):
        self.view, self.i = view, start
        self.cursors = [Cursor(source) for source in view.sources()]

    cdef object combine(self, View view, Py_ssize_t i):
        raise NotImplementedError

    cdef inline Cursor cursor(self, Py_ssize_t k):
        return <Cursor>PyList_GET_ITEM(self.cursors, k)  # nobody changes this list

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t n = self.view.size(), i = lzs_take(&self.i)
        if n != UNKNOWN:
            if within_size(i, n):
                return self.combine(self.view, i)
        elif i >= 0:
            try:
                return self.combine(self.view, i)
            except IndexError:
                pass
        self.i = ENDED
        for cursor in self.cursors:
            (<Cursor>cursor).drop()
        raise StopIteration


# ---- Slice ----------------------------------------------------------------------------------------------------------


cdef View slice_of(View source, object key):
    """source[start:stop:step], a slice of a slice being one slice."""
    cdef Py_ssize_t start, stop, step, most, n = source.size(), count = UNKNOWN
    cdef Slice inner
    PySlice_Unpack(key, &start, &stop, &step)
    if n == UNKNOWN:
        if start < 0 or step < 0 or (key.stop is not None and stop < 0):
            raise IndexError(f"{source.label()} slice {key} counts from the end, but the length is unknown")
        if (key.start is not None and start != as_index(key.start)) or (key.step is not None and step != key.step):
            raise OverflowError(f"{source.label()} slice {key} has more than 64 bits")
        most = (PY_SSIZE_T_MAX - 1 - start) // step  # the last item whose index in the source is one
        if key.stop is not None:
            count = 0 if stop <= start else (stop - start - 1) // step + 1
            most = min(most, count - 1)
            if count > 0 and not source.endless():
                count = UNKNOWN  # or less, where the source ends before
    else:
        count = PySlice_AdjustIndices(n, &start, &stop, step)
        most = count - 1
    if 0 <= count <= 1:
        step = 1  # the product of two steps below stays within the sequence, unless nobody takes a step
    if count == 0:
        start = 0  # where an empty slice stands is nowhere, or before the first item
    if type(source) is Gather and n >= 0:
        return Gather((<Gather>source).source, (<Gather>source).buffer[key])
    if type(source) is LazyGather and type((<LazyGather>source).lazy) is range:
        return LazyGather((<LazyGather>source).source, (<LazyGather>source).lazy[key])
    if type(source) is Slice:
        inner = source
        if count == 0 or start > inner.most:
            return Slice(inner.source, 0, 1, 0, -1)
        most = min(most, (inner.most - start) // step) if step > 0 else most
        if step > 0 and most == 0:
            step = 1
        elif n == UNKNOWN and step > PY_SSIZE_T_MAX // inner.step:
            raise OverflowError(f"{source.label()} slice {key} takes a step of more than 64 bits")
        return Slice(inner.source, inner.start + start * inner.step, inner.step * step, count, most)
    return Slice(source, start, step, count, most)


@cython.final
cdef class Slice(Derived):
    """slice[i] = source[start + i * step]"""
    cdef Py_ssize_t start, step, n
    cdef Py_ssize_t most  # the last item that there may be; n - 1 where n is known

    def __init__(self, source, Py_ssize_t start, Py_ssize_t step, Py_ssize_t n, Py_ssize_t most):
        self.start, self.step, self.n, self.most = start, step, n, most
        self.adopt(source)
        self.dense = dense_of(source)

    cdef inline Py_ssize_t target(self, Py_ssize_t i) except -1:
        if i > self.most:
            raise IndexError(f"slice index {i} is out of range for at most {self.most + 1} items")
        return self.start + i * self.step

    cdef object item(self, Py_ssize_t i):
        if i > self.most:
            self.target(i)  # which says so
        return pull(self, i, self.source, self.start + i * self.step)

    cdef Py_ssize_t size(self) except? -1:
        return self.n

    cdef bint endless(self) except -1:
        return self.most >= (PY_SSIZE_T_MAX - 1 - self.start) // self.step and endless_of(self.source)

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        rows = array_of(indices, n)
        if rows.max() > self.most:
            return View.items(self, indices, n)  # which fails there
        rows = self.start + rows * self.step
        return pull_many(self, indices, self.source, data_of(rows), n)

    cdef list tries(self, const Py_ssize_t *indices, Py_ssize_t n):
        rows = array_of(indices, n)
        if rows.max() > self.most:
            return tried_singly(self, indices, n)
        rows = self.start + rows * self.step
        return tried(self, indices, self.source, data_of(rows), n)

    cdef object block(self, object rows):
        if (rows.stop if type(rows) is slice else rows.max() + 1) > self.most + 1:
            return None
        if type(rows) is slice and self.step == 1:
            return block_of(self, rows, self.source, slice(self.start + rows.start, self.start + rows.stop))
        return block_of(self, rows, self.source, self.start + all_rows(rows) * self.step)

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        return store(self.source, self.target(i), value)

    cdef Py_ssize_t grain(self) except -1:
        cdef Py_ssize_t grain = grain_of(self.source)
        return grain if self.step == 1 and self.start % grain == 0 else 1

    cdef object iterate(self, Py_ssize_t start):
        return SliceIterator(self, start) if self.step == 1 else ViewIterator(self, start)

    cdef str label(self):
        return "slice"

    def __reduce__(self):
        return Slice, (self.source, self.start, self.step, self.n, self.most), self.site


@cython.final
cdef class SliceIterator(CursorIterator):
    """The next items of a source, for a slice that leaves none out."""

    cdef object combine(self, View view, Py_ssize_t i):
        if i > (<Slice>view).most:
            raise IndexError(f"slice index {i} is out of range")
        return self.cursor(0).read(view, i, (<Slice>view).start + i)


# ---- Smap -----------------------------------------------------------------------------------------------------------


cdef inline int views_of(View stage) noexcept:
    """How many views a function of the stage's, or a source, may send a read of one item through."""
    return 10 + stage.depth


cdef int enter(View stage, int views) except -1:
    """Begin what may read this very view: an endless recursion must end in an error rather than with the stack.

    A source may give views that read it. Where no function in Python is on the way, as with smap(list, source), only
    this counts the turns; CPython's own count allows, from 3.12 on, more of them than the stack has room for.
    """
    global nesting
    nesting += views
    if nesting > MAX_NESTING:
        leave(views)
        raise RecursionError(f"{stage.label()} made at {stage.site} reads itself without end")
    return 0


cdef void leave(int views) noexcept:
    global nesting
    nesting -= views


cdef object call(View stage, object f, object arguments):
    """f(*arguments)"""
    enter(stage, views_of(stage))
    try:
        return f(*arguments)
    finally:
        leave(views_of(stage))


cdef str name_of(object f):
    try:
        name = f.__name__
    except Exception:  # whatever its __getattr__ raises: a name is for messages
        name = None
    return name if type(name) is str else type(f).__name__


cdef class Mapped(Derived):
    """A view whose item i is made of item i of its source: `apply` says how."""

    cdef object apply(self, Py_ssize_t i, object value):
        raise NotImplementedError

    cdef object item(self, Py_ssize_t i):
        return self.apply(i, pull(self, i, self.source, i))

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        cdef Py_ssize_t k
        cdef Chain chain = chain_of(self, self, indices, n, False)
        return [chain.item(k) for k in range(n)]

    cdef list tries(self, const Py_ssize_t *indices, Py_ssize_t n):
        cdef Py_ssize_t k = 0
        cdef Chain chain = chain_of(self, self, indices, n, True)
        cdef list values = []
        while k < n:
            try:  # once, and not for each item: it costs as much as a cheap function
                while k < n:
                    values.append(chain.item(k))
                    k += 1
            except Exception as error:
                values.append(Raised(error))
                k += 1
        return values

    cdef Py_ssize_t grain(self) except -1:
        return grain_of(self.source)


@cython.final
cdef class Chain:
    """Items of views that are each made of the same item of the one below: what lies under these is read together.

    From there each item goes the whole way up by itself, so that functions see what they see when it is read alone, in
    the same order, and also when one of them fails.
    """
    cdef list stages  # from the top down
    cdef object indices
    cdef list values  # those read together, of which none is kept that was used

    cdef object item(self, Py_ssize_t k):
        """Item k of those wanted, once; the next may be had although this one fails."""
        cdef Py_ssize_t i = self.indices[k], m = len(self.stages)
        cdef object value = self.values[k]
        self.values[k] = None
        if type(value) is Raised:
            self.tell(value, i)
            return value
        try:
            while m > 0:
                m -= 1
                value = (<Mapped>self.stages[m]).apply(i, value)
        except BaseException as error:
            raise self.failed(m, i, error)
        return value

    cdef int tell(self, Raised value, Py_ssize_t i) except -1:
        cdef Py_ssize_t m = len(self.stages) - 1
        if m > 0 and value.stage is not self.stages[0]:
            while m > 0:
                m -= 1
                value.tell(self.stages[m], i, self.stages[m + 1], i)
        return 0

    cdef object failed(self, Py_ssize_t m, Py_ssize_t i, object error):
        """What to raise when stage m raised the error for item i."""
        while m > 0:
            m -= 1
            error = source_error(self.stages[m], i, self.stages[m + 1], i, error, seterr())
        return error


cdef Chain chain_of(View stage, object source, const Py_ssize_t *indices, Py_ssize_t n, bint tries):
    """The items of the source at the indices, which the stage needs for its own of the same indices; see View.tries."""
    cdef Chain chain = Chain.__new__(Chain)
    cdef Py_ssize_t m
    chain.stages = []
    while is_a(source, Mapped):
        stage = <View>source
        source = (<Mapped>source).source
        chain.stages.append(stage)
    chain.indices = array_of(indices, n).tolist()
    m = len(chain.stages) - 1
    try:
        if tries:
            chain.values = tried(stage, indices, source, indices, n)
        else:
            chain.values = pull_many(stage, indices, source, indices, n)
    except BaseException as error:
        while m > 0:
            m -= 1
            error = joint_error(chain.stages[m], indices[0], chain.stages[m + 1], indices, n, error, seterr())
        raise error
    return chain


cdef class Applied(Mapped):
    """A function of each item of one source."""
    cdef readonly object f

    @property
    def sequences(self):
        """The sources, as a list."""
        return [self.source]

    cdef object iterate(self, Py_ssize_t start):
        if is_a(self.source, View):
            return AppliedIterator(self, start)
        if not FREE_THREADED and (type(self.source) is tuple or type(self.source) is range):
            return AppliedIterator(self, start)
        return ViewIterator(self, start)

    cdef str label(self):
        return f"{type(self).__name__.lower()}({name_of(self.f)})"

    def __reduce__(self):
        return type(self), (self.f, self.source), self.site


@cython.final
cdef class AppliedIterator:
    """A function over the next item of a source whose own iterator knows where it ends.

    Threads: the source's iterator is ours, or a builtin one that a GIL guards; it gives each item once, and `i` is for
    errors: of threads that share the iterator, one may read the name of a neighbouring item there.
    """
    cdef Applied view
    cdef object iterator
    cdef lzs_number i

    def __init__(self, Applied view, Py_ssize_t start):
        self.view, self.iterator, self.i = view, iterator_of(view.source, start), start

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t i = lzs_take(&self.i)
        cdef PyObject *item = PyIter_Next(<PyObject *>self.iterator)
        if item == NULL:
            if PyErr_Occurred() == NULL:
                raise StopIteration
            raise source_error(self.view, i, self.view.source, i, taken_error(), seterr())
        return self.view.apply(i, owned(item))


@cython.final
cdef class Smap(Applied):
    """smap[i] = f(source[i])"""
    cdef vectorcallfunc direct  # the function's own, or NULL: saves the interpreter's way round
    cdef bint counts  # whether the function counts recursions itself, as functions in Python do

    def __init__(self, f, source):
        self.f = f
        self.counts = PyFunction_Check(f)
        self.direct = PyVectorcall_Function(f) if self.counts or PyCFunction_Check(f) else NULL
        self.adopt(source)

    cdef object iterate(self, Py_ssize_t start):
        return SmapIterator(self, start) if type(self.source) is list else Applied.iterate(self, start)

    cdef object item(self, Py_ssize_t i):
        return self.apply(i, pull(self, i, self.source, i))  # here, and not above, the compiler knows which apply

    cdef inline object apply(self, Py_ssize_t i, object value):
        cdef PyObject *arguments[2]
        cdef PyObject *result
        if self.direct != NULL and (self.counts or is_number(value)):
            arguments[1] = <PyObject *>value
            result = self.direct(<PyObject *>self.f, arguments + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)
            return owned(result) if result != NULL else self.apply_failed(i)
        return self.apply_any(i, value)

    cdef object apply_failed(self, Py_ssize_t i):
        raise function_error(self, i, taken_error())

    cdef object apply_any(self, Py_ssize_t i, object value):
        enter(self, views_of(self))
        try:
            return self.f(value)
        except BaseException as error:
            raise function_error(self, i, error)
        finally:
            leave(views_of(self))


@cython.final
cdef class SmapIterator:
    """An smap over an exact list, without a detour."""
    cdef Smap view
    cdef list plain
    cdef lzs_number i

    def __init__(self, Smap view, Py_ssize_t start):
        self.view, self.plain, self.i = view, view.source, start

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t i = lzs_take(&self.i)
        cdef PyObject *item = item_at(<PyObject *>self.plain, i)
        if item == NULL:
            self.i = ENDED  # it stays there, as a list's own iterator does
            raise StopIteration
        return self.view.apply(i, owned(item))


@cython.final
cdef class Starmap(Applied):
    """starmap[i] = f(*source[i])"""

    def __init__(self, f, source):
        self.f = f
        self.adopt(source)

    cdef object apply(self, Py_ssize_t i, object value):
        try:
            return call(self, self.f, value)
        except BaseException as error:
            raise function_error(self, i, error)


@cython.final
cdef class SmapN(Joined):
    """smap[i] = f(sequences[0][i], sequences[1][i], ...)"""
    cdef readonly object f

    def __init__(self, f, tuple parts):
        self.f = f
        self.adopt(parts)

    cdef object item(self, Py_ssize_t i):
        arguments = [pull(self, i, source, i) for source in self.parts]
        return self.apply(i, arguments)

    cdef object apply(self, Py_ssize_t i, object arguments):
        try:
            return call(self, self.f, arguments)
        except BaseException as error:
            raise function_error(self, i, error)

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        cdef Py_ssize_t k
        rows = zip(*[pull_many(self, indices, source, indices, n) for source in self.parts])
        return [self.apply(indices[k], row) for k, row in enumerate(rows)]

    cdef list tries(self, const Py_ssize_t *indices, Py_ssize_t n):
        cdef Py_ssize_t k
        cdef list values = []
        for k, row in enumerate(zip(*[tried(self, indices, source, indices, n) for source in self.parts])):
            failed = [value for value in row if type(value) is Raised]
            try:
                values.append(failed[0] if failed else self.apply(indices[k], row))
            except Exception as error:
                values.append(Raised(error))
        return values

    cdef object iterate(self, Py_ssize_t start):
        return SmapNIterator(self, start)

    cdef str label(self):
        return f"smap({name_of(self.f)})"

    def __reduce__(self):
        return SmapN, (self.f, self.parts), self.site


@cython.final
cdef class SmapNIterator(CursorIterator):
    """A function over the next items of several sources."""

    cdef object combine(self, View view, Py_ssize_t i):
        return (<SmapN>view).apply(i, [(<Cursor>cursor).read(view, i, i) for cursor in self.cursors])


# ---- Gather ---------------------------------------------------------------------------------------------------------


cdef Py_ssize_t within(View stage, object source, Py_ssize_t j) except -1:
    """The item of the source that j means, from either end."""
    cdef Py_ssize_t n = size_of(source)
    cdef Py_ssize_t i = j
    if i < 0 and n != UNKNOWN:
        i += n
    if i < 0 or (i >= n and n != UNKNOWN):
        size = "a source of unknown length" if n == UNKNOWN else f"the {n} items of its source"
        raise IndexError(f"{stage.label()}: index {j} is out of range for {size}")
    return i


cdef object from_start(object indices, Py_ssize_t n):
    """The indices of n items, those counted from the end replaced; None where one is out of range."""
    cdef Py_ssize_t k
    cdef bint negative = False
    cdef const int64_t[:] targets = indices
    for k in range(targets.shape[0]):
        if targets[k] < 0:
            if n == UNKNOWN or targets[k] < -n:
                return None
            negative = True
        elif not within_size(targets[k], n):
            return None
    return numpy.where(indices < 0, indices + n, indices) if negative else indices


def gather(source, indexes):
    """The view behind lazyseq.gather, from a checked source."""
    return gather_of(source, pack_indices(indexes, "gather: indexes"))


cdef View gather_of(object source, object indices):
    """The view of source at the given (packed) indices, a gather of a gather being one."""
    cdef Py_ssize_t n
    if not isinstance(indices, numpy.ndarray):
        return LazyGather(source, indices)
    if type(source) is Gather and len(indices):
        n = (<Gather>source).packed.shape[0]
        if -n <= indices.min() and indices.max() < n:  # else some reads fail, and say which view's index it was
            return Gather((<Gather>source).source, (<Gather>source).buffer[indices])
    return Gather(source, indices)


cdef View rebased(View part, object source):
    """The same slice or gather, of another source."""
    if type(part) is Slice:
        return Slice(source, (<Slice>part).start, (<Slice>part).step, (<Slice>part).n, (<Slice>part).most)
    if type(part) is Gather:
        return Gather(source, (<Gather>part).buffer)
    return LazyGather(source, (<LazyGather>part).lazy)


cdef View gathered(object source, list indices):
    """A gather by indices that are in range."""
    return Gather(source, numpy.array(indices, numpy.int64))


@cython.final
cdef class Gather(Derived):
    """gather[i] = source[indexes[i]], the indexes in an int64 buffer"""
    cdef object buffer
    cdef const int64_t[:] packed  # the buffer; strided: a slice of a gather looks at the same memory

    def __init__(self, source, buffer):
        self.buffer = self.packed = buffer
        self.adopt(source)
        self.dense = dense_of(source)

    @property
    def indexes(self):
        return self.buffer.tolist()

    cdef Py_ssize_t target(self, Py_ssize_t i) except -1:
        if i >= self.packed.shape[0]:
            raise IndexError(f"gather index {i} is out of range for {self.packed.shape[0]} items")
        return within(self, self.source, self.packed[i])

    cdef object item(self, Py_ssize_t i):
        return pull(self, i, self.source, self.target(i))

    cdef Py_ssize_t size(self) except? -1:
        return self.packed.shape[0]

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        targets = self.targets(indices, n)
        return pull_many(self, indices, self.source, data_of(targets), n)

    cdef list tries(self, const Py_ssize_t *indices, Py_ssize_t n):
        targets = self.targets(indices, n)
        return tried(self, indices, self.source, data_of(targets), n)

    cdef object targets(self, const Py_ssize_t *indices, Py_ssize_t n):
        """The source's indices."""
        cdef Py_ssize_t k
        cdef Py_ssize_t[::1] mapped = numpy.empty(n, numpy.intp)
        for k in range(n):
            mapped[k] = self.target(indices[k])
        return numpy.asarray(mapped)

    cdef object block(self, object rows):
        targets = from_start(self.buffer[rows], size_of(self.source))
        return None if targets is None else block_of(self, rows, self.source, targets)

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        return store(self.source, self.target(i), value)

    cdef object iterate(self, Py_ssize_t start):
        return GatherIterator(self, start)

    def __reduce__(self):
        return Gather, (self.source, self.buffer), self.site


@cython.final
cdef class GatherIterator:
    """A gather; over an exact list without a detour."""
    cdef Gather view
    cdef list plain
    cdef const char *first  # the index of item 0
    cdef Py_ssize_t n, stride
    cdef lzs_number i

    def __init__(self, Gather view, Py_ssize_t start):
        self.view, self.i = view, start
        self.n = view.packed.shape[0]
        if type(view.source) is list and self.n:
            self.plain, self.first, self.stride = view.source, <const char *>&view.packed[0], view.packed.strides[0]

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t i = lzs_take(&self.i)
        cdef PyObject *item
        if not within_size(i, self.n):
            self.i = ENDED
            raise StopIteration
        if self.plain is not None:
            item = item_at(<PyObject *>self.plain, (<const int64_t *>(self.first + i * self.stride))[0])
            if item != NULL:
                return owned(item)
        return self.view.item(i)


@cython.final
cdef class LazyGather(Derived):
    """gather[i] = source[indexes[i]], the indexes read when needed"""
    cdef object lazy

    def __init__(self, source, lazy):
        self.lazy = lazy
        self.adopt(source)
        self.go_under(lazy)
        self.dense = type(lazy) is range and dense_of(source)

    @property
    def indexes(self):
        return list(self.lazy)

    cdef Py_ssize_t target(self, Py_ssize_t i) except -1:
        return self.meant(i, pull(self, i, self.lazy, i))

    cdef Py_ssize_t meant(self, Py_ssize_t i, object index) except -1:
        """The item of the source that item i's index means."""
        if not is_integer(index) or type(index) is bool:
            raise function_error(self, i, TypeError(f"gather: indexes must be integers, got {index!r}"))
        try:
            return within(self, self.source, PyNumber_AsSsize_t(index, IndexError))
        except IndexError as error:
            if self.size() != UNKNOWN:
                raise
            raise function_error(self, i, error)  # a bare IndexError would say that the indexes have ended

    cdef object item(self, Py_ssize_t i):
        return pull(self, i, self.source, self.target(i))

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        targets = self.all_meant(indices, pull_many(self, indices, self.lazy, indices, n))
        return pull_many(self, indices, self.source, data_of(targets), n)

    cdef object all_meant(self, const Py_ssize_t *indices, list targets):
        cdef Py_ssize_t k
        cdef Py_ssize_t[::1] mapped = numpy.empty(len(targets), numpy.intp)
        for k in range(len(targets)):
            mapped[k] = self.meant(indices[k], targets[k])
        return numpy.asarray(mapped)

    cdef object block(self, object rows):
        """Only the indices of a range are asked for: others may be computed, and are by the items if this fails."""
        cdef Py_ssize_t n = size_of(self.source)
        cdef Py_ssize_t most = PY_SSIZE_T_MAX if n == UNKNOWN else n
        ends = (rows.start, rows.stop - 1) if type(rows) is slice else (int(rows.min()), int(rows.max()))
        first, last = sorted(self.lazy[end] for end in ends)  # Python's numbers, which do not wrap
        if first < -most or last >= most:
            return None
        if type(rows) is slice and self.lazy.step == 1 and first >= 0:
            return block_of(self, rows, self.source, slice(first, last + 1))
        targets = from_start(self.lazy.start + all_rows(rows) * self.lazy.step, n)
        return None if targets is None else block_of(self, rows, self.source, targets)

    cdef Py_ssize_t size(self) except? -1:
        return size_of(self.lazy)

    cdef bint endless(self) except -1:
        return endless_of(self.lazy)

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        return store(self.source, self.target(i), value)

    cdef str label(self):
        return "gather"

    def __reduce__(self):
        return LazyGather, (self.source, self.lazy), self.site


# ---- Arange, cycle, repeat ------------------------------------------------------------------------------------------


@cython.final
cdef class Arange(View):
    """arange[i] = start + i * step"""
    cdef object numbers  # a range: it knows how to search itself
    cdef Py_ssize_t start, step, n

    def __init__(self, numbers):
        self.numbers = numbers
        self.start, self.step, self.n = numbers.start, numbers.step, len(numbers)

    cdef object item(self, Py_ssize_t i):
        return self.start + i * self.step

    cdef Py_ssize_t size(self) except? -1:
        return self.n

    cdef object iterate(self, Py_ssize_t start):
        # Without a GIL, threads that share a range's own iterator are given items beyond its end.
        return ViewIterator(self, start) if FREE_THREADED else iter(self.numbers[start:])

    def __contains__(self, value):
        return value in self.numbers

    def index(self, value, start=0, stop=None):
        """Return the first index of the value, within start and stop as a slice has them; ValueError if absent."""
        first = slice(start, stop).indices(self.n)[0]
        try:
            return first + self.numbers[start:stop].index(value)
        except ValueError:
            raise ValueError(f"{value!r} is not in {self.label()}") from None

    def count(self, value):
        """Return how many items equal the value."""
        return self.numbers.count(value)

    cdef tuple sources(self):
        return ()

    def __reduce__(self):
        return Arange, (self.numbers,), self.site


@cython.final
cdef class Cycle(Derived):
    """cycle[i] = source[i % len(source)]"""
    cdef Py_ssize_t limit  # or UNKNOWN

    def __init__(self, source, Py_ssize_t limit):
        self.limit = limit
        self.adopt(source)
        self.dense = dense_of(source)

    cdef Py_ssize_t target(self, Py_ssize_t i) except -1:
        cdef Py_ssize_t n = size_of(self.source)
        if n <= 0:
            raise IndexError("cycle: the sequence has become empty")
        return i % n

    cdef object item(self, Py_ssize_t i):
        return pull(self, i, self.source, self.target(i))

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        self.target(0)  # which fails where there is none
        rows = array_of(indices, n) % size_of(self.source)
        return pull_many(self, indices, self.source, data_of(rows), n)

    cdef object block(self, object rows):
        cdef Py_ssize_t n = size_of(self.source)
        return block_of(self, rows, self.source, all_rows(rows) % n) if n > 0 else None

    cdef Py_ssize_t size(self) except? -1:
        return self.limit

    cdef bint endless(self) except -1:
        return True

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        return store(self.source, self.target(i), value)

    cdef Py_ssize_t grain(self) except -1:
        cdef Py_ssize_t grain = grain_of(self.source)
        return grain if size_of(self.source) % grain == 0 else 1

    def __reduce__(self):
        return Cycle, (self.source, self.limit), self.site


@cython.final
cdef class Repeat(View):
    """repeat[i] = value

    Threads: an assignment replaces the one value; a critical section keeps readers from a reference that is being
    replaced where there is no GIL.
    """
    cdef object value
    cdef Py_ssize_t times  # or UNKNOWN

    def __init__(self, value, Py_ssize_t times):
        self.value, self.times = value, times

    cdef object item(self, Py_ssize_t i):
        with cython.critical_section(self):
            value = self.value
        return value

    cdef Py_ssize_t size(self) except? -1:
        return self.times

    cdef bint endless(self) except -1:
        return True

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        with cython.critical_section(self):
            self.value, value = value, self.value
        return 0

    cdef tuple sources(self):
        return ()

    def __reduce__(self):
        return Repeat, (self.item(0), self.times), self.site


# ---- Switch, case ---------------------------------------------------------------------------------------------------


cdef class Choosing(Joined):
    """Item i of the part that item i of the first part chooses."""

    def __init__(self, tuple parts):
        self.adopt(parts)

    cdef Py_ssize_t chosen(self, Py_ssize_t i, object choice) except -1:
        """Which part the choice for item i means."""
        raise NotImplementedError

    cdef Py_ssize_t size(self) except? -1:
        """That of the choices: asking all parts takes exponential time where they share what lies below."""
        cdef Py_ssize_t n = size_of(self.parts[0])
        return n if n != UNKNOWN else Joined.size(self)

    cdef object part_for(self, Py_ssize_t i):
        return self.parts[self.chosen(i, pull(self, i, self.parts[0], i))]

    cdef object item(self, Py_ssize_t i):
        return pull(self, i, self.part_for(i), i)

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        cdef Py_ssize_t k
        cdef list choices = pull_many(self, indices, self.parts[0], indices, n)
        which = numpy.array([self.chosen(indices[k], choices[k]) for k in range(n)], numpy.intp)
        return scattered(self, indices, self.parts, which, array_of(indices, n))

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        return store(self.part_for(i), i, value)

    def __reduce__(self):
        return type(self), (self.parts,), self.site


@cython.final
cdef class Case(Choosing):
    """case[i] = values[selector[i]][i], the selector being the first part"""

    cdef Py_ssize_t chosen(self, Py_ssize_t i, object choice) except -1:
        try:
            return range(1, len(self.parts))[choice]
        except BaseException as error:
            if type(error) in (IndexError, TypeError):
                error = type(error)(f"case: selector[{i}] must be the index of one of {len(self.parts) - 1} sequences, "
                                    f"got {choice!r}")
            raise function_error(self, i, error)


@cython.final
cdef class Switch(Choosing):
    """switch[i] = x[i] if condition[i] else y[i]"""

    cdef Py_ssize_t chosen(self, Py_ssize_t i, object choice) except -1:
        try:
            return 1 if choice else 2
        except BaseException as error:  # an array, say, has no truth
            raise function_error(self, i, error)


# ---- Concatenate ----------------------------------------------------------------------------------------------------


@cython.final
cdef class Concatenate(Joined):
    """concat[i] = parts[k][i - offset[k]], k = bisect(offset, i)

    Lengths are taken when it is made: a part that grows shows nothing more, one that shrinks gives IndexErrors. The
    last part may be of unknown length.
    """
    cdef Py_ssize_t *offsets  # where each part begins, and the last one ends or PY_SSIZE_T_MAX
    cdef Py_ssize_t n
    cdef double density  # parts by item

    def __dealloc__(self):
        PyMem_Free(self.offsets)

    def __init__(self, tuple parts, check=None):
        """`check` is called with parts that are not all lists: a million of these are looked at only once."""
        cdef Py_ssize_t k, size, lists
        if self.offsets != NULL:
            raise TypeError("a concatenation is made once")
        lists = self.begin(parts)
        if lists < len(parts):
            if check is not None:
                check(parts)
            parts = flattened(parts)
            lists = self.begin(parts)
        self.parts = parts
        self.dense = len(parts) > lists == 0 and dense_together(parts)
        for k in range(lists, len(parts)):
            self.offsets[k] = self.n
            self.go_under(parts[k])
            size = size_of(parts[k])
            if size == UNKNOWN:
                if k < len(parts) - 1:
                    raise TypeError(f"concatenate: sequences[{k}] has no length, which only the last one may lack, "
                                    f"got {type(parts[k]).__name__}")
                self.n = UNKNOWN
            elif size > PY_SSIZE_T_MAX - self.n:
                raise OverflowError(f"concatenate: the sequences hold more than {PY_SSIZE_T_MAX} items")
            else:
                self.n += size
        self.offsets[len(parts)] = PY_SSIZE_T_MAX if self.n == UNKNOWN else self.n
        self.density = len(parts) / <double>self.offsets[len(parts)] if self.offsets[len(parts)] else 0

    cdef Py_ssize_t begin(self, tuple parts) except -1:
        """Set the offsets of the leading lists, and return how many these are."""
        cdef void *offsets = PyMem_Realloc(self.offsets, (len(parts) + 1) * sizeof(Py_ssize_t))
        if offsets == NULL:
            raise MemoryError
        self.offsets = <Py_ssize_t *>offsets
        return begin_lists(parts, self.offsets, &self.n)

    cdef Py_ssize_t part_of(self, Py_ssize_t i) noexcept:
        """The last part that begins at or before i: where it would be if all were as long, or else by bisection."""
        cdef Py_ssize_t low = <Py_ssize_t>(i * self.density), half, n = PyTuple_GET_SIZE(self.parts)
        if low < n and self.offsets[low] <= i < self.offsets[low + 1]:
            return low
        low = 0
        while n > 1:
            half = n >> 1
            low = low + half if self.offsets[low + half] <= i else low  # an assignment either way: no jump to predict
            n -= half
        return low

    cdef object item(self, Py_ssize_t i):
        cdef Py_ssize_t k = self.part_of(i)
        return pull(self, i, self.parts[k], i - self.offsets[k])

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        which, positions = self.locate_all(array_of(indices, n))
        return scattered(self, indices, self.parts, which, positions)

    cdef object block(self, object rows):
        cdef Py_ssize_t k
        if type(rows) is slice:
            k = self.part_of(rows.start)
            if rows.stop <= self.offsets[k + 1]:
                inner = slice(rows.start - self.offsets[k], rows.stop - self.offsets[k])
                return block_of(self, rows, self.parts[k], inner)
        which, positions = self.locate_all(all_rows(rows))
        return scattered_block(self, rows, self.parts, which, positions)

    cdef tuple locate_all(self, object wanted):
        """Arrays of the parts that hold the items, and where in these."""
        cdef const Py_ssize_t[:] rows = wanted
        cdef Py_ssize_t m, k, n = rows.shape[0]
        cdef Py_ssize_t[::1] which = numpy.empty(n, numpy.intp), positions = numpy.empty(n, numpy.intp)
        for m in range(n):
            k = self.part_of(rows[m])
            which[m], positions[m] = k, rows[m] - self.offsets[k]
        return numpy.asarray(which), numpy.asarray(positions)

    cdef bint is_as_it_was(self) except -1:
        """Whether all parts have the lengths still that they had."""
        cdef Py_ssize_t k, n = len(self.parts)
        for k in range(n):
            if k == n - 1 and self.n == UNKNOWN:
                return size_of(self.parts[k]) == UNKNOWN
            if size_of(self.parts[k]) != self.offsets[k + 1] - self.offsets[k]:
                return False
        return True

    cdef Py_ssize_t size(self) except? -1:
        return self.n

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        cdef Py_ssize_t k = self.part_of(i)
        return store(self.parts[k], i - self.offsets[k], value)

    cdef Py_ssize_t grain(self) except -1:
        cdef Py_ssize_t k, grain = Joined.grain(self)
        for k in range(len(self.parts)):
            if self.offsets[k] % grain or grain_of(self.parts[k]) not in (1, grain):
                return 1
        return grain

    cdef object iterate(self, Py_ssize_t start):
        return ConcatenateIterator(self, start)

    def __reduce__(self):
        return Concatenate, (self.parts,), self.site


@cython.final
cdef class ConcatenateIterator:
    """A concatenation, part by part; exact lists without a detour.

    Threads: critical sections guard where it stands, and run no code of the user's.
    """
    cdef Concatenate view
    cdef Py_ssize_t k, j, count  # the part, the next item in it, and how many it has, or UNKNOWN
    cdef list plain  # the part if it is an exact list; the view keeps it alive
    cdef Cursor cursor  # in the part otherwise

    def __init__(self, Concatenate view, Py_ssize_t start):
        self.view = view
        self.k = view.part_of(start) - 1
        if self.next_part():
            self.j = start - view.offsets[self.k]
            if self.count != UNKNOWN:
                self.j = min(self.j, self.count)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t k, j
        cdef bint taken = False
        cdef PyObject *item = NULL
        cdef lzs_section section
        lzs_lock(&section, <PyObject *>self)
        k, j = self.k, self.j
        if self.plain is not None and j < self.count:
            taken = True
            self.j = j + 1  # first: reading a list may let another thread into the section
            item = item_at(<PyObject *>self.plain, j)
        lzs_unlock(&section)
        if item != NULL:
            return owned(item)
        return pull(self.view, self.view.offsets[k] + j, self.view.parts[k], j) if taken else self.next_slowly()

    cdef object next_slowly(self):
        cdef Concatenate view = self.view
        cdef Py_ssize_t i, j, k
        cdef Cursor cursor, _dead  # which dies outside the section
        with cython.critical_section(self):
            _dead = self.cursor
            if self.j == self.count:
                self.next_part()
            k, j, cursor = self.k, self.j, self.cursor
            if k < PyTuple_GET_SIZE(view.parts):
                self.j = j + 1
        if k == len(view.parts):
            raise StopIteration
        i = view.offsets[k] + j
        if cursor is None:
            return pull(view, i, view.parts[k], j)
        if view.n != UNKNOWN or k < len(view.parts) - 1:
            return cursor.read(view, i, j)
        try:
            return cursor.read(view, i, j)
        except IndexError:
            with cython.critical_section(self):
                self.end()  # the cursor is ours as well, so that it does not die in here
        raise StopIteration

    cdef bint next_part(self) except -1:
        cdef tuple parts = self.view.parts
        cdef Py_ssize_t k = self.k, count = 0
        cdef list plain = None
        cdef Cursor cursor = None
        while count == 0:
            k += 1
            if k >= len(parts):
                self.end()
                return False
            count = UNKNOWN
            if k < len(parts) - 1 or self.view.n != UNKNOWN:
                count = self.view.offsets[k + 1] - self.view.offsets[k]
        if type(parts[k]) is list:
            plain = parts[k]
        else:
            cursor = Cursor(parts[k])
        self.k, self.j, self.count, self.plain, self.cursor = k, 0, count, plain, cursor
        return True

    cdef int end(self) except -1:
        self.k, self.j, self.count, self.plain, self.cursor = len(self.view.parts), 0, 0, None, None
        return 0


def all_plain(tuple sequences):
    """Whether all are exact lists, tuples or views, so that there is nothing to check about them."""
    for sequence in sequences[leading_lists(sequences):]:
        if not (type(sequence) is list or type(sequence) is tuple or is_a(sequence, View)):
            return False
    return True


cdef tuple flattened(tuple sequences):
    """The sequences, nested concatenations replaced by their parts, unless these have changed since."""
    if not any([type(each) is Concatenate for each in sequences]):
        return sequences
    parts = []
    for sequence in sequences:
        nested = type(sequence) is Concatenate and (<Concatenate>sequence).is_as_it_was()
        parts.extend((<Concatenate>sequence).parts if nested else (sequence,))
    return tuple(parts)


# ---- Interleave -----------------------------------------------------------------------------------------------------


@cython.final
cdef class Interleave(Joined):
    """interleave[i] = parts[p][row], in turns among the parts that are longer than row

    Parts of one length end together, at the edge of a level. Within a level of `active` parts, item r of it lies in
    row r // active, and in the part that is number r % active among those still active, in their order. That part is
    found in a wavelet matrix over the parts sorted by length (Claude and Navarro, The Wavelet Matrix, 2012), in as many
    steps as their number has bits; so is the level, by bisection.

    Lengths are taken when it is made; unknown ones count as unbounded.
    """
    cdef Py_ssize_t n, levels, bits
    cdef list sizes
    cdef const int64_t[::1] begin  # by level: its first item
    cdef const int64_t[::1] row  # by level: its first row
    cdef const int64_t[::1] ended  # by level: how many parts have ended before it
    cdef int64_t[:, ::1] zeros  # by bit, from the highest: how many of the first parts have a 0 there

    def __init__(self, tuple parts):
        self.adopt(parts)
        self.dense = len(parts) > 0 and dense_together(parts)
        self.sizes = sizes = [size_of(part) for part in parts]
        known = sorted(size for size in sizes if size != UNKNOWN)
        self.n = UNKNOWN if len(known) < len(parts) else 0
        if sum(known) > PY_SSIZE_T_MAX:
            raise OverflowError(f"interleave: the sequences hold more than {PY_SSIZE_T_MAX} items")
        begin, row, ended = [], [], []  # lists of Python ints, which do not overflow
        total = height = gone = 0
        for size in [*known, None]:
            if size != height:
                begin.append(total)
                row.append(height)
                ended.append(gone)
                if size is not None:
                    total += (size - height) * (len(parts) - gone)
                    height = size
            gone += 1
        if total > PY_SSIZE_T_MAX:
            raise OverflowError(f"interleave: more than {PY_SSIZE_T_MAX} items before the last known end")
        if self.n != UNKNOWN:
            self.n = total
        self.levels = len(begin)
        self.begin, self.row = numpy.array(begin, numpy.int64), numpy.array(row, numpy.int64)
        self.ended = numpy.array(ended, numpy.int64)
        self.bits = len(parts).bit_length()
        self.zeros = numpy.zeros((self.bits, len(parts) + 1), numpy.int64)
        lengths = [PY_SSIZE_T_MAX if size == UNKNOWN else size for size in sizes]
        self.sort(sorted(range(len(parts)), key=lengths.__getitem__))

    cdef int sort(self, list order) except -1:
        """Set `zeros`, given the parts sorted by length."""
        cdef Py_ssize_t bit, k
        cdef list ones
        for bit in range(self.bits):
            rest, ones = [], []
            for k, part in enumerate(order):
                (ones if (part >> (self.bits - 1 - bit)) & 1 else rest).append(part)
                self.zeros[bit, k + 1] = len(rest)
            order = rest + ones
        return 0

    cdef Py_ssize_t still_active(self, Py_ssize_t first, Py_ssize_t j) noexcept:
        """The part that is number j, in their order, among those from `first` on when sorted by length."""
        cdef Py_ssize_t bit, part = 0, last = len(self.parts), low, high, all_zeros
        for bit in range(self.bits):
            low, high, all_zeros = self.zeros[bit, first], self.zeros[bit, last], self.zeros[bit, len(self.parts)]
            part *= 2
            if j < high - low:
                first, last = low, high
            else:
                j -= high - low
                part += 1
                first, last = all_zeros + first - low, all_zeros + last - high
        return part

    cdef Py_ssize_t locate(self, Py_ssize_t i, Py_ssize_t *row) noexcept:
        """The part and the row of item i."""
        cdef Py_ssize_t level = 0, half, n = self.levels, active
        while n > 1:
            half = n >> 1
            if self.begin[level + half] <= i:
                level += half
            n -= half
        active = len(self.parts) - self.ended[level]
        i -= self.begin[level]
        row[0] = self.row[level] + i // active
        return self.still_active(self.ended[level], i % active)

    cdef object item(self, Py_ssize_t i):
        cdef Py_ssize_t row, part = self.locate(i, &row)
        return pull(self, i, self.parts[part], row)

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        which, positions = self.locate_all(array_of(indices, n))
        return scattered(self, indices, self.parts, which, positions)

    cdef object block(self, object rows):
        which, positions = self.locate_all(all_rows(rows))
        return scattered_block(self, rows, self.parts, which, positions)

    cdef tuple locate_all(self, object wanted):
        """Arrays of the parts that hold the items, and where in these."""
        cdef const Py_ssize_t[:] rows = wanted
        cdef Py_ssize_t m, n = rows.shape[0]
        cdef Py_ssize_t[::1] which = numpy.empty(n, numpy.intp), positions = numpy.empty(n, numpy.intp)
        for m in range(n):
            which[m] = self.locate(rows[m], &positions[m])
        return numpy.asarray(which), numpy.asarray(positions)

    cdef Py_ssize_t size(self) except? -1:
        return self.n

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        cdef Py_ssize_t row, part = self.locate(i, &row)
        return store(self.parts[part], row, value)

    cdef Py_ssize_t grain(self) except -1:
        return 1

    cdef object iterate(self, Py_ssize_t start):
        return InterleaveIterator(self) if start == 0 else ViewIterator(self, start)

    def __reduce__(self):
        return Interleave, (self.parts,), self.site


@cython.final
cdef class InterleaveIterator:
    """An interleave, row by row.

    Threads: critical sections guard where it stands, and run no code of the user's.
    """
    cdef Interleave view
    cdef list active, sizes  # the cursors of the parts that have not ended, and their lengths
    cdef PyObject **plain  # by turn: the part if it is an exact list, which its cursor keeps alive, else NULL
    cdef Py_ssize_t width  # how many these are
    cdef Py_ssize_t edge  # the row where they change
    cdef Py_ssize_t turn, row
    cdef Py_ssize_t level  # of the view's, the next one

    def __init__(self, Interleave view):
        self.width = self.turn = self.level = self.edge = 0
        self.view = view
        self.plain = <PyObject **>PyMem_Realloc(self.plain, len(view.parts) * sizeof(PyObject *))
        if self.plain == NULL:
            raise MemoryError
        self.sizes = view.sizes
        self.go_on_with([Cursor(part) for part in view.parts])
        self.turn = self.width
        self.row = -1

    def __dealloc__(self):
        PyMem_Free(self.plain)

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject *plain = NULL
        cdef PyObject *item = NULL
        cdef Py_ssize_t turn, row
        cdef lzs_section section
        lzs_lock(&section, <PyObject *>self)
        turn, row = self.turn, self.row
        if turn == self.width and row + 1 < self.edge:
            row += 1
            self.row = row
            turn = self.turn = 0
        if turn < self.width:
            plain = self.plain[turn]
            if plain != NULL:
                self.turn = turn + 1  # first: reading a list may let another thread into the section
                item = item_at(plain, row)
        lzs_unlock(&section)
        if item != NULL:
            return owned(item)
        return self.next_slowly(plain, turn, row)

    cdef object next_slowly(self, PyObject *plain, Py_ssize_t turn, Py_ssize_t row):
        """What __next__ has not found, in that list if there is one: it has become shorter."""
        cdef Interleave view = self.view
        cdef Cursor cursor = None
        cdef Py_ssize_t i
        cdef object _dead  # see RecentStore.put
        if plain != NULL:
            i = turn + sum([row if size == UNKNOWN else min(size, row) for size in view.sizes])
            return self.finish(i, Cursor(<object>plain), row)
        with cython.critical_section(self):
            if self.turn == self.width:
                _dead = self.active
                self.next_row()
            if self.turn < self.width:
                cursor = <Cursor>PyList_GET_ITEM(self.active, self.turn)
                row = self.row
                i = view.begin[self.level - 1] + (row - view.row[self.level - 1]) * self.width + self.turn
                self.turn += 1
        if cursor is None:
            raise StopIteration
        return self.finish(i, cursor, row)

    cdef object finish(self, Py_ssize_t i, Cursor cursor, Py_ssize_t row):
        """Item i, from that row of the cursor's part."""
        if self.view.n != UNKNOWN:
            return cursor.read(self.view, i, row)
        try:
            return cursor.read(self.view, i, row)
        except IndexError:
            self.end()
        raise StopIteration

    cdef int next_row(self) except -1:
        """Begin a row, with the parts that reach into it."""
        cdef list rest
        self.row += 1
        self.turn = 0
        if self.row == self.edge:
            self.level += 1
            self.edge = self.view.row[self.level] if self.level < self.view.levels else PY_SSIZE_T_MAX
            rest = [k for k, size in enumerate(self.sizes) if size > self.row or size == UNKNOWN]
            self.sizes = [self.sizes[k] for k in rest]
            self.go_on_with([self.active[k] for k in rest])
        return 0

    cdef int go_on_with(self, list active) except -1:
        cdef Py_ssize_t k
        cdef Cursor cursor
        for k in range(len(active)):
            cursor = active[k]
            self.plain[k] = NULL if cursor.plain is None else <PyObject *>cursor.plain
        self.active, self.width = active, len(active)
        return 0

    cdef int end(self) except -1:
        cdef object _dead  # see RecentStore.put
        with cython.critical_section(self):
            _dead, self.active, self.sizes, self.width, self.turn = self.active, [], [], 0, 0
        return 0


# ---- Collate --------------------------------------------------------------------------------------------------------


@cython.final
cdef class Collate(Joined):
    """collate[i] = (sequences[0][i], sequences[1][i], ...)"""

    def __init__(self, tuple parts):
        self.adopt(parts)

    cdef object item(self, Py_ssize_t i):
        cdef Py_ssize_t k, n = PyTuple_GET_SIZE(self.parts)
        cdef tuple values = PyTuple_New(n)
        for k in range(n):
            value = pull(self, i, <object>PyTuple_GET_ITEM(self.parts, k), i)
            Py_INCREF(value)  # which the tuple takes
            PyTuple_SET_ITEM(values, k, value)
        return values

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        return list(zip(*[pull_many(self, indices, source, indices, n) for source in self.parts]))

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        cdef tuple values = tuple(value)
        if len(values) != len(self.parts):
            raise ValueError(f"collate: item {i} takes {len(self.parts)} values, got {len(values)}")
        for source, value in zip(self.parts, values):
            store(source, i, value)
        return 0

    cdef object iterate(self, Py_ssize_t start):
        # Nothing can go wrong in these; but without a GIL, threads cannot share a zip.
        if not FREE_THREADED and start == 0 and all([type(part) in (list, tuple, range) for part in self.parts]):
            return zip(*self.parts)
        return CollateIterator(self, start)

    def __reduce__(self):
        return Collate, (self.parts,), self.site


@cython.final
cdef class CollateIterator(CursorIterator):
    """Tuples of the next items."""

    cdef object combine(self, View view, Py_ssize_t i):
        cdef Py_ssize_t k, n = PyList_GET_SIZE(self.cursors)
        cdef tuple values = PyTuple_New(n)
        for k in range(n):
            value = self.cursor(k).read(view, i, i)
            Py_INCREF(value)  # which the tuple takes
            PyTuple_SET_ITEM(values, k, value)
        return values


# ---- Batch, unbatch -------------------------------------------------------------------------------------------------


@cython.final
cdef class Batch(Derived):
    """batch[i] = collate_fn([source[i * k], ..., source[i * k + k - 1]])

    Threads: `refused` is atomic, and only says which way to read.
    """
    cdef readonly object pad, collate_fn
    cdef Py_ssize_t k
    cdef Py_ssize_t most  # the last batch whose items have indices
    cdef bint drop_last
    cdef bint stacks  # whether a batch may be a block of the source's
    cdef lzs_number refused  # whether one could be had without a block, and not as one: then the others are not tried

    def __init__(self, source, Py_ssize_t k, bint drop_last, pad, collate_fn):
        self.k, self.drop_last, self.pad, self.collate_fn = k, drop_last, pad, collate_fn
        self.most = (PY_SSIZE_T_MAX - 1) // k
        self.adopt(source)
        self.stacks = dense_of(source) and any([collate_fn is function for function in STACKS])

    cdef bint is_plain(self) noexcept:
        """Whether batches are the lists of their items and no more."""
        return self.collate_fn is None and self.pad is None and not self.drop_last

    cdef Py_ssize_t begin(self, Py_ssize_t i) except -1:
        """The first item of batch i."""
        if i > self.most:
            raise IndexError(f"batch index {i} is out of range")
        return i * self.k

    cdef object item(self, Py_ssize_t i):
        cdef Py_ssize_t start = self.begin(i), n
        cdef Py_ssize_t stop = start + self.k if start <= PY_SSIZE_T_MAX - self.k else PY_SSIZE_T_MAX
        cdef list values
        if type(self.source) is list and self.collate_fn is None and stop <= PyList_GET_SIZE(self.source):
            values = (<list>self.source)[start:stop]
            if PyList_GET_SIZE(values) == self.k:  # else another thread has cut the list
                return values
        n = size_of(self.source)
        if n != UNKNOWN:
            stop = min(stop, n)
        if self.as_blocks() and (stop - start == self.k or (stop > start and self.pad is None and not self.drop_last)):
            return self.stacked(i, start, stop)
        return self.finish(i, self.values(i, start, stop))

    cdef inline bint as_blocks(self) noexcept:
        return self.stacks and not self.refused

    cdef object stacked(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop):
        """Batch i as a block, or what its items give."""
        try:
            block = block_of(self, slice(i, i + 1), self.source, slice(start, stop))
        except EvaluationError as error:
            raise error if not is_a(self.source, View) else function_error(self, i, error)
        except BaseException as error:
            raise function_error(self, i, error)
        if block is not None:
            return block
        found = self.finish(i, self.values(i, start, stop))
        lzs_begin(&self.refused)
        return found

    cdef list values(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop):
        """The items from start to stop, or to the end of the source, for batch i."""
        if size_of(self.source) != UNKNOWN or endless_of(self.source):
            return self.slice(i, start, stop)
        return self.slice_to_end(i, start, stop)

    cdef object finish(self, Py_ssize_t i, list values):
        """Batch i out of its items."""
        if not values or (self.drop_last and len(values) < self.k):
            raise IndexError(f"batch index {i} is out of range")
        if self.pad is not None:
            values += [self.pad] * (self.k - len(values))
        if self.collate_fn is None:
            return values
        try:
            return call(self, self.collate_fn, (values,))
        except BaseException as error:
            raise function_error(self, i, error)

    cdef list slice(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop):
        """The items from start to stop, for batch i."""
        cdef Py_ssize_t j
        if type(self.source) is list and stop <= PyList_GET_SIZE(self.source):
            return (<list>self.source)[start:stop]
        if self.shares:
            return self.together(i, start, stop)
        return [pull(self, i, self.source, j) for j in range(start, stop)]

    cdef list together(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop):
        if stop <= start:
            return []
        wanted, positions = numpy.full(stop - start, i), numpy.arange(start, stop)
        return pull_many(self, data_of(wanted), self.source, data_of(positions), stop - start)

    cdef list slice_to_end(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop):
        """The same where the source may end before."""
        cdef Py_ssize_t j
        cdef list values = []
        for j in range(start, stop):
            try:
                values.append(pull(self, i, self.source, j))
            except IndexError:
                break
        return values

    cdef Py_ssize_t size(self) except? -1:
        cdef Py_ssize_t n = size_of(self.source)
        if n == UNKNOWN:
            return UNKNOWN
        return n // self.k + (n % self.k > 0 and not self.drop_last)

    cdef str label(self):
        return "batch" if self.collate_fn is None else f"batch({name_of(self.collate_fn)})"

    @property
    def bulk(self):
        """How a batch is read: "block", as one array; "items", together; or None, item by item."""
        return "block" if self.as_blocks() else "items" if self.reads_together() else None

    cdef bint reads_together(self):
        """Whether a batch is one read of many items: not where some of them may be beyond the end."""
        try:
            return self.shares and (size_of(self.source) != UNKNOWN or endless_of(self.source))
        except Exception:  # a length that cannot be had, as reading will tell
            return False

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        """The items of all the batches are read together, unless each batch is a block."""
        cdef Py_ssize_t m, begin = 0, size = size_of(self.source)
        cdef list values
        if self.as_blocks() or size == UNKNOWN:
            return View.items(self, indices, n)
        starts = numpy.array([self.begin(indices[m]) for m in range(n)], numpy.intp)
        counts = numpy.clip(size - starts, 0, self.k)
        wanted = numpy.repeat(array_of(indices, n), counts)
        positions = numpy.concatenate([numpy.arange(start, start + count) for start, count in zip(starts, counts)])
        values = pull_many(self, data_of(wanted), self.source, data_of(positions), len(positions))
        batches = []
        for m in range(n):
            batches.append(self.finish(indices[m], values[begin:begin + counts[m]]))
            begin += counts[m]
        return batches

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        cdef Py_ssize_t j, start = self.begin(i), count = self.k, n = size_of(self.source)
        cdef list values = list(value)
        if n != UNKNOWN:
            count = min(count, n - start)
        if len(values) != count and (self.pad is None or len(values) != self.k):
            raise ValueError(f"batch only supports one-to-one assignment: {len(values)} values for the {count} items "
                             f"of batch {i}")
        for j in range(count):
            store(self.source, start + j, values[j])
        return 0

    cdef Py_ssize_t grain(self) except -1:
        cdef Py_ssize_t grain = grain_of(self.source)
        return grain // self.k if grain % self.k == 0 else 1

    cdef object iterate(self, Py_ssize_t start):
        # Where neighbours of two batches share an evaluation, reading on shares more than reading each batch together.
        by_index = type(self.source) is list or self.as_blocks()
        by_index = by_index or (self.reads_together() and self.k % grain_of(self.source) == 0)
        return ViewIterator(self, start) if by_index else BatchIterator(self, start)

    def __reduce__(self):
        return Batch, (self.source, self.k, self.drop_last, self.pad, self.collate_fn), self.site


@cython.final
cdef class BatchIterator(CursorIterator):
    """Batches of the next items of a view."""

    cdef object combine(self, View view, Py_ssize_t i):
        cdef Batch batches = <Batch>view
        cdef Cursor cursor = self.cursor(0)
        cdef Py_ssize_t start = batches.begin(i), count = batches.k, n = size_of(batches.source)
        cdef list values = []
        if n != UNKNOWN:
            count = min(count, n - start)
        while len(values) < count:
            try:
                values.append(cursor.read(view, i, start + len(values)))
            except IndexError:
                if n != UNKNOWN:
                    raise
                break
        return batches.finish(i, values)


@cython.final
cdef class Unbatch(Derived):
    """unbatch[i] = source[i // k][i % k]

    Over a plain batch of the same size that is its source's own item i: `flat` is that source, or None.
    """
    cdef Py_ssize_t k, last  # the size of the batches, and of the last one
    cdef object flat

    def __init__(self, source, Py_ssize_t k, Py_ssize_t last):
        self.k, self.last = k, last
        if type(source) is Batch and (<Batch>source).k == k and (<Batch>source).is_plain():
            self.flat = (<Batch>source).source
        self.adopt(source)
        self.shares = shares_of(self.flat) if self.flat is not None else not is_builtin(source)
        self.dense = self.flat is not None and dense_of(self.flat)

    cdef inline bint is_flat(self, Py_ssize_t i) except -1:
        """Whether item i is one of flat's: the last batch may promise more than there are."""
        return self.flat is not None and within_size(i, size_of(self.flat))

    cdef object item(self, Py_ssize_t i):
        if self.is_flat(i):
            return pull(self, i, self.flat, i)
        return self.member(i, pull(self, i, self.source, i // self.k))

    cdef inline object member(self, Py_ssize_t i, object batch):
        """Item i out of its batch."""
        cdef PyObject *item
        if type(batch) is list:
            item = item_at(<PyObject *>batch, i % self.k)
            if item != NULL:
                return owned(item)
        return self.member_with_care(i, batch)

    cdef object member_with_care(self, Py_ssize_t i, object batch):
        enter(self, views_of(self))  # the batch may be this very view
        try:
            return read(batch, i % self.k)
        except BaseException as error:
            raise self.member_error(i, batch, error)
        finally:
            leave(views_of(self))

    cdef object member_error(self, Py_ssize_t i, object batch, object error):
        cdef Py_ssize_t b = i // self.k
        if isinstance(error, IndexError) and self.size() == UNKNOWN:
            # Only the last batch may be short, and then it is the end.
            try:
                pull(self, i, self.source, b + 1)
            except IndexError:
                return error
        if isinstance(error, IndexError):
            error = IndexError(f"batch {b} holds {length(batch)} items, which is less than its share of {self.k}")
        elif isinstance(error, TypeError) and not hasattr(type(batch), "__getitem__"):
            error = TypeError(f"batch {b} is no sequence but of type {type(batch).__name__}")
        return function_error(self, i, error)

    cdef Py_ssize_t size(self) except? -1:
        cdef Py_ssize_t n = size_of(self.source)
        if n == UNKNOWN or n == 0:
            return n
        if n - 1 > (PY_SSIZE_T_MAX - self.last) // self.k:
            raise OverflowError(f"unbatch: {n} batches of {self.k} items are more than {PY_SSIZE_T_MAX} items")
        return (n - 1) * self.k + self.last

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        cdef Py_ssize_t m = self.many_flat(indices, n)
        cdef dict batches
        cdef list values
        if m:
            values = pull_many(self, indices, self.flat, indices, m)
            return values if m == n else values + View.items(self, indices + m, n - m)  # which fails there
        batches = self.batches(indices, n, False)
        return [self.member(indices[m], batches[indices[m] // self.k]) for m in range(n)]

    cdef list tries(self, const Py_ssize_t *indices, Py_ssize_t n):
        cdef Py_ssize_t m = self.many_flat(indices, n)
        cdef dict batches
        cdef list values = []
        if m:
            values = tried(self, indices, self.flat, indices, m)
            return values if m == n else values + tried_singly(self, indices + m, n - m)
        batches = self.batches(indices, n, True)
        while m < n:
            try:  # see Mapped.tries
                while m < n:
                    batch = batches[indices[m] // self.k]
                    values.append(batch if type(batch) is Raised else self.member(indices[m], batch))
                    m += 1
            except Exception as error:
                values.append(Raised(error))
                m += 1
        return values

    cdef Py_ssize_t many_flat(self, const Py_ssize_t *indices, Py_ssize_t n) except -1:
        """How many of the first items are flat's."""
        cdef Py_ssize_t m = 0
        while m < n and self.is_flat(indices[m]):
            m += 1
        return m

    cdef dict batches(self, const Py_ssize_t *indices, Py_ssize_t n, bint tries):
        """The batches of the items, by number: each is read once, and all of them together."""
        cdef Py_ssize_t m
        cdef dict first = {}  # by batch, in the order in which they are needed: the first item that needs it
        cdef list found
        for m in range(n):
            first.setdefault(indices[m] // self.k, indices[m])
        needed, wanted = numpy.array([*first], numpy.intp), numpy.array([*first.values()], numpy.intp)
        if tries:
            found = tried(self, data_of(wanted), self.source, data_of(needed), len(first))
        else:
            found = pull_many(self, data_of(wanted), self.source, data_of(needed), len(first))
        return dict(zip(first, found))

    cdef object block(self, object rows):
        if not self.is_flat((rows.stop if type(rows) is slice else rows.max() + 1) - 1):
            return None
        return block_of(self, rows, self.flat, rows)

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        """Into the batch; a view's batch may have been made for us, and is written back."""
        cdef Py_ssize_t b = i // self.k
        if self.is_flat(i):
            return store(self.flat, i, value)
        batch = pull(self, i, self.source, b)
        if isinstance(batch, tuple) and isinstance(self.source, View):
            batch = list(batch)
        enter(self, views_of(self))  # the batch may be this very view
        try:
            store(batch, i % self.k, value)
        finally:
            leave(views_of(self))
        if isinstance(self.source, View):
            store(self.source, b, batch)
        return 0

    cdef Py_ssize_t grain(self) except -1:
        cdef Py_ssize_t grain = grain_of(self.source if self.flat is None else self.flat)
        if self.flat is not None:
            return grain
        return self.k * grain if grain <= PY_SSIZE_T_MAX // self.k else 1

    cdef object iterate(self, Py_ssize_t start):
        return UnbatchIterator(self, start) if self.flat is None else FlatIterator(self, start)

    def __reduce__(self):
        return Unbatch, (self.source, self.k, self.last), self.site


@cython.final
cdef class FlatIterator(CursorIterator):
    """The items of an unbatch of plain batches, without these."""

    def __init__(self, Unbatch view, Py_ssize_t start):
        self.view, self.i = view, start
        self.cursors = [Cursor(view.flat)]

    cdef object combine(self, View view, Py_ssize_t i):
        return self.cursor(0).read(view, i, i) if (<Unbatch>view).is_flat(i) else view.item(i)


@cython.final
cdef class UnbatchIterator:
    """The items of an unbatch, reading each batch once; exact lists without a detour.

    Threads: critical sections guard where it stands and the batch that it holds, and run no code of the user's. Threads
    that want items of a batch which none of them holds yet each read it.
    """
    cdef Unbatch view
    cdef Py_ssize_t i
    cdef Py_ssize_t held  # which batch `batch` is, -1: none
    cdef object batch
    cdef list plain  # the same if it is an exact list
    cdef Py_ssize_t begin, count  # its first item, and how many it has to give
    cdef Cursor batches

    def __init__(self, Unbatch view, Py_ssize_t start):
        self.view, self.i = view, start
        self.batches = Cursor(view.source)
        self.held = -1

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t i, j
        cdef bint taken = False
        cdef PyObject *item = NULL
        cdef list _batch  # ours as well: reading it may let another thread in here, which puts the next in its place
        cdef lzs_section section
        lzs_lock(&section, <PyObject *>self)
        i = self.i
        j = i - self.begin
        if self.plain is not None and j < self.count and j < list_size(<PyObject *>self.plain):
            taken = True
            self.i = i + 1
            if FREE_THREADED:
                _batch = self.plain
            item = item_at(<PyObject *>self.plain, j)
        lzs_unlock(&section)
        if item != NULL:
            return owned(item)
        return self.view.item(i) if taken else self.next_slowly()

    cdef object next_slowly(self):
        cdef Unbatch view = self.view
        cdef Py_ssize_t i, b, n = view.size()
        cdef bint ended, held = False
        cdef object _dead, batch = None  # see RecentStore.put
        cdef lzs_section section
        lzs_lock(&section, <PyObject *>self)
        i = self.i
        b = i // view.k
        ended = i < 0 or not within_size(i, n)
        if not ended:
            self.i = i + 1
            held = b == self.held
            if held:
                batch = self.batch
            else:
                _dead, self.held, self.batch, self.plain = self.batch, -1, None, None
        lzs_unlock(&section)
        if not ended:
            try:
                if not held:
                    _dead = None  # rather than two batches at once
                    batch = self.hold(view, i, n)
                return view.member(i, batch)
            except IndexError:
                if n != UNKNOWN:
                    raise
        with cython.critical_section(self):
            _dead, self.batch, self.plain = self.batch, None, None
            self.i, self.held = ENDED, PY_SSIZE_T_MAX  # so that no batch that comes late is held
        self.batches.drop()
        raise StopIteration

    cdef object hold(self, Unbatch view, Py_ssize_t i, Py_ssize_t n):
        """The batch of item i, kept for the items after it unless another thread keeps a later one."""
        cdef Py_ssize_t b = i // view.k, count = view.k
        cdef object _dead, batch = self.batches.read(view, i, b)
        if n != UNKNOWN:
            count = min(count, n - b * view.k)
        with cython.critical_section(self):
            if b > self.held:
                _dead, self.batch = self.batch, batch
                self.held, self.begin, self.count = b, b * view.k, count
                self.plain = batch if type(batch) is list else None
        return batch


# ---- Split ----------------------------------------------------------------------------------------------------------


@cython.final
cdef class Split(Derived):
    """split[i] = source[starts[i]:stops[i]], a slice of the source's own where that is known to mean what it says"""
    cdef object starts, stops  # lists or ranges
    cdef bint sliceable

    def __init__(self, source, starts, stops, bint sliceable):
        self.starts, self.stops, self.sliceable = starts, stops, sliceable
        self.adopt(source)
        self.shares = False  # nothing is read

    cdef object item(self, Py_ssize_t i):
        if i >= len(self.starts):
            raise IndexError(f"split index {i} is out of range for {len(self.starts)} items")
        if self.sliceable:
            return self.source[self.starts[i]:self.stops[i]]
        if isinstance(self.source, View):
            return slice_of(self.source, slice(self.starts[i], self.stops[i]))
        return Slice(self.source, self.starts[i], 1, self.stops[i] - self.starts[i], self.stops[i] - self.starts[i] - 1)

    cdef Py_ssize_t size(self) except? -1:
        return len(self.starts)

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        cdef Py_ssize_t j
        cdef list values = list(value)
        if len(values) != self.stops[i] - self.starts[i]:
            raise ValueError(f"split only supports one-to-one assignment: {len(values)} values for the "
                             f"{self.stops[i] - self.starts[i]} items of piece {i}")
        for j in range(len(values)):
            store(self.source, self.starts[i] + j, values[j])
        return 0

    def __reduce__(self):
        return Split, (self.source, self.starts, self.stops, self.sliceable), self.site


# ---- Uniter ---------------------------------------------------------------------------------------------------------


@cython.final
cdef class Pass:
    """One pass over an iterable, and the items that it has given last."""
    cdef object iterator, recent
    cdef Py_ssize_t following  # the index of the item that comes next

    def __init__(self, iterator, recent):
        self.iterator, self.recent = iterator, recent


@cython.final
cdef class Uniter(View):
    """uniter[i] = the item of the iterable that comes after i others

    Threads: `lock` guards the passes; it is held while the iterable works, which no two threads could use at once. It
    is reentrant, for an iterable that reads the uniter. Who holds it never waits for an item of a cache, whose owner
    may want it.
    """
    cdef readonly object iterable
    cdef Py_ssize_t cache_size, n_parallel, n
    cdef list passes  # the one used last at the end
    cdef bint started  # whether there was one
    cdef object lock

    def __init__(self, iterable, Py_ssize_t cache_size, Py_ssize_t n_parallel, Py_ssize_t n, bint started=False):
        self.iterable, self.cache_size, self.n_parallel, self.n = iterable, cache_size, n_parallel, n
        self.started = started
        self.passes, self.lock = [], RLock()
        self.go_under(iterable)
        self.shares = False  # a pass gives one item after the other

    cdef object item(self, Py_ssize_t i):
        global holding
        with self.lock:
            holding += 1
            try:
                return self.reach(i)
            finally:
                holding -= 1

    cdef object reach(self, Py_ssize_t i):
        cdef Pass best = None, candidate
        for candidate in self.passes:
            if candidate.following - len(candidate.recent) <= i:
                if best is None or candidate.following > best.following:
                    best = candidate
        if best is None:
            best = self.new_pass(i)
        else:
            self.passes.remove(best)
        # A pass that fails is not used again: its iterator may call itself exhausted from then on.
        try:
            while best.following <= i:
                best.recent.append(next(best.iterator))
                best.following += 1
        except StopIteration:
            self.passes.append(best)
            if self.n != UNKNOWN:
                raise function_error(self, i, IndexError(
                    f"uniter: the iterable has ended after {best.following} items, its size being {self.n}"))
            raise IndexError(f"uniter index {i} is out of range for {best.following} items") from None
        except BaseException as error:
            raise function_error(self, i, error)
        self.passes.append(best)
        return best.recent[len(best.recent) - (best.following - i)]

    cdef Pass new_pass(self, Py_ssize_t i):
        """A pass from the start, in place of the one used longest ago where there are enough."""
        try:
            iterator = iter(self.iterable)
        except BaseException as error:
            raise function_error(self, i, error)
        if iterator is self.iterable and self.started:
            raise RuntimeError("uniter: an iterator cannot start again, as it must after an error, or to go back "
                               f"further than cache_size: {self.iterable!r}")
        self.started = True
        if len(self.passes) >= self.n_parallel:
            del self.passes[0]
        return Pass(iterator, deque(maxlen=max(1, self.cache_size)))

    cdef Py_ssize_t size(self) except? -1:
        return self.n

    cdef tuple sources(self):
        return (self.iterable,)

    def __reduce__(self):
        with self.lock:
            started = self.started
        return Uniter, (self.iterable, self.cache_size, self.n_parallel, self.n, started), self.site


# ---- Debug, monitor -------------------------------------------------------------------------------------------------


@cython.final
cdef class Debug(Mapped):
    """debug[i] = source[i], seen by probe(i, source[i])"""
    cdef object probe

    def __init__(self, source, probe):
        self.probe = probe
        self.adopt(source)

    cdef object apply(self, Py_ssize_t i, object value):
        try:
            call(self, self.probe, (i, value))
        except BaseException as error:
            raise function_error(self, i, error)
        return value

    cdef str label(self):
        return f"debug({name_of(self.probe)})"

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        return store(self.source, i, value)

    def __reduce__(self):
        return Debug, (self.source, self.probe), self.site


@cython.final
cdef class Monitor(Derived):
    """monitor[i] = source[i], and how long that takes

    Threads: the two sums change together, in a critical section that runs no code of the user's.
    """
    cdef Py_ssize_t reads
    cdef double seconds

    def __init__(self, source):
        self.adopt(source)
        self.dense = dense_of(source)

    cdef object item(self, Py_ssize_t i):
        cdef double start = perf_counter()
        value = pull(self, i, self.source, i)
        self.note(1, perf_counter() - start)
        return value

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        cdef double start = perf_counter()
        cdef list values = pull_many(self, indices, self.source, indices, n)
        self.note(n, perf_counter() - start)
        return values

    cdef object block(self, object rows):
        cdef double start = perf_counter()
        found = block_of(self, rows, self.source, rows)
        if found is not None:
            self.note(len(found), perf_counter() - start)
        return found

    cdef int note(self, Py_ssize_t reads, double seconds) except -1:
        with cython.critical_section(self):
            self.reads += reads
            self.seconds += seconds
        return 0

    cdef object iterate(self, Py_ssize_t start):
        return MonitorIterator(self, start)

    def read_delay(self):
        """Return the mean time that reading an item took, in seconds."""
        with cython.critical_section(self):
            reads, seconds = self.reads, self.seconds
        if reads == 0:
            raise RuntimeError("monitor_throughput: nothing was read yet")
        return seconds / reads

    def throughput(self):
        """Return how many items are read in a second."""
        return 1 / max(self.read_delay(), 1e-12)

    def reset(self):
        """Forget what was measured."""
        with cython.critical_section(self):
            self.reads, self.seconds = 0, 0

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        return store(self.source, i, value)

    cdef Py_ssize_t grain(self) except -1:
        return grain_of(self.source)

    def __reduce__(self):
        return Monitor, (self.source,), self.site


@cython.final
cdef class MonitorIterator(CursorIterator):
    """The next item, and how long it takes."""

    cdef object combine(self, View view, Py_ssize_t i):
        cdef double start = perf_counter()
        value = self.cursor(0).read(view, i, i)
        (<Monitor>view).note(1, perf_counter() - start)
        return value


# ---- Cache ----------------------------------------------------------------------------------------------------------


CacheInfo = namedtuple("CacheInfo", ["hits", "misses", "maxsize", "currsize", "max_bytes", "currbytes"])

cdef int forks = 0  # how often this process is a forked child; changed while it has one thread


def _note_fork():
    """In a child, nobody goes on with what its parent was computing, and new threads get the old ones' numbers."""
    global forks
    forks += 1
    waits.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@cython.final
@cython.no_gc  # nothing refers to it but those who compute and wait
cdef class Flight:
    """A computation that others may wait for: of one key or, in a batch, of many.

    Threads: `value` and `values` are written by the thread that computes before it releases `over`, and read after
    acquiring it. `over` is made by the first who waits and looked at by the computing thread, both in the critical
    section of the store where the flight is found, and leaves. `owner` never changes.
    """
    cdef unsigned long owner  # the thread that computes
    cdef PyThread_type_lock over  # held until the computation has ended; NULL while nobody waits for that
    cdef object value  # MISSING until it has succeeded
    cdef dict values  # of a batch, by key
    cdef lzs_number ended
    cdef lzs_number doubted_by  # the crew of a worker that has waited in vain; 0: none has

    def __cinit__(self):
        self.owner, self.over, self.value = PyThread_get_thread_ident(), NULL, MISSING

    def __dealloc__(self):
        if self.over != NULL:
            PyThread_free_lock(self.over)

    cdef int prepare_to_wait(self) except -1:
        """Have a lock to wait for: in the section of the store, so it is none that the collector may come by for."""
        if self.over == NULL:
            self.over = PyThread_allocate_lock()
            if self.over == NULL:
                raise MemoryError
            PyThread_acquire_lock(self.over, 0)
        return 0

    cdef object result(self, object key):
        """What came of it for the key, or MISSING."""
        return self.value if self.values is None else self.values.get(key, MISSING)

    cdef bint is_awaited(self, unsigned long thread) except -1:
        """Wait until it has ended, as that thread; False if that would or could be for ever: see Cache."""
        cdef Py_ssize_t crew
        cdef PY_TIMEOUT_T us = FIRST_WAIT_US
        if holding:
            return False
        crew = getattr(current_thread(), "crew", 0)
        if (crew and crew == self.doubted_by) or not waits.begin(thread, self):
            return False
        try:
            while not self.acquire(us):
                if self.is_in_vain(thread, crew):
                    return False
                us = min(2 * us, LONGEST_WAIT_US)
        finally:
            waits.end(thread)
        return True

    cdef bint is_in_vain(self, unsigned long thread, Py_ssize_t crew) except -1:
        """Whether the owner was given up by its prefetch, or may wait for the thread, a worker of the crew if not 0."""
        cdef dict workers = {}
        for each in all_threads():
            if each.ident == self.owner and getattr(each, "abandoned", False):
                return True
            if getattr(each, "crew", 0):
                workers.setdefault(each.crew, []).append(each.ident)
        if crew and waits.lead_to(thread, self.owner, workers):
            self.doubted_by = crew
            return True
        return False

    cdef bint acquire(self, PY_TIMEOUT_T us) except -1:
        """Whether it has ended, waiting for so long."""
        cdef int status
        while True:
            with nogil:
                status = PyThread_acquire_lock_timed(self.over, us, 1)
            if status == PY_LOCK_ACQUIRED:
                PyThread_release_lock(self.over)
                return True
            if status != PY_LOCK_INTR:
                return False
            PyErr_CheckSignals()


@cython.final
cdef class Waits:
    """Who waits for whom, over all caches: so that none waits for who waits for it.

    A thread waits for the owner of a flight, or as the reader of a prefetch for any of its workers.

    Threads: both dicts are used in critical sections that run no code of the user's.
    """
    cdef dict flights  # thread -> Flight
    cdef dict readers  # thread -> the crew that it has waited for in vain for a while

    def __init__(self):
        self.flights, self.readers = {}, {}

    cdef bint begin(self, unsigned long thread, Flight flight) except -1:
        """Note that the thread is to wait for the flight; False if the owner waits for it, directly or not."""
        cdef Flight each = flight
        with cython.critical_section(self):
            # Who waits for what has ended is about to go on, whatever stands here.
            while each is not None and not each.ended and each.owner != thread:
                each = self.flights.get(each.owner)
            if each is None or each.ended:
                self.flights[thread] = flight
                return True
        return False

    cdef int end(self, unsigned long thread) except -1:
        with cython.critical_section(self):
            self.flights.pop(thread, None)  # a fork may have emptied it
        return 0

    cdef bint lead_to(self, object thread, object other, dict workers) except -1:
        """Whether the other thread may wait for this one, directly or not; `workers` are the threads of each crew."""
        cdef Flight flight
        cdef list reached = [other]
        cdef set seen = set()
        with cython.critical_section(self):
            while reached:
                other = reached.pop()
                if other == thread:
                    return True
                if other not in seen:
                    seen.add(other)
                    flight = self.flights.get(other)
                    if flight is not None and not flight.ended:
                        reached.append(flight.owner)
                    reached.extend(workers.get(self.readers.get(other), ()))
        return False

    cdef int forget(self) except -1:
        with cython.critical_section(self):
            self.flights.clear()
            self.readers.clear()
        return 0


cdef Waits waits = Waits()


cdef int note_reader(object crew) except -1:
    """This thread has waited for workers of the crew for a while: see Cache. None: it does not any more."""
    cdef object thread = PyThread_get_thread_ident()
    with cython.critical_section(waits):
        if crew is None:
            waits.readers.pop(thread, None)
        else:
            waits.readers[thread] = crew
    return 0


cdef Py_ssize_t measured(object item_size, object value) except -1:
    """The size of a value in bytes; 0 where that does not matter."""
    if item_size is None:
        return 0
    bytes = as_index(item_size(value))
    if bytes < 0:
        raise ValueError(f"sizeof must return 0 or more, got {bytes}")
    return min(bytes, MOST_BYTES)


cdef class Store:
    """Where a cache keeps what it has computed: at most `limit` values of `max_bytes` together (-1: any number).

    A value is kept if its flight is still the one of its key. An assignment to the key removes it, and while there
    is one, the source alone has the value, and no flight begins; so nobody reads an old value after a new one.

    Threads: `flights` and `assigned` change in critical sections that run no code of the user's, and so are atomic
    under a GIL as well; the other fields within each class's own guard.
    """
    cdef Py_ssize_t limit, max_bytes, bytes
    cdef dict flights  # key -> the computation to wait for
    cdef dict assigned  # key -> how many assignments to it have begun and not ended
    cdef lzs_number hits, misses
    cdef int forks  # in which process the flights began

    def __cinit__(self, *args):
        self.flights, self.assigned, self.forks = {}, {}, forks

    cdef object lookup(self, object key):
        """The value, or MISSING."""
        raise NotImplementedError

    cdef int put(self, object key, object value, Py_ssize_t bytes, Flight flight) except -1:
        """Keep the value that the flight brings, unless the flight was removed, or it is too large."""
        raise NotImplementedError

    cdef int begin_assignment(self, object key) except -1:
        """Forget the key's value, which is about to change in the source."""
        raise NotImplementedError

    cdef int clear(self) except -1:
        """Forget everything, also what is being computed, and the counts."""
        raise NotImplementedError

    cdef tuple info(self):
        """Hits, misses, how many values are kept, and their bytes."""
        raise NotImplementedError

    cdef inline bint keeps_none_of(self, Py_ssize_t bytes) noexcept:
        return self.limit == 0 or 0 <= self.max_bytes < bytes

    @cython.final
    cdef Flight board(self, object key, Flight mine, Flight instead_of):
        """The flight to wait for; or `mine`, where there is none but perhaps the one whose place it is to take."""
        cdef Flight flight
        self.look_for_fork()
        with cython.critical_section(self):
            flight = self.flights.get(key)
            if flight is None or flight is instead_of:
                flight = mine
                if not self.assigned or key not in self.assigned:
                    self.flights[key] = mine
            else:
                flight.prepare_to_wait()
        return flight

    @cython.final
    cdef list board_all(self, list keys, Flight mine):
        """Those of the keys that have no flight yet: they have this one now."""
        cdef list boarded = []
        self.look_for_fork()
        with cython.critical_section(self):
            for key in keys:
                if key not in self.flights and key not in self.assigned:
                    self.flights[key] = mine
                    boarded.append(key)
        return boarded

    @cython.final
    cdef int land(self, object key, list keys, Flight mine) except -1:
        """The flight of the key, or of these, has ended."""
        cdef PyThread_type_lock over
        with cython.critical_section(self):
            if keys is None:
                if self.flights.get(key) is mine:
                    del self.flights[key]
            else:
                for key in keys:
                    if self.flights.get(key) is mine:
                        del self.flights[key]
            over = mine.over  # nobody can find the flight any more who would make one
            lzs_begin(&mine.ended)
        if over != NULL:
            PyThread_release_lock(over)
        return 0

    @cython.final
    cdef inline int look_for_fork(self) except -1:
        """Forget what the parent was computing and assigning, once and before anything is added to it."""
        if self.forks != forks:
            with cython.critical_section(self):
                if self.forks != forks:
                    self.flights, self.assigned, self.forks = {}, {}, forks
        return 0

    @cython.final
    cdef int cancel(self, object key) except -1:
        """In a critical section: an assignment to the key begins."""
        self.flights.pop(key, None)  # its thread still knows it
        self.assigned[key] = self.assigned.get(key, 0) + 1
        return 0

    @cython.final
    cdef int end_assignment(self, object key) except -1:
        with cython.critical_section(self):
            count = self.assigned.pop(key, 1)  # a fork may have emptied it
            if count > 1:
                self.assigned[key] = count - 1
        return 0


cdef struct Link:
    Py_ssize_t newer, older  # slots
    Py_ssize_t bytes


@cython.final
cdef class RecentStore(Store):
    """The values that were used last: a table of slots, linked in the order of their last use.

    Slot 0 is empty and closes the circle: older from it is the one used last, newer the one used longest ago.

    Threads: every method is one critical section; nothing in it runs code of the user's (keys are ints, and values
    die outside), so that a GIL makes it atomic too.
    """
    cdef dict slots  # key -> slot
    cdef list keys, values, free  # by slot, by slot, slots
    cdef Link *links  # by slot
    cdef Py_ssize_t room  # how many slots the links have room for

    def __cinit__(self, *args):
        self.grow(16)
        self.links[0].newer = self.links[0].older = 0

    def __dealloc__(self):
        PyMem_Free(self.links)

    def __init__(self, Py_ssize_t limit, Py_ssize_t max_bytes):
        self.limit, self.max_bytes = limit, max_bytes
        self.slots, self.keys, self.values, self.free = {}, [None], [None], []

    cdef int grow(self, Py_ssize_t room) except -1:
        cdef Link *links = <Link *>PyMem_Realloc(self.links, room * sizeof(Link))
        if links == NULL:
            raise MemoryError
        self.links, self.room = links, room
        return 0

    cdef void unlink(self, Py_ssize_t slot) noexcept:
        cdef Link link = self.links[slot]
        self.links[link.newer].older = link.older
        self.links[link.older].newer = link.newer

    cdef void link_newest(self, Py_ssize_t slot) noexcept:
        cdef Py_ssize_t newest = self.links[0].older
        self.links[slot].newer, self.links[slot].older = 0, newest
        self.links[newest].newer = self.links[0].older = slot

    cdef object lookup(self, object key):
        cdef object value = MISSING
        cdef Py_ssize_t slot
        with cython.critical_section(self):
            found = self.slots.get(key)
            if found is not None:
                slot = found
                value = self.values[slot]
                self.unlink(slot)
                self.link_newest(slot)
                lzs_take(&self.hits)
        return value

    cdef int put(self, object key, object value, Py_ssize_t bytes, Flight flight) except -1:
        cdef list _dead = None  # what is dropped dies at the end of the function, outside the section
        cdef Py_ssize_t slot
        if self.keeps_none_of(bytes):
            return 0
        _dead = []
        with cython.critical_section(self):
            if self.flights.get(key) is flight:
                self.forget(key, _dead)
                while len(self.slots) == self.limit or 0 <= self.max_bytes < self.bytes + bytes:
                    self.forget(self.keys[self.links[0].newer], _dead)
                if self.free:
                    slot = self.free.pop()
                else:
                    slot = len(self.keys)
                    if slot == self.room:
                        self.grow(2 * slot)
                    self.keys.append(None)
                    self.values.append(None)
                self.keys[slot], self.values[slot] = key, value
                self.links[slot].bytes = bytes
                self.bytes += bytes
                self.slots[key] = slot
                self.link_newest(slot)
        return 0

    cdef int forget(self, object key, list dead) except -1:
        cdef Py_ssize_t slot
        found = self.slots.pop(key, None)
        if found is not None:
            slot = found
            self.unlink(slot)
            self.bytes -= self.links[slot].bytes
            dead.append(self.values[slot])
            self.values[slot] = None
            self.free.append(slot)
        return 0

    cdef int begin_assignment(self, object key) except -1:
        cdef list _dead = []  # see put
        self.look_for_fork()
        with cython.critical_section(self):
            self.cancel(key)
            self.forget(key, _dead)
        return 0

    cdef int clear(self) except -1:
        cdef list keys = [None], values = [None], free = []  # see put
        cdef dict slots = {}
        with cython.critical_section(self):
            self.flights.clear()
            self.slots, slots = slots, self.slots
            self.keys, keys = keys, self.keys
            self.values, values = values, self.values
            self.free, free = free, self.free
            self.links[0].newer = self.links[0].older = 0
            self.bytes = self.hits = self.misses = 0
        return 0

    cdef tuple info(self):
        cdef Py_ssize_t hits, misses, count, bytes
        with cython.critical_section(self):
            hits, misses, count, bytes = self.hits, self.misses, len(self.slots), self.bytes
        return hits, misses, count, bytes


@cython.final
cdef class MappingStore(Store):
    """A mapping of the user's, used by one thread at a time: few of them are made for more.

    Beyond a limit, what the mapping held already and nobody used goes first, then what was used longest ago. What it
    held counts for the bytes from its first use on: to measure all of it would be to read all of it. What it lists but
    does not drop stays, and takes up room.

    Threads: the lock guards everything but the flights. Who holds it never waits for a flight, whose owner may want
    it; it is reentrant, for a mapping that reads the cache.
    """
    cdef object mapping
    cdef object item_size  # a function of a value; None where there is no max_bytes
    cdef object used  # key -> bytes, the one used last at the end; empty where nothing is bounded
    cdef list unused  # keys that the mapping held already, the next to go at the end
    cdef Py_ssize_t undropped  # how many such keys were left when all of them had been dropped
    cdef bint bounded
    cdef bint has_defaults  # it answers to keys that it does not hold, as a Counter does
    cdef object lock
    cdef int lock_forks  # whose lock it is

    def __init__(self, mapping, Py_ssize_t limit, Py_ssize_t max_bytes, item_size):
        self.mapping, self.limit, self.max_bytes, self.item_size = mapping, limit, max_bytes, item_size
        self.bounded = limit >= 0 or max_bytes >= 0
        self.used, self.unused, self.has_defaults = OrderedDict(), [], hasattr(type(mapping), "__missing__")
        self.lock, self.lock_forks = RLock(), forks

    cdef object hold(self):
        """Acquire the lock, and return it: release is to have it, for a fork may put another in its place."""
        global holding
        if self.lock_forks != forks:
            self.lock, self.lock_forks = RLock(), forks  # the parent may have held it
        lock = self.lock
        lock.acquire()
        holding += 1
        return lock

    cdef int release(self, lock) except -1:
        global holding
        holding -= 1
        lock.release()
        return 0

    cdef object lookup(self, object key):
        cdef bint known = not self.bounded
        lock = self.hold()
        try:
            if self.has_defaults and key not in self.mapping:
                return MISSING
            value = self.mapping[key]
            if key in self.used:
                self.used.move_to_end(key)
                known = True
        except KeyError:
            self.forget(key)
            return MISSING
        finally:
            self.release(lock)
        if not known:
            self.note(key, measured(self.item_size, value))
        lzs_take(&self.hits)
        return value

    cdef int note(self, object key, Py_ssize_t bytes) except -1:
        """What the mapping held already is used for the first time."""
        cdef bint more
        lock = self.hold()
        try:
            if key in self.used or key not in self.mapping:
                return 0
            if self.keeps_none_of(bytes):
                return self.delete(key)
            self.used[key] = bytes
            self.bytes += bytes
            # If it held too many already, that can wait for the next that comes.
            more = 0 <= self.max_bytes < self.bytes and self.trim()
        finally:
            self.release(lock)
        return self.trim_on() if more else 0

    cdef int put(self, object key, object value, Py_ssize_t bytes, Flight flight) except -1:
        cdef bint stands, more
        if self.keeps_none_of(bytes):
            return 0
        lock = self.hold()
        try:
            with cython.critical_section(self):
                stands = self.flights.get(key) is flight
            if not stands:
                return 0
            self.mapping[key] = value  # an assignment that begins meanwhile waits for the lock, and removes it
            if not self.bounded:
                return 0
            self.forget(key)
            self.used[key] = bytes
            self.bytes += bytes
            self.forget_what_is_gone()
            more = self.trim()
        finally:
            self.release(lock)
        return self.trim_on() if more else 0

    cdef int forget(self, object key) except -1:
        self.bytes -= self.used.pop(key, 0)
        return 0

    cdef int forget_what_is_gone(self) except -1:
        """A mapping may drop values by itself: most drop the oldest, and of others not all need be known at once."""
        cdef Py_ssize_t n = len(self.mapping)
        while len(self.used) > n:
            key = next(iter(self.used))
            if key in self.mapping:
                break
            self.forget(key)
        if len(self.used) > 2 * n + 16:
            for key in [key for key in self.used if key not in self.mapping]:
                self.forget(key)
        return 0

    cdef int trim_on(self) except -1:
        """Drop the rest of what is too much, and let others use a large mapping meanwhile."""
        cdef bint more = True
        while more:
            sleep(0)  # or who waits would not be there in time
            lock = self.hold()
            try:
                more = self.trim()
            finally:
                self.release(lock)
        return 0

    cdef bint trim(self) except -1:
        """Drop what is too much, but not very many; whether there are more."""
        for _ in range(MOST_DROPPED):
            if not (self.is_too_much() and self.drop_oldest()):
                return False
        return True

    cdef bint is_too_much(self) except -1:
        return 0 <= self.limit < len(self.mapping) or 0 <= self.max_bytes < self.bytes

    cdef bint drop_oldest(self) except -1:
        """False if there is nothing to drop."""
        cdef Py_ssize_t n = len(self.mapping)
        if 0 <= self.limit < n and n - len(self.used) > self.undropped:
            if not self.unused:
                self.unused = [key for key in self.mapping if key not in self.used]
                self.unused.reverse()
            while self.unused:
                key = self.unused.pop()
                if key not in self.used:
                    self.delete(key)
                    break
            if not self.unused:  # to list them again would find the same
                self.undropped = len(self.mapping) - len(self.used)
            return True
        for key in self.used:
            self.delete(key)
            self.forget(key)
            return True
        return False

    cdef int delete(self, object key) except -1:
        try:
            del self.mapping[key]  # pop would read the value
        except KeyError:
            pass
        except Exception as error:
            error.add_note(f"while the cache drops {key}")
            raise
        return 0

    cdef int begin_assignment(self, object key) except -1:
        self.look_for_fork()
        with cython.critical_section(self):
            self.cancel(key)
        try:
            lock = self.hold()
            try:
                self.forget(key)
                self.delete(key)
            finally:
                self.release(lock)
        except BaseException:
            self.end_assignment(key)
            raise
        return 0

    cdef int clear(self) except -1:
        with cython.critical_section(self):
            self.flights.clear()
        lock = self.hold()
        try:
            self.used.clear()
            self.unused.clear()
            self.bytes = self.hits = self.misses = self.undropped = 0
            self.mapping.clear()
            if len(self.mapping):  # MutableMapping's own clear stops at a key that cannot be read
                for key in list(self.mapping):
                    self.delete(key)
        finally:
            self.release(lock)
        return 0

    cdef tuple info(self):
        lock = self.hold()
        try:
            return self.hits, self.misses, len(self.mapping), self.bytes
        finally:
            self.release(lock)


@cython.final
cdef class Cache(Derived):
    """cache[i] = source[i], computed once while it is kept

    One thread computes a key while the others that want it wait; other keys go on. Who waits must not be waited for by
    the thread that computes. So a thread computes itself
    - where that thread waits for one of its own computations, of this cache or another, directly or not: see Waits;
    - where it holds the lock of a mapping or of a uniter;
    - after some time, where it is a worker of a prefetch and that thread is found to wait, directly or not, for
      workers of that prefetch, as its reader. Which of them it needs is not known, so this is cautious. Other threads
      need not look: a reader waits for workers only, so in a ring that goes by one, some worker behind it waits for a
      computation, and does look;
    - after some time, where that thread was given up by its prefetch, for an item that took too long.
    Then its computation takes the place of the one that it cannot wait for, whose value is not kept: who comes later
    waits for this one. If another has been first to do so, it waits for that.

    Threads: what changes is in the store, and nothing is held while an item is computed.
    """
    cdef readonly object cache_size, cache, max_bytes, item_size  # as add_cache was given them
    cdef Store store

    def __init__(self, source, cache_size, cache, max_bytes, item_size):
        cdef Py_ssize_t limit = -1 if cache_size is None else min(cache_size, PY_SSIZE_T_MAX)
        cdef Py_ssize_t most = -1 if max_bytes is None else min(max_bytes, MOST_BYTES)
        self.cache_size, self.cache, self.max_bytes, self.item_size = cache_size, cache, max_bytes, item_size
        if cache is None:
            self.store = RecentStore(limit, most)
        else:
            self.store = MappingStore(cache, limit, most, None if max_bytes is None else item_size)
        self.adopt(source)
        self.shares = shares_of(source)

    def cache_info(self):
        """Return how often items were found and computed, and what is kept.

        Returns:
            CacheInfo: hits, misses, maxsize (cache_size), currsize (how many are kept), max_bytes, currbytes (None
            where there is no max_bytes).
        """
        hits, misses, count, bytes = self.store.info()
        return CacheInfo(hits, misses, self.cache_size, count, self.max_bytes,
                         None if self.max_bytes is None else bytes)

    def cache_clear(self):
        """Forget all items, and the counts. What is being computed meanwhile is not kept."""
        try:
            self.store.clear()
        except Exception as error:  # which is a mapping's, and no item's
            error.add_note(f"while {self.label()} made at {self.site} is cleared")
            raise

    cdef object lookup(self, Py_ssize_t i):
        """The value if it is kept, or MISSING. A mapping of the user's may fail."""
        if self.cache is None:
            return self.store.lookup(i)
        try:
            return self.store.lookup(i)
        except BaseException as error:
            raise function_error(self, i, error)

    cdef int keep(self, Py_ssize_t i, object key, object value, Flight mine) except -1:
        try:
            return self.store.put(key, value, 0 if self.max_bytes is None else measured(self.item_size, value), mine)
        except BaseException as error:
            raise function_error(self, i, error)

    cdef object item(self, Py_ssize_t i):
        value = self.lookup(i)
        return value if value is not MISSING else self.miss(i, None)

    cdef object miss(self, Py_ssize_t i, Cursor cursor):
        """Compute the item, or wait for the thread that does; the waiters of one that fails compute all at once."""
        cdef object key = i
        cdef Flight flight = None, mine = Flight()
        while True:
            flight = self.store.board(key, mine, flight)
            if flight is mine:
                return self.compute(i, key, cursor, mine)
            if flight.owner == mine.owner:
                if flight.values is None:
                    raise RuntimeError(f"cache: item {i} reads itself")
                # It is another item of this thread's batch that wants it: at which one it is, nobody knows.
            elif flight.is_awaited(mine.owner):
                value = flight.result(key)
                if value is not MISSING:
                    lzs_take(&self.store.hits)
                    return value
                self.store.board(key, mine, None)  # where another waiter was first, it goes without
                return self.compute(i, key, cursor, mine)

    cdef object compute(self, Py_ssize_t i, object key, Cursor cursor, Flight mine):
        try:
            value = self.lookup(i)  # it may have landed between our look and our take-off
            if value is MISSING:
                value = self.computed(i, cursor)
                self.keep(i, key, value, mine)
            mine.value = value
            return value
        finally:
            self.store.land(key, None, mine)

    cdef object computed(self, Py_ssize_t i, Cursor cursor):
        try:
            value = pull(self, i, self.source, i) if cursor is None else cursor.read(self, i, i)
        except IndexError:
            if self.size() != UNKNOWN:  # else it is the end, and no item
                lzs_take(&self.store.misses)
            raise
        except BaseException:
            lzs_take(&self.store.misses)
            raise
        lzs_take(&self.store.misses)
        return value

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        return self.together(indices, n, None)

    cdef list tries(self, const Py_ssize_t *indices, Py_ssize_t n):
        return self.together(indices, n, {})

    cdef list together(self, const Py_ssize_t *indices, Py_ssize_t n, dict failed):
        """What is missing is fetched in one read, but for what other threads are computing.

        What fails goes to `failed`, as Raised, if that is given.
        """
        cdef Py_ssize_t k
        cdef dict found = {}
        cdef list missing
        cdef Flight mine
        for k in range(n):
            if indices[k] not in found:
                found[indices[k]] = self.lookup(indices[k])
        missing = [i for i, value in found.items() if value is MISSING]
        if missing and self.shares:
            mine = Flight()
            mine.values = {}
            missing = self.store.board_all(missing, mine)
            if missing:
                self.compute_together(missing, mine, failed)
                found.update(mine.values)
                found.update(failed or {})
        values = [None] * n
        for k in range(n):
            value = found[indices[k]]
            if value is MISSING:
                try:
                    value = self.item(indices[k])
                except Exception as error:
                    if failed is None:
                        raise
                    value = Raised(error)
                found[indices[k]] = value
            values[k] = value
        return values

    cdef object link(self, Chain chain, Py_ssize_t i, Py_ssize_t k, bint tries):
        """Item k of the chain, which is item i; see View.tries."""
        cdef Raised failed
        try:
            value = chain.item(k)
        except BaseException as error:
            if not tries or not isinstance(error, Exception):
                raise source_error(self, i, self.source, i, error, seterr())
            value = Raised(error)
        if type(value) is Raised:
            failed = value
            failed.tell(self, i, self.source, i)
        return value

    cdef int compute_together(self, list keys, Flight mine, dict failed) except -1:
        """Have the values of all keys in the flight, up to one that fails where `failed` is not given."""
        cdef Py_ssize_t k, n
        cdef Py_ssize_t[::1] wanted
        cdef Chain chain
        cdef list missing = []
        cdef dict found = {}
        try:
            for key in keys:  # see compute
                value = self.lookup(key)
                if value is MISSING:
                    missing.append(key)
                else:
                    found[key] = value
            n = len(missing)
            if n:
                wanted = numpy.fromiter(missing, numpy.intp, n)
                lzs_add(&self.store.misses, n)
                chain = chain_of(self, self.source, &wanted[0], n, failed is not None)
                for k in range(n):
                    value = self.link(chain, wanted[k], k, failed is not None)
                    if type(value) is Raised:
                        failed[missing[k]] = value
                    else:
                        self.keep(wanted[k], missing[k], value, mine)
                        found[missing[k]] = value
        finally:
            mine.values.update(found)
            self.store.land(None, keys, mine)
        return 0

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        """Forget what was computed from the old value, and write to the source; see Store."""
        cdef object key = i
        try:
            self.store.begin_assignment(key)
        except BaseException as error:
            raise function_error(self, i, error)
        try:
            return store(self.source, i, value)
        finally:
            self.store.end_assignment(key)

    cdef Py_ssize_t grain(self) except -1:
        return grain_of(self.source)

    cdef object iterate(self, Py_ssize_t start):
        return CacheIterator(self, start)

    def __reduce__(self):
        cache = {} if type(self.cache) is dict else self.cache  # others say themselves what they take along
        return Cache, (self.source, self.cache_size, cache, self.max_bytes, self.item_size), self.site


@cython.final
cdef class CacheIterator(CursorIterator):
    """The next item, kept or computed: what its neighbours share is computed once, as in reading on without a cache.

    Where they share nothing, what is behind a kept item is read by its index: to begin to read on there would cost a
    prefetch all that it has ahead.

    Threads: both numbers are atomic, and only say which way to read.
    """
    cdef lzs_number next_missing  # the item after the last that was missing; 0: none was
    cdef lzs_number skips

    cdef object combine(self, View view, Py_ssize_t i):
        cdef Cache cache = <Cache>view
        value = cache.lookup(i)
        if value is not MISSING:
            return value
        if self.next_missing != i and self.next_missing != 0 and not self.skips and cache.grain() == 1:
            lzs_begin(&self.skips)
        self.next_missing = i + 1
        return cache.miss(i, None if self.skips else self.cursor(0))


# ---- Guard ----------------------------------------------------------------------------------------------------------


cdef object recorded(object error, int levels=4):
    """A copy of the error, made as the builtin type is that it extends: its own __init__ may want other arguments.

    The traceback would keep alive whatever the functions held that failed, and arguments and attributes may hold what
    they failed over: the document, the bytes. So the copy has of these what is small.
    """
    cdef object builtin, copy
    try:
        builtin = max([kind for kind in type(error).__mro__ if kind.__module__ == "builtins"], key=basic_size)
        _, arguments, *state = builtin.__reduce__(error)
        arguments = [small(each, levels) for each in arguments]
        copy = builtin.__new__(type(error), *arguments)
        builtin.__init__(copy, *arguments)
        for name, value in (state[0] or {}).items() if state else ():
            setattr(copy, name, small(value, levels))
        return copy
    except Exception:  # whatever a user's exception does when copied
        return RuntimeError(text_of(error))


cdef object small(object value, int levels):
    """The value, or what is left of it where it is large or nested deeply."""
    if isinstance(value, str) or isinstance(value, bytes):
        return value[:MOST_HELD]
    if value is None or isinstance(value, type) or isinstance(value, Number) or isinstance(value, os.PathLike):
        return value
    if levels > 0:
        if isinstance(value, BaseException):
            return recorded(value, levels - 1)
        if type(value) is tuple or type(value) is list:
            return type(value)([small(each, levels - 1) for each in value[:MOST_SHOWN]])
    return short_repr(value)


cdef str text_of(object error):
    """The error in a few words, whatever a user's exception has to say."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = f"{type(error).__name__}, whose text cannot be had"
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT - 3] + "..."


cdef bint is_closed(tuple arguments):
    """Whether a ValueError with these is that of a closed prefetch."""
    return len(arguments) == 1 and type(arguments[0]) is str and arguments[0] == "prefetch is closed"


cdef object raised_by_function(object error):
    """What a function raised, where it is passed through: see stage_error."""
    cause = error.__cause__
    if type(error) is RuntimeError and (isinstance(cause, StopIteration) or isinstance(cause, IndexError)):
        if str(error).endswith(f" raised {type(cause).__name__}"):
            return cause
    return error


@cython.final
cdef class Guard(Derived):
    """guard[i] = source[i], tried again when it fails, and replaced when it keeps failing

    Threads: the counts, and what was noted, change in critical sections that run no code of the user's.
    """
    def __init__(self, source, Py_ssize_t retries, double backoff, on_error, default, errors, budget):
        self.retries, self.backoff, self.on_error, self.default = retries, backoff, on_error, default
        self.errors, self.budget, self.noted = errors, budget, {}
        self.adopt(source)

    @property
    def failures(self):
        """The pairs (index, error) of the items that could not be had, as they failed last, oldest first."""
        with cython.critical_section(self):
            noted = self.noted.copy()
        return list(noted.items())

    cdef object item(self, Py_ssize_t i):
        cdef PyObject *found
        if self.budget is not None:
            self.count_reads(1)
        if is_a(self.source, View):
            found = (<item_function>(<View>self.source).item)(<PyObject *>self.source, i)
            if found != NULL:
                return owned(found)
            return self.rescue(i, source_error(self, i, self.source, i, taken_error(), seterr()))
        try:
            return pull(self, i, self.source, i)
        except BaseException as error:
            return self.rescue(i, error)

    cdef int count_reads(self, Py_ssize_t n) except -1:
        with cython.critical_section(self):
            self.reads += n
        return 0

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        """Together, which for an item that fails is the first try."""
        cdef Py_ssize_t k
        cdef list found
        try:
            found = tried(self, indices, self.source, indices, n)
        except BaseException as error:  # an interruption: guarded against, perhaps
            if self.cause_of(error) is None:
                raise
            return [self.item(indices[k]) for k in range(n)]
        return self.rescued(found, indices, n, True)

    cdef list tries(self, const Py_ssize_t *indices, Py_ssize_t n):
        return self.rescued(tried(self, indices, self.source, indices, n), indices, n, False)

    cdef list rescued(self, list found, const Py_ssize_t *indices, Py_ssize_t n, bint raises):
        """What to give for the items, in their order: reads behind one that raises do not count."""
        cdef Py_ssize_t k, counted = 0
        for k in range(n):
            if type(found[k]) is Raised:
                if self.budget is not None:
                    self.count_reads(k + 1 - counted)
                    counted = k + 1
                try:
                    found[k] = self.rescue(indices[k], (<Raised>found[k]).error)
                except Exception as error:
                    if raises:
                        raise
                    found[k] = Raised(error)
        if self.budget is not None:
            self.count_reads(n - counted)
        return found

    cdef object cause_of(self, object error):
        """The error that a failed item raised, or None where this is no failure of an item, or not one to guard."""
        cdef object cause = error
        if isinstance(error, TooManyFailures) or (isinstance(error, IndexError) and self.size() == UNKNOWN):
            return None
        if isinstance(error, Exception) and not isinstance(error, (EvaluationError, TimeoutError)):
            if seterr() != "passthrough":
                return None  # a view's own
            cause = raised_by_function(error)
        while isinstance(cause, EvaluationError) and cause.__cause__ is not None:
            if cause.index is None and cause.stage is not None:
                return None  # of a view as a whole: that its workers could not start
            cause = cause.__cause__
        if type(cause) is ValueError and is_closed(cause.args):
            return None  # it fails for all items, also where a function reads it, or errors are passed through
        return cause if isinstance(cause, self.errors) else None

    cdef object rescue(self, Py_ssize_t i, object error):
        """What to give for item i, of which the first try raised the error."""
        cdef Py_ssize_t k
        if self.cause_of(error) is None:
            raise error
        for k in range(self.retries):
            if self.backoff > 0:
                sleep(self.backoff * 2.0 ** min(k, 1000))
            try:
                return pull(self, i, self.source, i)
            except BaseException as another:
                error = another
                if self.cause_of(error) is None:
                    raise
        return self.give_up(i, error)

    cdef object give_up(self, Py_ssize_t i, object error):
        cause = self.cause_of(error)
        too_many = self.note(i, cause)
        if too_many is not None:
            raise too_many from cause
        if self.on_error == "raise":
            if self.retries:
                error.add_note(f"after {self.retries + 1} tries")
            raise error
        if self.on_error == "neighbour":
            return self.neighbour(i, error)
        if not callable(self.default):
            return self.default
        try:
            return self.default(i, cause)
        except BaseException as wrong:
            raise function_error(self, i, wrong)

    cdef object note(self, Py_ssize_t i, object cause):
        """Count a failure; return the TooManyFailures if it is beyond the budget. A worker process leaves that open."""
        cdef Py_ssize_t failed, reads
        cdef object _before
        cdef bint counts_reads = type(self.budget) is float, decides
        noted = recorded(cause)
        with cython.critical_section(self):
            self.given_up += 1
            reads = self.reads
            _before = self.noted.pop(i, None)  # which dies outside
            self.noted[i] = noted
            failed = self.given_up if counts_reads else len(self.noted)
            decides = self.unsent is None
            if not decides:
                self.unsent.append((i, noted))
        if decides and self.budget is not None and failed > (1 + self.budget * reads if counts_reads else self.budget):
            return self.too_many(i, failed, reads)
        return None

    cdef int count_for_reader(self) except -1:
        """In a worker process: begin to count what the reader is to be told."""
        self.reads, self.unsent = 0, []
        return 0

    cdef tuple take_counts(self):
        """(reads, [(index, error)]) since the last time."""
        cdef tuple counts
        with cython.critical_section(self):
            counts = self.reads, self.unsent
            self.reads, self.unsent = 0, []
        return counts

    cdef object too_many(self, Py_ssize_t i, Py_ssize_t failed, Py_ssize_t reads):
        cdef list failures = self.failures
        if type(self.budget) is float:
            count = f"{failed} of {reads} reads failed, and {self.budget:.3g} of them and one may"
        else:
            count = f"{failed} items failed, and {self.budget} may"
        shown = "; ".join([f"{index}: {text_of(each)}" for index, each in failures[:MOST_SHOWN]])
        more = f"; and {len(failures) - MOST_SHOWN} more" if len(failures) > MOST_SHOWN else ""
        text = f"{self.label()} made at {self.site}: {count}: {shown}{more}"
        return TooManyFailures(text, index=i, stage=self.stage, failures=failures)

    cdef object neighbour(self, Py_ssize_t i, object error):
        """The nearest item that can be had, of two that are as near the one behind."""
        cdef Py_ssize_t distance, j, n = self.size()
        for distance in range(1, MOST_NEIGHBOURS + 1):
            for j in (i + distance, i - distance):
                if j < 0 or not within_size(j, n) or self.has_failed(j):
                    continue
                try:
                    return pull(self, i, self.source, j)
                except BaseException as another:
                    if not isinstance(another, IndexError) and self.cause_of(another) is None:
                        raise
        error.add_note(f"and no neighbour within {MOST_NEIGHBOURS} items could be had")
        raise error

    cdef bint has_failed(self, Py_ssize_t i) except -1:
        with cython.critical_section(self):
            failed = i in self.noted
        return failed

    cdef int assign(self, Py_ssize_t i, object value) except -1:
        """What failed for the old value need not fail for the new one."""
        cdef object _before  # see give_up
        store(self.source, i, value)
        with cython.critical_section(self):
            _before = self.noted.pop(i, None)
        return 0

    cdef Py_ssize_t grain(self) except -1:
        return grain_of(self.source)

    cdef object iterate(self, Py_ssize_t start):
        return GuardIterator(self, start)

    cdef str label(self):
        return f"guard({self.on_error})"

    def __reduce__(self):
        recipe = self.source, self.retries, self.backoff, self.on_error, self.default, self.errors, self.budget
        return Guard, recipe, self.site


@cython.final
cdef class GuardIterator(CursorIterator):
    """The next item, or what the guard gives for it."""

    cdef object combine(self, View view, Py_ssize_t i):
        cdef Guard guard = <Guard>view
        cdef Cursor cursor = self.cursor(0)
        cdef PyObject *found
        if guard.budget is not None:
            guard.count_reads(1)
        if cursor.reads_on:
            found = (<read_function>cursor.read_on)(<PyObject *>cursor, <PyObject *>view, i, i)
            return owned(found) if found != NULL else guard.rescue(i, taken_error())
        try:
            return cursor.read(view, i, i)
        except BaseException as error:
            return guard.rescue(i, error)
