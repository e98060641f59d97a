"""How results travel between processes: what arrives, who holds which memory, and what is left behind."""

import contextlib
import copyreg
import errno
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from lazyseq import _transfer
from lazyseq._transfer import Arena, usable_memory

LARGE = 100_000  # of buffers that travel beside the pickle
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def descriptors():
    return sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []


def in_shm():
    return sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else []


@pytest.fixture(autouse=True)
def nothing_left_behind(request):
    if "arena" in request.fixturenames:
        request.getfixturevalue("arena")  # which pytest keeps for longer than this
    gc.collect()
    before = descriptors(), in_shm()
    yield
    gc.collect()
    assert not set(descriptors()) - set(before[0]) and not set(in_shm()) - set(before[1])


def no_memfd(*args):
    raise OSError(errno.ENOSYS, "not here")


@pytest.fixture(params=["memfd", "file"])
def arena(request, monkeypatch):
    """With as many views as one likes; all must be gone at the end of the test."""
    if request.param == "file":
        monkeypatch.setattr(os, "memfd_create", no_memfd, raising=False)
    arena = Arena(2, 100, 1 << 40)
    yield arena
    gc.collect()
    assert (arena.held, arena.used()) == (0, 0)


def same(a, b):
    """Equal, also in type, layout and whether they can be written to."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.flags.writeable) == (b.dtype, b.shape, b.flags.writeable)
        assert a.flags.f_contiguous == b.flags.f_contiguous or not (a.flags.c_contiguous or a.flags.f_contiguous)
        if a.dtype.hasobject:
            for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
                same(x, y)
        else:
            assert a.tobytes() == b.tobytes()  # NaN too
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, float):
        assert a == b or a != a
    else:
        assert a == b


# ---- Round trips ---------------------------------------------------------------------------------------------------

dtypes = st.one_of(
    st_numpy.scalar_dtypes(), st_numpy.nested_dtypes(), st.sampled_from([np.dtype("M8[ns]"), np.dtype("m8[D]")])
).filter(lambda dtype: dtype.itemsize > 0)


@st.composite
def arrays(draw):
    """Of any type; some large, sliced, transposed, read-only."""
    dtype = draw(dtypes)
    shape = draw(st_numpy.array_shapes(min_dims=0, min_side=0, max_side=4))
    array = draw(st_numpy.arrays(dtype, shape))
    if draw(st.booleans()) and not dtype.hasobject:
        array = np.resize(array, (draw(st.integers(1, 40)), 7, 101)) if array.size else array
    array = draw(
        st.sampled_from([np.asarray, np.transpose, np.asfortranarray, lambda a: a[..., ::2] if a.ndim else a])
    )(array)
    if draw(st.booleans()):
        array.flags.writeable = False
    return array


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | arrays()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@settings(deadline=None)
@given(values, st.integers(0, 200_000))
def test_round_trip(value, limit):
    arena = Arena(1, 0, limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = arena.read(arena.write(0, value))
    same(result, pickle.loads(pickle.dumps(value, 5)))
    del result
    assert (arena.held, arena.used()) == (0, 0)


ARRAYS = {
    "more than 8 MB": np.arange(1_250_000.0),
    "no items": np.empty((0, 5)),
    "no dimensions": np.array(1.5),
    "not contiguous": np.arange(100_000).reshape(100, 1000)[:, ::3],
    "negative strides": np.arange(100_000)[::-1],
    "Fortran's order": np.asfortranarray(np.arange(100_000).reshape(100, 1000)),
    "objects": np.array([{"a": 1}, None, "x" * 20_000], dtype=object),
    "structured": np.zeros(5000, dtype=[("a", "i4"), ("b", "f8", (3,))]),
    "dates": np.arange(20_000).astype("M8[s]"),
    "big-endian": np.arange(20_000, dtype=">i4"),
    "text": np.array(["abc", "de"] * 10_000),
}


@pytest.mark.parametrize("value", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("writeable", [True, False])
def test_arrays(arena, value, writeable):
    value = value.view()
    value.flags.writeable = writeable
    result = arena.read(arena.write(1, [value]))[0]
    same(result, pickle.loads(pickle.dumps(value, 5)))
    if writeable and not value.dtype.hasobject:
        result[...] = np.ones_like(result)


def test_large_values_in_the_pickle(arena):
    for value in [b"x" * 10_000_000, bytearray(b"y" * 10_000_000), "\u00e9" * 5_000_000, list(range(300_000))]:
        same(arena.read(arena.write(0, value)), value)


def test_one_object_in_two_places_stays_one(arena):
    array = np.arange(LARGE)
    a, b, c = arena.read(arena.write(0, (array, array, [array])))
    assert a is b is c[0]


def test_other_buffers_than_arrays(arena):
    data = bytes(range(256)) * 100
    for original in [bytearray(data), data, memoryview(bytearray(data)).cast("i")]:
        result = memoryview(arena.read(arena.write(0, pickle.PickleBuffer(original))))
        assert result.tobytes() == data and result.readonly == memoryview(original).readonly
        result.release()


def test_tensors(arena):
    torch = pytest.importorskip("torch")
    for dtype in torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64:
        for shape in (), (0, 3), (4,), (300, 100):
            tensor = torch.ones(shape).to(dtype)
            result = arena.read(arena.write(0, [tensor]))[0]
            assert type(result) is torch.Tensor and result.dtype is dtype and torch.equal(result, tensor)
    del result
    assert arena.held == 0
    large = arena.read(arena.write(0, torch.ones(LARGE, dtype=torch.bfloat16)))
    assert arena.held == 2 * LARGE
    large += 1
    del large
    # What numpy would lose.
    parameter = torch.nn.Parameter(torch.ones(LARGE))
    marked = torch.ones(LARGE)
    marked.mark = 5
    for tensor in [
        parameter,
        torch.ones(LARGE, requires_grad=True),
        torch.ones(300, 300).t(),
        torch.ones(LARGE, dtype=torch.complex64).conj(),
        torch.eye(10).to_sparse(),
        torch.ones(10, device="meta"),
        marked,
    ]:
        result = arena.read(arena.write(0, tensor))
        assert type(result) is type(tensor) and result.dtype is tensor.dtype
        assert result.requires_grad == tensor.requires_grad and result.is_conj() == tensor.is_conj()
        assert result.layout is tensor.layout and getattr(result, "mark", 0) == getattr(tensor, "mark", 0)


# ---- Other processes -----------------------------------------------------------------------------------------------


def various():
    return [*ARRAYS.values(), "text", {"a": [np.arange(LARGE)] * 2, "b": np.arange(3 * LARGE)}] * 3


def write_all(arena, owner, sender):
    for value in various():
        sender.send(arena.write(owner, value))
    sender.close()


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_worker_writes_and_its_parent_reads(arena, method):
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=write_all, args=(arena, 1, sender))
    worker.start()
    sender.close()
    for value in various():
        same(arena.read(receiver.recv()), pickle.loads(pickle.dumps(value, 5)))
    worker.join(60)
    assert worker.exitcode == 0
    worker.close()
    receiver.close()
    if method == "forkserver":  # its descriptors stay open until it ends
        multiprocessing.forkserver._forkserver._stop()
    if method != "fork":
        multiprocessing.resource_tracker._resource_tracker._stop()


def test_cannot_be_pickled_for_anything_else(arena):
    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(arena)


@fork
def test_the_end_of_a_view_in_a_forked_child_is_none_of_its_parent_s(arena):
    kept = arena.read(arena.write(0, np.arange(LARGE)))
    child = os.fork()
    if child == 0:
        del kept
        # The child may have an arena of its own, all the same.
        own = Arena(1, 0, 1 << 40)
        other = own.read(own.write(0, np.arange(LARGE)))
        ok = own.held == other.nbytes
        del other
        os._exit(0 if ok and (own.held, own.used()) == (0, 0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert arena.held == kept.nbytes
    for k in range(20):
        arena.read(arena.write(0, np.full(LARGE, k)))
    assert (kept == np.arange(LARGE)).all()


@fork
def test_a_dead_worker_s_blocks_are_free_again(arena):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        sender.send(arena.write(1, np.arange(LARGE)))
        arena.write(1, [np.arange(LARGE), np.arange(LARGE)])
        os.kill(os.getpid(), 9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    kept = arena.read(receiver.recv())
    assert arena.used() > 3 * kept.nbytes
    assert arena.reclaim(1) > 2 * kept.nbytes
    assert arena.used() < 2 * kept.nbytes
    others = [arena.read(arena.write(1, np.zeros(LARGE, int))) for _ in range(3)]
    assert (kept == np.arange(LARGE)).all() and not any(other.any() for other in others)
    receiver.close()
    sender.close()


# ---- Who holds what --------------------------------------------------------------------------------------------------


def test_what_is_kept_never_changes(arena):
    kept = [arena.read(arena.write(k % 2, np.full(LARGE + k, k)))[k:] for k in range(20)]
    for k in range(500):
        message = arena.write(k % 2, np.full(LARGE + k % 30, -1))
        if k % 3:
            arena.read(message)
        else:
            arena.drop(message)
    for k, array in enumerate(kept):
        assert len(array) == LARGE and (array == k).all()


def test_blocks_are_used_again(arena):
    for _ in range(3):
        addresses = {arena.read(arena.write(0, np.zeros(LARGE))).ctypes.data for _ in range(100)}
        assert len(addresses) == 1


def pages(arena):
    """How many bytes of memory it takes."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "lazyseq" in os.readlink(f"/proc/self/fd/{name}"):
                return 512 * os.stat(f"/proc/self/fd/{name}").st_blocks
    raise AssertionError


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux")
def test_sizes_that_are_no_longer_asked_for_take_no_memory():
    arena = Arena(1, 0, 32 << 20)
    for k in range(40):
        size = int(2 ** (16 + k % 20 / 4))
        kept = [arena.read(arena.write(0, np.full(size, n, "u1"))) for n in range(8)]
        assert all((array == n).all() for n, array in enumerate(kept))
        del kept
        assert pages(arena) < 8 * (2 << 20) + (32 << 20)
    for _ in range(100):  # one of them, again and again
        arena.read(arena.write(0, np.ones(1 << 16, "u1")))
    assert pages(arena) < 8 * (2 << 20) + (32 << 20)


def test_a_slice_keeps_the_block(arena):
    array = arena.read(arena.write(0, np.arange(LARGE)))
    part, held = memoryview(array[10:20]), arena.held
    del array
    gc.collect()
    assert arena.held == held == 8 * LARGE
    assert part.tolist() == list(range(10, 20))
    del part
    assert arena.held == 0


def test_release_from_other_threads(arena):
    for _ in range(20):
        kept = [arena.read(arena.write(0, np.arange(LARGE))) for _ in range(40)]
        threads = [threading.Thread(target=kept.pop) for _ in range(4)]
        threads += [threading.Thread(target=lambda kept=kept: [kept.pop() for _ in range(9)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert kept == [] and arena.held == 0


def test_beyond_the_limit_items_are_copied_with_one_warning():
    arena = Arena(1, 0, 3 * 8 * LARGE)
    kept = [arena.read(arena.write(0, np.full(LARGE, k))) for k in range(3)]
    with pytest.warns(RuntimeWarning, match="shm_size=2,400,000") as caught:
        kept.append(arena.read(arena.write(0, np.full(LARGE, 3))))
    assert len(caught) == 1
    kept += [arena.read(arena.write(0, np.full(LARGE, k))) for k in range(4, 10)]
    assert arena.held == 3 * 8 * LARGE
    del kept[0]
    kept.insert(0, arena.read(arena.write(0, np.full(LARGE, 0))))  # there is room again
    assert arena.held == 3 * 8 * LARGE
    for k, array in enumerate(kept):
        array[0] = k
        assert (array == k).all()
    del kept, array
    assert (arena.held, arena.used()) == (0, 0)


def test_a_warning_that_is_an_error_leaks_nothing():
    arena = Arena(1, 0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            arena.read(arena.write(0, [np.arange(LARGE), np.arange(LARGE)]))
    assert (arena.held, arena.used()) == (0, 0)


def test_values_outlive_the_arena():
    arena = Arena(1, 0, 1 << 40)
    kept = arena.read(arena.write(0, np.arange(LARGE)))
    del arena
    gc.collect()
    assert (kept == np.arange(LARGE)).all()


# ---- Errors --------------------------------------------------------------------------------------------------------


class Unloadable:
    def __reduce__(self):
        return fail, (np.arange(LARGE),)


def fail(*args):
    raise KeyError("not loaded")


def test_what_cannot_be_pickled_is_pickle_s_error(arena):
    class Spoilt:
        def __reduce__(self):
            raise LookupError("mine")

    def function():
        pass

    with pytest.raises(LookupError, match="^mine$"):
        arena.write(0, [np.arange(LARGE), Spoilt()])
    with pytest.raises(AttributeError) as expected:
        pickle.dumps(function)
    with pytest.raises(type(expected.value)) as error:
        arena.write(0, [np.arange(LARGE), function])
    assert str(error.value) == str(expected.value)
    assert arena.used() == 0


def test_what_cannot_be_loaded_leaks_nothing(arena):
    with pytest.raises(KeyError, match="not loaded") as error:
        arena.read(arena.write(0, [np.arange(LARGE), Unloadable()]))
    del error


def test_bad_arguments():
    for owners, common in [(0, 0), (1, 2**64 - 1)]:
        with pytest.raises(ValueError, match=f"{owners} owners"):
            Arena(owners, common, 0)
    arena = Arena(1, 0, 0)
    with pytest.raises(RuntimeError, match="once"):
        arena.__init__(1, 0, 0)


def test_without_memfd_a_full_file_system_is_an_error(monkeypatch):
    room = 300_000

    def allocate(descriptor, start, length):
        if start + length > room:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "memfd_create", no_memfd, raising=False)
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    arena = Arena(1, 0, 1 << 40)
    monkeypatch.setattr(os, "fstatvfs", lambda file: SimpleNamespace(f_bavail=3, f_frsize=4096))
    kept = arena.read(arena.write(0, bytes(1000)))
    with pytest.raises(MemoryError, match=r"[\d,]{7,} more bytes .* 12,288 are free in /.*--shm-size"):
        arena.write(0, [np.zeros(2000), np.zeros(LARGE)])
    assert arena.used() == 0 and kept == bytes(1000)
    room = 3_000_000
    assert (arena.read(arena.write(0, np.ones(LARGE))) == 1).all()
    room = 0  # what gave nothing back, for it is smaller than a page, serves on
    assert arena.read(arena.write(0, bytes(900))) == bytes(900)
    monkeypatch.undo()
    with monkeypatch.context() as m, pytest.raises(MemoryError, match="are free"):
        m.setattr(os, "memfd_create", no_memfd, raising=False)
        m.setattr(os, "posix_fallocate", allocate)
        Arena(1, 0, 0)


def test_a_small_tmpfs(tmp_path, monkeypatch):
    """The same with a real one, where writing to what is not there ends a process."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        monkeypatch.setattr(os, "memfd_create", no_memfd, raising=False)
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir, real=tempfile.TemporaryFile: real(dir=tmp_path))
        arena = Arena(2, 0, 1 << 40)
        with pytest.warns(RuntimeWarning, match="shm_size=1,0"):
            kept = [arena.read(arena.write(k % 2, np.full(LARGE, k))) for k in range(10)]
        assert arena.limit == pytest.approx(1 << 20, rel=0.1) and arena.held == kept[0].nbytes
        for k in range(40):  # what one worker gives back serves another, and other sizes
            messages = []
            with pytest.raises(MemoryError, match="are free"):
                while True:
                    messages.append(arena.write(k % 2, np.full(LARGE >> (k % 3), -k)))
            assert len(messages) >= 3 << (k % 3) and all((array == k).all() for k, array in enumerate(kept))
            for message in messages:
                assert arena.read(message)[0] == -k
        del kept, arena
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_where_no_file_can_be_had(monkeypatch):
    monkeypatch.setattr(os, "memfd_create", no_memfd, raising=False)
    tried = []

    def no_file(dir):
        tried.append(dir)
        raise OSError(errno.EACCES, "not there", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
    with pytest.raises(OSError, match="not there"):
        Arena(1, 0, 0)
    assert tried == ["/dev/shm", tempfile.gettempdir()]


def test_without_posix_fallocate(monkeypatch):
    monkeypatch.setattr(os, "memfd_create", no_memfd, raising=False)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    arena = Arena(1, 0, 1 << 40)
    for _ in range(3):
        assert (arena.read(arena.write(0, np.ones(4 * LARGE))) == 1).all()


def run(code):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)


def test_under_a_limit_of_addresses():
    """Less than the machine's memory will do; too little is an error that says so."""
    done = run("""
        import resource
        from pathlib import Path
        from lazyseq._transfer import Arena
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
        arena = Arena(4, 0, 0)
        assert arena.read(arena.write(3, b"x" * 1000)) == b"x" * 1000
        try:
            Arena(100, 0, 0)
        except MemoryError as error:
            assert "6,711," in str(error) and "100 workers" in str(error) and "ulimit" in str(error), error
        else:
            raise AssertionError
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_descriptors():
    done = run("""
        import resource
        from lazyseq._transfer import Arena
        for free in range(4):
            resource.setrlimit(resource.RLIMIT_NOFILE, (3 + free, 64))
            try:
                Arena(1, 0, 0)
            except OSError as error:
                assert free < 2 and "Too many open files" in str(error), (free, error)
            else:
                assert free >= 2, free
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_region_is_an_error():
    done = run("""
        import resource
        import numpy as np
        from lazyseq._transfer import Arena
        resource.setrlimit(resource.RLIMIT_FSIZE, (65 << 20, 65 << 20))
        arena = Arena(1, 0, 1 << 40)
        messages = []
        try:
            while True:
                messages.append(arena.write(0, np.zeros(1_250_000)))
        except MemoryError as error:
            assert "10,000,000 bytes were asked for" in str(error) and "of the 67,108,864" in str(error), error
        assert len(messages) == 6 and arena.limit == 32 << 20
        arena.drop(messages.pop())
        arena.drop(arena.write(0, np.zeros(1_250_000)))
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_arrays_alone(arena):
    """What goes by no pickle, and what looks the same."""
    plain = np.arange(LARGE)
    read_only = plain.copy()
    read_only.flags.writeable = False
    for array in [
        plain, plain.reshape(100, -1), plain.reshape(1, 1, 4, 5, 2, -1), plain[:, None], plain[1:], plain[:5],
        plain[::2], np.asfortranarray(plain.reshape(100, -1)), read_only, plain > 5, plain.astype(object),
        plain.astype(np.longdouble), (plain % 99).astype(np.float16), plain.astype(">i8"), plain.astype("M8[s]"),
        plain.astype(complex), plain.astype(str), plain.view(np.dtype("i8", metadata={"unit": "m"})),
        plain.view(np.matrix), plain.view(np.recarray), np.ma.masked_array(plain, plain > 5),
    ]:  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy's: metadata are not saved
            (found,) = arena.read(arena.write(0, [array]))
            (expected,) = pickle.loads(pickle.dumps([array], 5))
        same(found, expected)
        assert found.dtype.metadata == expected.dtype.metadata
        if not array.flags.writeable:
            with pytest.raises(ValueError):
                found.flags.writeable = True
        elif type(array) is np.ndarray:
            found[0] = array[0]
        del found


def test_the_users_own_way_to_pickle_arrays_is_taken(arena, monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, np.ndarray, lambda array: (str, (f"of {array.size} items",)))
    plain = np.arange(LARGE)
    assert arena.read(arena.write(0, [plain])) == [f"of {LARGE} items"]
    assert arena.read(arena.write(0, (1, plain))) == (1, f"of {LARGE} items")


# ---- The limit -----------------------------------------------------------------------------------------------------


def test_usable_memory(monkeypatch):
    assert 0 < usable_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def limited(groups, limits):
        def text_of(path):
            text = {"/proc/self/cgroup": groups, **limits}.get(path)
            if text is None:
                raise FileNotFoundError(path)
            return text

        with monkeypatch.context() as m:
            m.setattr(_transfer, "_text_of", text_of)
            return usable_memory()

    unlimited = limited("0::/\n", {})
    assert (
        limited("0::/a/b\n", {"/sys/fs/cgroup/a/memory.max": "4000000\n", "/sys/fs/cgroup/a/b/memory.max": "max\n"})
        == 4 * 10**6
    )
    v1 = "3:cpu,cpuacct:/x\n2:hugetlb,memory:/x\n0::/\n"
    assert limited(v1, {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "8000000\n"}) == 8 * 10**6
    assert limited(v1, {"/sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n"}) == unlimited


def test_at_most_two_descriptors():
    before = descriptors()
    arena = Arena(3, 0, 0)
    assert len(descriptors()) <= len(before) + 2
    del arena
    assert descriptors() == before
