"""What reading one item of a view costs, and making one, against a plain list, SeqTools and torch's datasets."""

import operator
import random

import seqtools
from compare import at_least, best_times, verdict
from torch.utils.data import ConcatDataset, Subset

import lazyseq

N = 1000
draw = random.Random(0)
ITEMS = list(range(N))
HOT = [draw.randrange(N) for _ in range(N)]  # positions that were read just before, so that no cache is cold
SHUFFLED = draw.sample(ITEMS, N)
PARTS = [ITEMS[k : k + 250] for k in range(0, N, 250)]
BATCHES = [ITEMS[k : k + 10] for k in range(0, N, 10)]


def views(lib):
    return {
        "concatenate": lib.concatenate(PARTS),
        "gather": lib.gather(ITEMS, SHUFFLED),
        "unbatch": lib.unbatch(BATCHES, 10),
        "smap(neg)": lib.smap(operator.neg, ITEMS),
    }


PEERS = {  # beside SeqTools
    "concatenate": {"torch ConcatDataset": ConcatDataset(PARTS)},
    "gather": {"torch Subset": Subset(ITEMS, SHUFFLED)},
    "unbatch": {},
    "smap(neg)": {},
}


def reader(sequence):
    def read():
        for i in HOT:
            sequence[i]

    return read


def read_and_call(f=operator.neg):
    for i in HOT:
        f(ITEMS[i])


def maker(lib, f=operator.neg):
    def make():
        for _ in range(100):
            lib.smap(f, ITEMS)

    return make


def main():
    candidates = {"list": reader(ITEMS), "list and call": read_and_call}
    candidates.update({f"lazyseq {name}": reader(view) for name, view in views(lazyseq).items()})
    slices = lazyseq.smap(operator.neg, ITEMS)[0:][:N][0:]  # of the same items: no cold ones
    candidates["three slices"] = reader(slices)
    peers = {name: {"SeqTools": view} | PEERS[name] for name, view in views(seqtools).items()}
    candidates.update({(name, peer): reader(peers[name][peer]) for name in peers for peer in peers[name]})
    # Long rounds of many short turns: the figure wanted is what the code costs, not what the neighbours do.
    seconds = best_times(candidates, rounds=300)
    print(f"A single read, hot positions, ns: list {seconds['list'] / N * 1e9:.1f}, ", end="")
    print(f"list and operator.neg {seconds['list and call'] / N * 1e9:.1f}")
    for name in peers:
        base, limit = ("list and call", 1.3) if name == "smap(neg)" else ("list", 2.3)
        ours = seconds[f"lazyseq {name}"]
        print(f"  {name:<12}{ours / N * 1e9:6.1f} ns, x {base:<14}{verdict(ours / seconds[base], limit)}")
        for peer in peers[name]:
            print(f"    {peer}, x lazyseq{at_least(seconds[name, peer] / ours, 3.2)}")
    ratio = seconds["three slices"] / seconds["lazyseq smap(neg)"]
    print(f"  a slice of a slice of a slice of smap(neg), x smap(neg){verdict(ratio, 1.1)}")

    seconds = best_times({"lazyseq": maker(lazyseq), "seqtools": maker(seqtools)})
    ours, theirs = (seconds[name] / 100 * 1e6 for name in ("lazyseq", "seqtools"))
    print(f"Making an smap, us:{verdict(ours, 2)}  (SeqTools: {theirs:.0f}, {theirs / ours:.0f} times as long)")


if __name__ == "__main__":
    main()
