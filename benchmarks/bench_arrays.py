"""What a batch of rows of an array costs, against numpy's own read and the loaders that do the same."""

import numpy
import seqtools
import torch
from compare import at_least, best_times, verdict
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lazyseq

N, WIDTH, K = 10**6, 16, 256
ROWS = numpy.random.default_rng(0).standard_normal((N, WIDTH), dtype=numpy.float32)
ORDER = numpy.random.default_rng(1).permutation(N)
BATCHES = 40  # of each, always the same ones


def first_batches(view):
    def read():
        for i in range(BATCHES):
            view[i]

    return read


def by_numpy(mode):
    out = numpy.empty((K, WIDTH), numpy.float32)

    def read():
        for i in range(BATCHES):
            numpy.take(ROWS, ORDER[i * K : i * K + K], axis=0, out=out, mode=mode)

    return read


class ByHand(Dataset):
    """What one would write for torch's loader."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return ROWS[ORDER[i]]

    def __getitems__(self, indices):
        return list(ROWS[ORDER[indices]])


def loaded(dataset, **options):
    loader = DataLoader(dataset, batch_size=K, **options)

    def read():
        for _, _ in zip(range(BATCHES), loader, strict=False):
            pass

    return read


def view_of(lib):
    return lib.batch(lib.gather(ROWS, ORDER.tolist() if lib is seqtools else ORDER), K, collate_fn=numpy.stack)


def main():
    view = lazyseq.gather(ROWS, ORDER)
    tensors = torch.utils.data.Subset(TensorDataset(torch.from_numpy(ROWS)), ORDER)
    seconds = best_times(
        {
            "raise": by_numpy("raise"),
            "clip": by_numpy("clip"),
            "wrap": by_numpy("wrap"),
            "lazyseq": first_batches(view_of(lazyseq)),
            "SeqTools": first_batches(view_of(seqtools)),
            "torch DataLoader of a TensorDataset": loaded(tensors),
            "torch DataLoader by hand": loaded(ByHand()),
            "torch DataLoader of a view": loaded(view),
        },
        rounds=20,
    )
    numpy_seconds = min(seconds["raise"], seconds["clip"], seconds["wrap"])
    print(f"{K} random rows of {WIDTH} float32 as one batch: {seconds['lazyseq'] / BATCHES * 1e6:.1f} us", end="")
    print(f", x numpy.take(out=){verdict(seconds['lazyseq'] / numpy_seconds, 1.4)}")
    for peer in ("SeqTools", "torch DataLoader of a TensorDataset"):
        print(f"  {peer}, x lazyseq{at_least(seconds[peer] / seconds['lazyseq'], 8)}")
    ratio = seconds["torch DataLoader of a view"] / seconds["torch DataLoader by hand"]
    print(f"torch's DataLoader over a view, x over a dataset with __getitems__ by hand{verdict(ratio, 1.2)}")


if __name__ == "__main__":
    main()
