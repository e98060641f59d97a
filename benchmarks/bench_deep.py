"""What deep pipelines cost, against the same by hand over tables that were flattened and shuffled beforehand."""

import collections
import operator
import random

import seqtools
from compare import at_least, best_times, verdict

import lazyseq

N = 10_240
draw = random.Random(0)
ITEMS, LABELS = list(range(N)), [str(i) for i in range(N)]
PARTS = [ITEMS[k : k + 256] for k in range(0, N, 256)]
SHUFFLED = draw.sample(ITEMS, N)
TABLE = [ITEMS[j] for j in SHUFFLED]  # flattened by hand
HOT = [draw.randrange(1000) for _ in range(1000)]


def four_deep(lib):
    return lib.collate([lib.smap(operator.neg, lib.gather(lib.concatenate(PARTS), SHUFFLED)), LABELS])


def six_deep(lib):
    return lib.unbatch(lib.batch(four_deep(lib), 32), 32)


def reader(sequence, positions=HOT):
    def read():
        for i in positions:
            sequence[i]

    return read


def read_by_hand(f=operator.neg):
    for i in HOT:
        f(TABLE[i]), LABELS[i]


def batch_by_hand(f=operator.neg):
    for i in range(100):
        [(f(TABLE[j]), LABELS[j]) for j in range(i * 32, i * 32 + 32)]


def iterated(iterable):
    return lambda: collections.deque(iterable(), maxlen=0)


def all_by_hand(f=operator.neg):
    return [(f(ITEMS[j]), label) for j, label in zip(SHUFFLED, LABELS, strict=True)]


def table_by_hand(f=operator.neg):
    return [(f(item), label) for item, label in zip(TABLE, LABELS, strict=True)]


def main():
    four, six = four_deep(lazyseq), six_deep(lazyseq)
    seconds = best_times(
        {
            "by hand": read_by_hand,
            "four": reader(four),
            "six": reader(six),
            "seqtools": reader(six_deep(seqtools), HOT[:10]),
            "batch": reader(lazyseq.batch(four, 32), range(100)),
            "batch by hand": batch_by_hand,
        },
        rounds=200,
    )
    print(f"A single read, by hand {seconds['by hand'] / len(HOT) * 1e9:.0f} ns:")
    print(f"  four deep, x by hand{verdict(seconds['four'] / seconds['by hand'], 1.6)}")
    print(f"  six deep, x by hand {verdict(seconds['six'] / seconds['by hand'], 2.5)}", end="")
    print(f"  (SeqTools: {seconds['seqtools'] * 100 / seconds['by hand']:.0f})")
    print(f"A batch of 32 of four deep, x comprehension{verdict(seconds['batch'] / seconds['batch by hand'], 1.5)}")

    seconds = best_times(
        {
            "four": iterated(lambda: four),
            "six": iterated(lambda: six),
            "by hand": iterated(all_by_hand),
            "table": iterated(table_by_hand),
        },
        rounds=100,
    )
    print(f"Iterating four deep, speed of the comprehension = 1:{at_least(seconds['by hand'] / seconds['four'], 1)}")
    print(f"Iterating six deep, speed of the table = 1:{at_least(seconds['table'] / seconds['six'], 0.6)}")


if __name__ == "__main__":
    main()
