"""Sources that others wrote, read through every function: what comes out equals what their items in a list give.

The libraries are of the extra ``interop``; the tests of one that is not installed are skipped.
"""

import array

import numpy as np
import pytest

from lazyseq import (
    add_cache,
    batch,
    case,
    collate,
    concatenate,
    cycle,
    gather,
    interleave,
    prefetch,
    repeat,
    smap,
    split,
    starmap,
    switch,
    take,
    unbatch,
    uniter,
)
from lazyseq.instrument import debug, monitor_throughput, tree

N = 6


class Squares:
    """The least that a source can be: no base class, IndexError where it ends."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        if not 0 <= i < N:
            raise IndexError(i)
        return i * i


def memmap(tmp_path, shape):
    data = np.memmap(tmp_path / "data", np.float32, mode="w+", shape=shape)
    data[:] = np.arange(data.size).reshape(shape)
    return data


def torch_dataset(tmp_path):
    torch = pytest.importorskip("torch")

    class Words(torch.utils.data.Dataset):
        def __len__(self):
            return N

        def __getitem__(self, i):
            return torch.full((2,), i), f"word {range(N)[i]}"

    return Words()


def tensor_dataset(tmp_path):
    torch = pytest.importorskip("torch")
    return torch.utils.data.TensorDataset(torch.arange(2.0 * N).reshape(N, 2), torch.arange(N))


def tensor(tmp_path):
    return pytest.importorskip("torch").arange(2 * N).reshape(N, 2)


def hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(N)], "label": list(range(N))})


def h5py_dataset(tmp_path, shape):
    h5py = pytest.importorskip("h5py")
    data = np.arange(np.prod(shape)).reshape(shape)
    return h5py.File(tmp_path / "data.h5", "w").create_dataset("data", data=data)


SOURCES = {
    "memmap": lambda tmp_path: memmap(tmp_path, (N,)),
    "memmap of rows": lambda tmp_path: memmap(tmp_path, (N, 3)),
    "array.array": lambda tmp_path: array.array("q", range(N)),
    "bytes": lambda tmp_path: bytes(range(N)),
    "torch Dataset": torch_dataset,
    "torch TensorDataset": tensor_dataset,
    "torch Tensor": tensor,
    "Hugging Face dataset": hugging_face,
    "h5py": lambda tmp_path: h5py_dataset(tmp_path, (N,)),
    "h5py of rows": lambda tmp_path: h5py_dataset(tmp_path, (N, 3)),
    "user class": lambda tmp_path: Squares(),
}


def pair(*values):
    return values


VIEWS = {
    "smap": lambda xs: smap(pair, xs),
    "smap of two": lambda xs: smap(pair, xs, xs),
    "starmap": lambda xs: starmap(pair, collate([xs, xs])),
    "collate": lambda xs: collate([xs, xs]),
    "concatenate": lambda xs: concatenate([xs, xs]),
    "gather": lambda xs: gather(xs, [3, -1, 3, 0]),
    "take": lambda xs: take(xs, np.array([5, 2])),
    "batch": lambda xs: batch(xs, 4),
    "batch, pad": lambda xs: batch(xs, 4, pad=None),
    "batch, drop_last": lambda xs: batch(xs, 4, drop_last=True),
    "batch, collate_fn": lambda xs: batch(xs, 4, collate_fn=tuple),
    "unbatch": lambda xs: unbatch(collate([xs, xs]), 2),
    "split in three": lambda xs: concatenate(split(xs, 2)),
    "split at": lambda xs: concatenate(split(xs, [3])),
    "split by pairs": lambda xs: concatenate(split(xs, [(1, 4), (2, 6)])),
    "interleave": lambda xs: interleave(xs, range(3), xs),
    "cycle": lambda xs: cycle(xs, 2 * N + 1),
    "unbounded cycle": lambda xs: cycle(xs)[5:12],
    "repeat": lambda xs: concatenate(repeat(xs, 2)),
    "switch": lambda xs: switch([i % 2 for i in range(N)], xs, range(N)),
    "case": lambda xs: case([i % 2 for i in range(N)], xs, range(N)),
    "uniter": lambda xs: uniter(xs, cache_size=2),
    "cache": lambda xs: add_cache(xs, 3),
    "cache of a mapping": lambda xs: add_cache(xs, cache={}),
    "prefetch": lambda xs: prefetch(xs, nworkers=2),
    "prefetch, no workers": lambda xs: prefetch(xs, nworkers=0),
    "debug": lambda xs: debug(xs, pair),
    "monitor_throughput": lambda xs: monitor_throughput(xs),
    "slice": lambda xs: smap(pair, xs)[1:-1][::-2],
    "mask": lambda xs: smap(pair, xs)[np.arange(N) % 3 == 0],
}


def plain(value):
    """Arrays and tensors as lists, with their type's name, so that == compares everything."""
    if hasattr(value, "tolist"):
        return type(value).__name__, str(value.dtype), value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)(plain(each) for each in value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    return SOURCES[request.param](tmp_path)


@pytest.mark.parametrize("name", VIEWS)
def test_every_function_reads_what_others_wrote(source, name):
    items = [source[i] for i in range(N)]
    want = plain(list(VIEWS[name](items)))
    view = VIEWS[name](source)
    assert plain(list(view)) == want
    n = len(want)
    if name != "uniter":
        assert len(view) == n
        assert plain([view[i] for i in range(-n, n)]) == want + want
        assert plain(list(view[n - 1 : 0 : -2])) == want[n - 1 : 0 : -2]
        assert plain(list(reversed(view))) == want[::-1]
    assert plain([view[i] for i in (n - 1, 0)]) == [want[-1], want[0]]
    with pytest.raises(IndexError):
        view[n]
    assert repr(view).startswith("<lazyseq ")
    tree(view)


WRITABLE = [name for name in SOURCES if name.split()[0] in ("memmap", "array.array", "h5py") or name == "torch Tensor"]


@pytest.mark.parametrize("name", WRITABLE)
def test_assignment_reaches_what_others_wrote(name, tmp_path):
    source = SOURCES[name](tmp_path)
    view = gather(concatenate([source, [None]]), [N - 2, 0])[:1]
    view[0] = source[1]
    assert plain(source[N - 2]) == plain(source[1])
    assert plain(source[0]) != plain(source[1])


def test_a_torch_loader_reads_a_view():
    torch = pytest.importorskip("torch")
    view = smap(float, concatenate([range(4), range(10, 13)]))
    loader = torch.utils.data.DataLoader(view, batch_size=3)
    assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 10, 11], [12]]
    subset = torch.utils.data.Subset(view, [5, 0])
    assert [subset[i] for i in range(2)] == [11, 0]
