"""What a hit, a miss among threads, and a guard cost."""

import functools
import operator
import threading
import time

import seqtools
from compare import best_times, verdict

import lazyseq

N = 1000
ITEMS = list(range(N))


def reads(view):
    def read():
        for i in range(N):
            view[i]

    return read


def calls(function):
    def call():
        for i in range(N):
            function(i)

    return call


def cached(lib):
    view = lib.add_cache(lib.smap(operator.neg, ITEMS), N)
    reads(view)()
    return view


def by_threads(make, nthreads=16, nitems=64):
    """Each of so many threads reads its share of the items, each of which sleeps for 5 ms."""

    def run():
        view = make([None] * nitems)
        threads = [
            threading.Thread(target=lambda k=k: [view[i] for i in range(k, nitems, nthreads)]) for k in range(nthreads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def sleeping(lib, xs):
    return lib.smap(lambda _: time.sleep(0.005), xs)


def main():
    memo = functools.lru_cache(maxsize=N)(operator.neg)
    calls(memo)()
    failing = lazyseq.smap(operator.neg, ITEMS)
    guarded = lazyseq.guard(failing)
    kept = dict(enumerate(ITEMS))
    seconds = best_times(
        {
            "hit": reads(cached(lazyseq)),
            "lru_cache": calls(memo),
            "SeqTools": reads(cached(seqtools)),
            "a dict": reads(kept),
            "smap": reads(failing),
            "guard": reads(guarded),
            "guard with a budget": reads(lazyseq.guard(failing, budget=0.1)),
            "iterated": lambda: list(failing),
            "guard iterated": lambda: list(guarded),
        },
        rounds=50,
    )
    ns = {name: each / N * 1e9 for name, each in seconds.items()}
    print(f"A hit, {ns['hit']:.0f} ns, x functools.lru_cache's{verdict(ns['hit'] / ns['lru_cache'], 1.2)}")
    print(f"  x a dict's: {ns['hit'] / ns['a dict']:.1f}, SeqTools {ns['SeqTools'] / ns['a dict']:.1f}")
    for guard, without in (("guard", "smap"), ("guard with a budget", "smap"), ("guard iterated", "iterated")):
        print(f"A {guard} that never acts, ns an item{verdict(ns[guard] - ns[without], 30)}")
    seconds = best_times(
        {
            "without": by_threads(functools.partial(sleeping, lazyseq)),
            "cache": by_threads(lambda xs: lazyseq.add_cache(sleeping(lazyseq, xs), 64)),
            "SeqTools": by_threads(lambda xs: seqtools.add_cache(sleeping(seqtools, xs), 64)),
        },
        rounds=3,
    )
    print(
        f"16 threads, 64 items of 5 ms, x without a cache{verdict(seconds['cache'] / seconds['without'], 1.1)}", end=""
    )
    print(f"; SeqTools {seconds['SeqTools'] / seconds['without']:.1f}")


if __name__ == "__main__":
    main()
