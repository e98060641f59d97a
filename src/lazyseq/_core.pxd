"""The view, and how to read from any source, for the extension modules of lazyseq."""

from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject, PyObject_Size
from cpython.tuple cimport PyTuple_GET_SIZE

cdef enum:
    UNKNOWN = -2  # the size of a source without one


cdef extern from *:
    """
    /* A reference that C code handed to us, as one that Cython counts. */
    #define owned(reference) (reference)

    /* isinstance(object, type), for a type whose instances have a layout of their own, in a few loads and no call:
     * such a type is on the line of tp_base of each of its heirs, however many bases those have in Python. */
    static inline int is_a(PyObject *object, PyTypeObject *type)
    {
        PyTypeObject *t = Py_TYPE(object);
        while (t != NULL && t != type)
            t = t->tp_base;
        return t != NULL;
    }

    /* A new reference to list[j], or NULL without an exception where there is none. Another thread may be changing the
     * list: what PyList_GET_ITEM lends may be freed before it is counted, unless a GIL keeps that thread out. */
    static inline PyObject *item_at(PyObject *list, Py_ssize_t j)
    {
        PyObject *item = NULL;
        if ((size_t)j < (size_t)PyList_GET_SIZE(list)) {
    #ifdef Py_GIL_DISABLED
            item = PyList_GetItemRef(list, j);
            if (item == NULL)
                PyErr_Clear();
    #else
            item = PyList_GET_ITEM(list, j);
            Py_INCREF(item);
    #endif
        }
        return item;
    }

    #ifdef Py_GIL_DISABLED
    typedef PyCriticalSection lzs_section;
    #define lzs_lock(section, object) PyCriticalSection_Begin(section, object)
    #define lzs_unlock(section) PyCriticalSection_End(section)
    #else
    typedef char lzs_section;
    #define lzs_lock(section, object) ((void)(section))
    #define lzs_unlock(section) ((void)(section))
    #endif
    """
    object owned(PyObject *reference)
    bint is_a(object, type)
    PyObject *item_at(PyObject *list, Py_ssize_t j)

    # cython.critical_section for the busiest places, where nothing raises: with a GIL too, that one counts references.
    ctypedef struct lzs_section:
        pass
    void lzs_lock(lzs_section *, PyObject *) noexcept
    void lzs_unlock(lzs_section *) noexcept

# View.item as C sees it: a NULL means that an exception is set, and costs no try statement to notice.
ctypedef PyObject *(*item_function)(PyObject *view, Py_ssize_t i) noexcept
# The same of View.items and View.block; a try statement takes much of the C stack, too.
ctypedef PyObject *(*items_function)(PyObject *view, const Py_ssize_t *indices, Py_ssize_t n) noexcept
ctypedef PyObject *(*block_function)(PyObject *view, PyObject *rows) noexcept


cdef class Site:
    cdef object code      # a code object or, once unpickled, a file name
    cdef Py_ssize_t where  # the offset of an instruction or, once unpickled, a line


cdef class View:
    cdef Site site
    cdef int depth  # how many views lie below, along the longest path
    cdef bint shares  # whether items cost less when they are read together: whether `items` is worth a call
    cdef bint dense  # whether `block` may have an answer
    cdef object __weakref__

    cdef object item(self, Py_ssize_t i)
    cdef Py_ssize_t size(self) except? -1
    cdef bint endless(self) except -1
    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n)
    cdef list tries(self, const Py_ssize_t *indices, Py_ssize_t n)
    cdef object block(self, object rows)
    cdef int assign(self, Py_ssize_t i, object value) except -1
    cdef Py_ssize_t grain(self) except -1
    cdef object iterate(self, Py_ssize_t start)
    cdef View of_part(self, View part)
    cdef str label(self)
    cdef tuple sources(self)
    cdef Py_ssize_t position(self, object key) except -1
    cdef int go_under(self, object source) except -1


cdef class Derived(View):
    cdef readonly object source
    cdef int adopt(self, object source) except -1


cdef class Guard(Derived):
    cdef readonly object on_error, default
    cdef object errors, budget
    cdef Py_ssize_t retries
    cdef double backoff
    cdef Py_ssize_t reads  # counted where there is a budget
    cdef Py_ssize_t given_up  # how many reads failed
    cdef dict noted  # index -> the error of its last failure
    cdef list unsent  # in a worker process, (index, error) of what the reader was not told yet

    cdef int count_reads(self, Py_ssize_t n) except -1
    cdef list rescued(self, list found, const Py_ssize_t *indices, Py_ssize_t n, bint raises)
    cdef object cause_of(self, object error)
    cdef object rescue(self, Py_ssize_t i, object error)
    cdef object give_up(self, Py_ssize_t i, object error)
    cdef object note(self, Py_ssize_t i, object cause)
    cdef int count_for_reader(self) except -1
    cdef tuple take_counts(self)
    cdef object too_many(self, Py_ssize_t i, Py_ssize_t failed, Py_ssize_t reads)
    cdef object neighbour(self, Py_ssize_t i, object error)
    cdef bint has_failed(self, Py_ssize_t i) except -1


cdef class Raised:
    cdef object error
    cdef View stage  # the one that was told last

    cdef int tell(self, View stage, Py_ssize_t i, object source, Py_ssize_t j) except -1


cdef class Joined(View):
    cdef tuple parts
    cdef int adopt(self, tuple parts) except -1


cdef int note_reader(object crew) except -1
cdef View rebased(View part, object source)
cdef Py_ssize_t grain_of(object source) except -1
cdef View gathered(object source, list indices)
cdef Py_ssize_t foreign_size(object source) except? -1
cdef object foreign_item(object source, Py_ssize_t i)
cdef object stage_error(View stage, Py_ssize_t i, object error, object evaluation)
cdef object source_error(View stage, Py_ssize_t i, object source, Py_ssize_t j, object error, object evaluation)


cdef inline Py_ssize_t size_of(object source) except? -1:
    """The length of any source, now, or UNKNOWN."""
    if type(source) is list:
        return PyList_GET_SIZE(source)
    if is_a(source, View):
        return (<View>source).size()
    if type(source) is tuple:
        return PyTuple_GET_SIZE(source)
    if type(source) is range:
        return PyObject_Size(source)
    return foreign_size(source)


cdef inline object read(object source, Py_ssize_t j):
    """source[j], for j >= 0. The caller's formula keeps j within a view's size; other sources check it."""
    cdef PyObject *item
    if type(source) is list:
        item = item_at(<PyObject *>source, j)
        return owned(item) if item != NULL else foreign_item(source, j)
    if is_a(source, View):
        return (<View>source).item(j)
    if type(source) is tuple:
        return (<tuple>source)[j]
    return foreign_item(source, j)


# A C compiler takes what is exported for no part of its only caller, whose frame on the stack stays small.
cdef list pull_foreign(View stage, const Py_ssize_t *wanted, object source, const Py_ssize_t *indices, Py_ssize_t n)
cdef list pull_many_failed(View stage, const Py_ssize_t *wanted, object source, const Py_ssize_t *indices,
                           Py_ssize_t n)
cdef object foreign_block(View stage, object wanted, object source, object rows)
cdef int put(list values, object places, list found) except -1
cdef object pull_with_care(View stage, Py_ssize_t i, object source, Py_ssize_t j)
cdef object pull_failed(View stage, Py_ssize_t i, object source, Py_ssize_t j)


cdef inline object pull(View stage, Py_ssize_t i, object source, Py_ssize_t j):
    """source[j], which the stage needs for its item i; errors become the stage's."""
    cdef PyObject *item
    if type(source) is list:
        item = item_at(<PyObject *>source, j)
        return owned(item) if item != NULL else pull_with_care(stage, i, source, j)
    if is_a(source, View):
        item = (<item_function>(<View>source).item)(<PyObject *>source, j)
        return owned(item) if item != NULL else pull_failed(stage, i, source, j)
    return pull_with_care(stage, i, source, j)
