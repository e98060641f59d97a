#!/usr/bin/env python3
"""Break the ring in every way that its comments say matters, and see that the tests notice.

    mutate.py [--full] [--jobs 2] [--only TEXT] [--list]

A mutant is a copy of _prefetch.c with one memory order weakened (each that is stronger than relaxed, in turn) or with
one of EDITS. The tests run on it, quickest first, until one fails. It is an error when none does, unless SURVIVORS says
why that is right; when a test fails for one of those; and when an edit or a survivor no longer fits the source.
Without --full, what is in SURVIVORS meets the quick tests only.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
RING = TESTS.parent.parent / "src" / "lazyseq" / "_prefetch.c"

# What to do to the source, the text that is replaced, and what replaces it.
EDITS = [
    # ---- Looks
    (
        "claim_wait: no look after announcing the sleep",
        "        status = lzs_crew_claim(crew, w, claim);\n        if (status == LZS_EMPTY)\n            park(",
        "        if (status == LZS_EMPTY)\n            park(",
    ),
    (
        "claim_wait: the look comes before announcing the sleep",
        """        atomic_fetch_add_explicit(&crew->asleep, 1, memory_order_seq_cst);
        atomic_store_explicit(&me->asleep, ANNOUNCED, memory_order_seq_cst);
        status = lzs_crew_claim(crew, w, claim);
""",
        """        status = lzs_crew_claim(crew, w, claim);
        atomic_fetch_add_explicit(&crew->asleep, 1, memory_order_seq_cst);
        atomic_store_explicit(&me->asleep, ANNOUNCED, memory_order_seq_cst);
""",
    ),
    (
        "claim: the hint is all that is looked at",
        "scan(ring, hint, frontier, w, claim) || scan(ring, first, frontier, w, claim);",
        "scan(ring, hint, frontier, w, claim);",
    ),
    (
        "claim: the hint leads back to what is gone",
        "    if (first - hint <= UINT64_MAX / 2)\n        hint = first;\n",
        "",
    ),
    (
        "claim: a hint from before the wrap-around counts as a later one",
        "    if (first - hint <= UINT64_MAX / 2)\n",
        "    if (hint <= first)\n",
    ),
    (
        "drop: an empty ring is looked at as before",
        "        atomic_store_explicit(&ring->first, ring->head, memory_order_relaxed);\n        return LZS_EMPTY;",
        "        return LZS_EMPTY;",
    ),
    (
        "flush: the first to look at is the last",
        "    atomic_store_explicit(&ring->first, ring->head, memory_order_relaxed);\n    /* E9",
        "    atomic_store_explicit(&ring->first, ring->tail - 1, memory_order_relaxed);\n    /* E9",
    ),
    (
        "claim: no look whether the crew is closed",
        "    if (lzs_crew_closed(crew))\n        return LZS_CLOSED;\n",
        "",
    ),
    (
        "claim: one ring is looked into",
        "    for (uint32_t k = 0; k < nrings; k++) {\n        /* In turn",
        "    for (uint32_t k = 0; k < 1 && k < nrings; k++) {\n        /* In turn",
    ),
    (
        "claim: always from the first ring on",
        "me->turn = me->turn + 1 < nrings ? me->turn + 1 : 0;",
        "me->turn = k;",
    ),
    (
        "claim: no look whether the claim stands",
        "        if (atomic_load_explicit(&s->word, memory_order_relaxed) != claimed)\n            continue;",
        "        if (0)\n            continue;",
    ),
    (
        "wait: no look after showing the wish",
        "    state = state_of(atomic_load_explicit(&s->word, memory_order_seq_cst));\n    if (state",
        "    state = TODO;\n    if (state",
    ),
    (
        "wait: the look comes before showing the wish",
        """    atomic_store_explicit(&ring->wanted, wish_for(ring->head + ahead), memory_order_seq_cst);
    state = state_of(atomic_load_explicit(&s->word, memory_order_seq_cst));
""",
        """    state = state_of(atomic_load_explicit(&s->word, memory_order_seq_cst));
    atomic_store_explicit(&ring->wanted, wish_for(ring->head + ahead), memory_order_seq_cst);
""",
    ),
    (
        "wait: no look whether the crew is closed",
        "if (state != DONE && !lzs_crew_closed(crew_of(ring))) {",
        "if (state != DONE) {",
    ),
    (
        "wait: no wish",
        "    atomic_store_explicit(&ring->wanted, wish_for(ring->head + ahead), memory_order_seq_cst);\n",
        "",
    ),
    (
        "wait: the wish is for the head, whatever is waited for",
        "wish_for(ring->head + ahead), memory_order_seq_cst",
        "wish_for(ring->head), memory_order_seq_cst",
    ),
    (
        "wait: no look after the sleep",
        """        /* E5 acquire <- E4. */
        state = state_of(atomic_load_explicit(&s->word, memory_order_acquire));
""",
        "",
    ),
    (
        "progress_wait: no look after showing the wish",
        "if (atomic_load_explicit(&progress->done, memory_order_seq_cst) < n && !lzs_crew_closed(crew_of(ring)))",
        "if (!lzs_crew_closed(crew_of(ring)))",
    ),
    (
        "progress_wait: no look whether the crew is closed",
        "if (atomic_load_explicit(&progress->done, memory_order_seq_cst) < n && !lzs_crew_closed(crew_of(ring)))",
        "if (atomic_load_explicit(&progress->done, memory_order_seq_cst) < n)",
    ),
    (
        "progress_wait: the wish stays",
        "    atomic_store_explicit(&progress->wanted, 0, memory_order_relaxed);\n",
        "",
    ),
    (
        "progress_want: no wish",
        "    atomic_store_explicit(&progress->wanted, n, memory_order_seq_cst);\n",
        "    (void)progress, (void)n;\n",
    ),
    ("stands: always", "memory_order_acquire) == claim->word;", "memory_order_acquire) != 0;"),
    ("wanted: always", "memory_order_relaxed) == wish_for(claim->position);", "memory_order_relaxed) != ~UINT64_C(0);"),
    # ---- Wakes
    (
        "deliver: no wake",
        "    if (status == LZS_OK)\n        lzs_ring_wake(claim);\n",
        "",
    ),
    (
        "wake: nobody",
        "memory_order_relaxed, memory_order_relaxed))\n        unpark(&ring->reader);",
        "memory_order_relaxed, memory_order_relaxed))\n        (void)0;",
    ),
    (
        "wake: whoever waits, for whatever",
        "if (atomic_load_explicit(&ring->wanted, memory_order_seq_cst) == wish &&",
        "if ((wish = atomic_load_explicit(&ring->wanted, memory_order_seq_cst)) != 0 &&",
    ),
    ("flush: no wake", "        wake_workers(crew_of(ring), ring->number, added - looking);\n", "        ;\n"),
    (
        "flush: one is woken",
        "        wake_workers(crew_of(ring), ring->number, added - looking);\n",
        "        wake_workers(crew_of(ring), ring->number, 1);\n",
    ),
    ("flush: who looks is not counted", "added - looking);", "added);"),
    ("flush: more look than there are runs", "    if (added > looking && ", "    if ("),
    (
        "flush: who looks is counted before the work is shown",
        """    atomic_store_explicit(&ring->frontier, ring->tail, memory_order_seq_cst);
""",
        """    looking = atomic_load_explicit(&crew_of(ring)->looking, memory_order_seq_cst);
    atomic_store_explicit(&ring->frontier, ring->tail, memory_order_seq_cst);
    if (added > looking && atomic_load_explicit(&crew_of(ring)->asleep, memory_order_seq_cst) > 0)
        wake_workers(crew_of(ring), ring->number, added - looking);
    return;
""",
    ),
    (
        "flush: sleepers are counted before the work is shown",
        """    atomic_store_explicit(&ring->frontier, ring->tail, memory_order_seq_cst);
""",
        """    if (atomic_load_explicit(&crew_of(ring)->asleep, memory_order_seq_cst) == 0) {
        atomic_store_explicit(&ring->frontier, ring->tail, memory_order_seq_cst);
        return;
    }
    atomic_store_explicit(&ring->frontier, ring->tail, memory_order_seq_cst);
""",
    ),
    ("wake_helpers: nobody", "    wake_workers(crew_of(ring), ring->number, unclaimed);\n", ""),
    (
        "wake_helpers: one is woken",
        "    wake_workers(crew_of(ring), ring->number, unclaimed);\n",
        "    wake_workers(crew_of(ring), ring->number, unclaimed > 0);\n",
    ),
    (
        "wake_helpers: the head is not counted",
        "    for (uint64_t position = ring->head; position != ring->tail; position++) {\n",
        "    for (uint64_t position = ring->head + 1; position - ring->head < ring->tail - ring->head; position++) {\n",
    ),
    (
        "wait: wake_helpers is not called",
        "    wake_helpers(ring);\n    /* E8",
        "    /* E8",
    ),
    (
        "progress_wait: wake_helpers is not called",
        "    wake_helpers(ring);\n    lzs_progress_want",
        "    lzs_progress_want",
    ),
    (
        "wake_workers: an announcement is not taken back",
        """&announced, CALLED + k, memory_order_relaxed,
                                                    memory_order_relaxed)) {""",
        "&announced, CALLED + k, memory_order_relaxed,\n memory_order_relaxed) || 1) {",
    ),
    (
        "wake_workers: who is woken is not counted off",
        "            atomic_fetch_sub_explicit(&crew->asleep, 1, memory_order_relaxed);\n            unpark",
        "            unpark",
    ),
    (
        "wake_workers: one is not enough",
        "            unpark(&w->parker);\n            n--;\n",
        "            unpark(&w->parker);\n",
    ),
    (
        "claim_wait: who wakes by itself is not counted off",
        """        if (call == ANNOUNCED)
            atomic_fetch_sub_explicit(&crew->asleep, 1, memory_order_relaxed);
""",
        "        if (call == ANNOUNCED)\n            ;\n",
    ),
    (
        "claim_wait: who has looked is not counted off",
        "        atomic_fetch_sub_explicit(&crew->looking, 1, memory_order_seq_cst);\n",
        "",
    ),
    (
        "claim_wait: who was awake when it was woken keeps it to itself",
        "        else if (status == LZS_OK)\n            /* We",
        "        else if (0)\n            /* We",
    ),
    (
        "claim_wait: who was woken for one ring looks into another first",
        "            me->turn = call - CALLED - 1;",
        "            ;",
    ),
    (
        "progress_add: no wake",
        "    if (wanted != 0 && wanted <= done)\n        unpark(&ring->reader);\n",
        "    (void)wanted, (void)ring;\n",
    ),
    ("progress_add: a wake too late", "wanted <= done)", "wanted < done)"),
    ("progress_add: a wake too early", "wanted <= done)", "wanted <= done + 1)"),
    (
        "progress_add: the wish is read before the part is counted",
        """    atomic_store_explicit(&progress->done, done, memory_order_seq_cst);
    wanted = atomic_load_explicit(&progress->wanted, memory_order_seq_cst); /* E13 */
""",
        """    wanted = atomic_load_explicit(&progress->wanted, memory_order_seq_cst); /* E13 */
    atomic_store_explicit(&progress->done, done, memory_order_seq_cst);
""",
    ),
    (
        "ring_wait: what is published is not shown",
        "        return LZS_EMPTY;\n    lzs_ring_flush(ring);\n",
        "        return LZS_EMPTY;\n",
    ),
    ("close: workers sleep on", "        unpark(&worker_of(crew, i)->parker);\n", "        ;\n"),
    ("close: readers sleep on", "        unpark(&ring_of(crew, k)->reader);\n", "        ;\n"),
    (
        "close: said after all were woken",
        """    atomic_store_explicit(&crew->closed, 1, memory_order_seq_cst);
    for (uint32_t i = 0; i < crew->nworkers; i++)
        unpark(&worker_of(crew, i)->parker);
    for (uint32_t k = 0, n = atomic_load_explicit(&crew->nrings, memory_order_seq_cst); k < n; k++)
        unpark(&ring_of(crew, k)->reader);
""",
        """    for (uint32_t i = 0; i < crew->nworkers; i++)
        unpark(&worker_of(crew, i)->parker);
    for (uint32_t k = 0, n = atomic_load_explicit(&crew->nrings, memory_order_seq_cst); k < n; k++)
        unpark(&ring_of(crew, k)->reader);
    atomic_store_explicit(&crew->closed, 1, memory_order_seq_cst);
""",
    ),
    # ---- The parker
    (
        "park, futex: no look before the sleep",
        """    if (atomic_compare_exchange_strong_explicit(&p->word, &expected, PARKED, memory_order_acq_rel,
                                                memory_order_acquire))
""",
        "    atomic_exchange_explicit(&p->word, PARKED, memory_order_acq_rel), (void)expected;\n",
    ),
    (
        "park, futex: the notification stays",
        "    atomic_exchange_explicit(&p->word, EMPTY, memory_order_acq_rel);\n",
        "",
    ),
    (
        "unpark, futex: one that nobody waits for is not kept",
        "    if (atomic_exchange_explicit(&p->word, NOTIFIED, memory_order_acq_rel) == PARKED)\n        rouse(",
        "    uint32_t parked = PARKED;\n"
        "    if (atomic_compare_exchange_strong_explicit(&p->word, &parked, NOTIFIED, memory_order_acq_rel,\n"
        "                                                memory_order_relaxed))\n        rouse(",
    ),
    (
        "unpark, futex: the kernel is not called",
        "        rouse(p);\n",
        "        ;\n",
    ),
    (
        "park, pthread: no look before the sleep",
        "    if (atomic_load_explicit(&p->word, memory_order_relaxed) == EMPTY) {\n",
        "    {\n",
    ),
    (
        "unpark, pthread: one that nobody waits for is not kept",
        """    if (atomic_exchange_explicit(&p->word, NOTIFIED, memory_order_relaxed) == PARKED)
        pthread_cond_signal""",
        """    uint32_t parked = PARKED;
    if (atomic_compare_exchange_strong_explicit(&p->word, &parked, NOTIFIED, memory_order_relaxed,
                                                memory_order_relaxed))
        pthread_cond_signal""",
    ),
    ("unpark, pthread: no signal", "        pthread_cond_signal(&p->condition);\n", "        ;\n"),
    (
        "unpark, pthread: no mutex",
        """    pthread_mutex_lock(&p->mutex);
    if (atomic_exchange_explicit(&p->word, NOTIFIED, memory_order_relaxed) == PARKED)
        pthread_cond_signal(&p->condition);
    pthread_mutex_unlock(&p->mutex);
""",
        """    if (atomic_exchange_explicit(&p->word, NOTIFIED, memory_order_relaxed) == PARKED)
        pthread_cond_signal(&p->condition);
""",
    ),
    # ---- Slots
    (
        "claim: the position is the scan's",
        "claim->position = atomic_load_explicit(&s->position, memory_order_acquire);",
        "claim->position = from;",
    ),
    ("publish: the generation stays", "    s->generation++;\n", ""),
    (
        "publish: the word comes before the run",
        """    atomic_store_explicit(&s->index, run.index, memory_order_release);
    atomic_store_explicit(&s->count, run.count, memory_order_release);
    atomic_store_explicit(&s->item, run.item, memory_order_release);
    atomic_store_explicit(&s->position, ring->tail, memory_order_release);
    /* E1 release -> E2: the run is visible before the word, and the last result was read before it. */
    atomic_store_explicit(&s->word, word_of(s->generation, 0, TODO), memory_order_release);
""",
        """    atomic_store_explicit(&s->word, word_of(s->generation, 0, TODO), memory_order_release);
    atomic_store_explicit(&s->index, run.index, memory_order_release);
    atomic_store_explicit(&s->count, run.count, memory_order_release);
    atomic_store_explicit(&s->item, run.item, memory_order_release);
    atomic_store_explicit(&s->position, ring->tail, memory_order_release);
""",
    ),
    (
        "publish: one too many",
        "if (ring->tail - ring->head == ring->capacity)",
        "if (ring->tail - ring->head == ring->capacity + 1)",
    ),
    (
        "claim: E2 is a store",
        """        if (!atomic_compare_exchange_strong_explicit(&s->word, &word, claimed, memory_order_acq_rel,
                                                     memory_order_relaxed))
            continue;
""",
        "        atomic_exchange_explicit(&s->word, claimed, memory_order_acq_rel);\n",
    ),
    (
        "attach: E3 is a store",
        """    if (!atomic_compare_exchange_strong_explicit(&s->word, &word, (word & ~UINT64_C(15)) | WRITING,
                                                 memory_order_acq_rel, memory_order_relaxed))
        return LZS_CANCELLED;
""",
        """    if (atomic_load_explicit(&s->word, memory_order_acquire) != word)
        return LZS_CANCELLED;
    atomic_store_explicit(&s->word, (word & ~UINT64_C(15)) | WRITING, memory_order_release);
""",
    ),
    (
        "attach: DONE comes before the result",
        """    s->result = result;
    /* E4 release -> E5: the result is visible; E8 seq_cst: DONE is stored, then the wish is read. */
    atomic_store_explicit(&s->word, (word & ~UINT64_C(15)) | DONE, memory_order_seq_cst);
""",
        """    atomic_store_explicit(&s->word, (word & ~UINT64_C(15)) | DONE, memory_order_seq_cst);
    s->result = result;
""",
    ),
    (
        "retract: E6 is a store",
        """    if (!atomic_compare_exchange_strong_explicit(&s->word, &word, word_of(s->generation, 0, OWNED),
                                                 memory_order_acq_rel, memory_order_relaxed))
        return LZS_BUSY;
""",
        """    if (atomic_load_explicit(&s->word, memory_order_acquire) != word)
        return LZS_BUSY;
    atomic_store_explicit(&s->word, word_of(s->generation, 0, OWNED), memory_order_release);
""",
    ),
    (
        "drop: E6 is a store",
        """            if (atomic_compare_exchange_weak_explicit(&s->word, &word, word_of(s->generation, 0, OWNED),
                                                      memory_order_acq_rel, memory_order_acquire)) {
                ring->head++;
                return LZS_OK;
            }
""",
        """            atomic_store_explicit(&s->word, word_of(s->generation, 0, OWNED), memory_order_release);
            ring->head++;
            return LZS_OK;
""",
    ),
    (
        "drop: a result that is being written is not waited for",
        """            sched_yield();
            word = atomic_load_explicit(&s->word, memory_order_acquire);
            break;
""",
        "",
    ),
    (
        "bury: what is claimed stays so",
        "(state_of(word) != CLAIMED && state_of(word) != WRITING)",
        "state_of(word) != WRITING",
    ),
    ("bury: the claims of the living", "owner_of(word) != w + 1 || (state", "(state"),
    (
        "bury: who is asleep is not counted off",
        "    if (atomic_exchange_explicit(&dead->asleep, AWAKE, memory_order_relaxed) == ANNOUNCED)\n",
        "    if (0)\n",
    ),
    ("bury: nobody is called again", "            unpark_again(&worker_of(crew, i)->parker);\n", "            ;\n"),
    (
        "claim: the hint is never corrected",
        "        atomic_store_explicit(&ring->hint, from + 1, memory_order_relaxed);\n",
        "",
    ),
    (
        "ring_new: counted before it can be found",
        "    crew->rings[k] = distance(crew, ring);\n",
        "    atomic_store_explicit(&crew->nrings, k + 1, memory_order_seq_cst);\n"
        "    crew->rings[k] = distance(crew, ring);\n",
    ),
]

# Mutants that no test can tell from the original, and why.
SURVIVORS = {
    "park: compare_exchange, word, acq_rel -> relaxed": (
        "It replaces the EMPTY that the sleeper itself stored, and tells nobody anything. The exchange after "
        "the sleep is what acquires the notification."
    ),
    "park: compare_exchange that fails, word, acquire -> relaxed": (
        "The exchange that follows reads the same notification, or a later one, and acquires it."
    ),
    "ring_retract: compare_exchange, word, acq_rel -> relaxed": (
        "It replaces the reader's own TODO, and what the reader does next is released by R1 and E1. That "
        "either the reader or a worker has the run needs no order."
    ),
    "ring_drop: compare_exchange, word, acq_rel -> relaxed": (
        "The reader reads nothing that a worker wrote before TODO or CLAIMED, and what it does next is "
        "released by R1 and E1. That one of both wins needs no order."
    ),
    "ring_wait: load, word, acquire -> relaxed": ("A result is had from take or drop alone, and they acquire it."),
    "ring_wait: load, word, no. 3, acquire -> relaxed": (
        "A result is had from take or drop alone, and they acquire it."
    ),
    "crew_bury: load, nrings, acquire -> relaxed": (
        "A ring from which the dead worker had claimed was there before it died, and that was before it was reaped."
    ),
    "crew_bury: compare_exchange, word, acq_rel -> relaxed": (
        "It continues the release sequence of E1, from which the next claim acquires the run; nothing is read here."
    ),
    "crew_claim_wait: add, looking, seq_cst -> acq_rel": (
        "Who is counted too late is woken in vain, no more. That the count is taken back before the last look "
        "is what matters, and that is another operation."
    ),
    "crew_claim_wait: add, looking, seq_cst -> relaxed": ("As for acq_rel."),
    "ring_stands: load, word, acquire -> relaxed": (
        "A word only moves on, so who has acquired what the reader did after taking the claim back reads the "
        "later word; and nothing is read because a claim stands or does not."
    ),
    "ring_attach: compare_exchange, word, acq_rel -> relaxed": (
        "It replaces the worker's own CLAIMED, and nobody reads anything on seeing WRITING. E2 has acquired "
        "the slot, and E4 releases the result."
    ),
}


class Mutant(NamedTuple):
    name: str
    source: str
    pthread: bool  # in the code of that parker


class Verdict(NamedTuple):
    mutant: Mutant
    killer: str  # "": it survives
    seconds: float


# ---- Mutants --------------------------------------------------------------------------------------------------------


def fail(message: str) -> None:
    sys.exit(f"mutate.py: {message}")


def arguments_of(source: str, start: int) -> list[tuple[int, int]]:
    """Where the arguments of a call are that has its opening parenthesis at start."""
    depth, begin, found = 0, start + 1, []
    for i in range(start, len(source)):
        depth += (source[i] == "(") - (source[i] == ")")
        if depth == 0 or (depth == 1 and source[i] == ","):
            found.append((begin, i))
            begin = i + 1
        if depth == 0:
            return found
    fail("a call without end")
    raise AssertionError


def weaker(operation: str, order: str) -> list[str]:
    if order != "seq_cst":
        return ["relaxed"]
    if operation == "load":
        return ["acquire", "relaxed"]
    return ["release" if operation == "store" else "acq_rel", "relaxed"]


def is_of_pthread_parker(source: str, at: int) -> bool:
    return source.index("\n#else /* the same with a mutex") < at < source.index("/* Let the processor rest")


def order_mutants(source: str) -> list[Mutant]:
    found = []
    names: dict[str, int] = {}
    for call in re.finditer(r"\batomic_(\w+?)(?:_(?:strong|weak))?_explicit\(", source):
        function = re.findall(r"^(?:\w+ )+\**(\w+)\([^;]*?\)\n\{", source[: call.start()], re.MULTILINE)[-1]
        spans = arguments_of(source, call.end() - 1)
        operand = re.split(r"->|\.", source[slice(*spans[0])])[-1]
        for i, (start, end) in enumerate(spans):
            order = source[start:end].strip().removeprefix("memory_order_")
            if order not in ("acquire", "release", "acq_rel", "seq_cst"):
                continue
            what = call[1].removeprefix("fetch_") + (" that fails" if i == 4 else "")
            place = f"{function.removeprefix('lzs_')}: {what}, {operand},"
            names[place] = names.get(place, 0) + 1
            if names[place] > 1:
                place = f"{place} no. {names[place]},"
            for other in weaker(call[1] if i < 4 else "load", order):
                changed = source[:start] + source[start:end].replace(order, other) + source[end:]
                found.append(Mutant(f"{place} {order} -> {other}", changed, is_of_pthread_parker(source, call.start())))
    return found


def edit_mutants(source: str) -> list[Mutant]:
    found = []
    for name, old, new in EDITS:
        if source.count(old) != 1:
            fail(f"{name!r}: its text occurs {source.count(old)} times in {RING.name}, and should once:\n{old}")
        found.append(Mutant(name, source.replace(old, new), is_of_pthread_parker(source, source.index(old))))
    return found


# ---- Tests ----------------------------------------------------------------------------------------------------------


class Test(NamedTuple):
    name: str
    program: str
    arguments: list[str]
    flags: str
    seconds: int  # after which it hangs
    includes_ring: bool = False
    quick: bool = False


TSAN = "-O1 -fsanitize=thread"
STAGES = [
    Test("schedules", "schedule_ring", ["-n", "3000"], "-O1", 20, includes_ring=True, quick=True),
    Test("test_ring", "test_ring", [], "-O1", 20, quick=True),
    Test("kills", "kill_ring", ["-s", "5"], "-O1", 60, includes_ring=True),
    Test("more schedules", "schedule_ring", ["-n", "300000"], "-O1", 90, includes_ring=True),
    Test("stress_ring under TSan", "stress_ring", ["1", "200"], TSAN, 60),
    Test("stress_ring", "stress_ring", ["1", "1000"], "-O1", 60),
]
FULL = [
    Test("many schedules", "schedule_ring", ["-n", "1000000", "-s", "1000000"], "-O1", 300, includes_ring=True),
    Test("test_ring under TSan", "test_ring", [], TSAN, 60),
    Test("long stress_ring under TSan", "stress_ring", ["2", "1500"], TSAN, 120),
]


class Bench:
    """Builds mutants and runs tests on them, each in a folder of its own."""

    def __init__(self, folder: Path, stages: list[Test]):
        self.folder, self.stages = folder, stages
        self.common = folder / "common"  # what is the same for all mutants
        self.no_aslr = ["setarch", "-R"] if self.works(["setarch", "-R", "true"]) else []  # see the Makefile
        self.lay_out(self.common, RING.read_text())
        for test in stages:
            if not test.includes_ring:
                self.compile(self.common, test.flags, "-c", f"tests/c/{test.program}.c", "-o", self.object_of(test))

    @staticmethod
    def works(command: list[str]) -> bool:
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            return False

    @staticmethod
    def lay_out(folder: Path, source: str) -> None:
        (folder / "tests" / "c").mkdir(parents=True)
        (folder / "src" / "lazyseq").mkdir(parents=True)
        for file in [*TESTS.glob("*.[ch]")]:
            shutil.copy(file, folder / "tests" / "c")
        for file in (RING.with_suffix(".h"), *RING.parent.glob("_arena.[ch]")):
            shutil.copy(file, folder / "src" / "lazyseq")
        (folder / "src" / "lazyseq" / RING.name).write_text(source)

    @staticmethod
    def compile(folder: Path, *arguments: str) -> None:
        command = [os.environ.get("CC", "gcc"), "-std=c11", "-pthread", "-g1", *" ".join(arguments).split()]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")

    def object_of(self, test: Test) -> str:
        return str(self.common / f"{test.program}-{'tsan' if test.flags == TSAN else 'plain'}.o")

    def passes(self, folder: Path, mutant: Mutant, test: Test) -> bool:
        if mutant.pthread and test.program == "kill_ring":
            return True  # who is killed holding the mutex of that parker stops all
        flags = test.flags + (" -DLZS_PARK_WITH_PTHREAD" if mutant.pthread else "")
        parts = (
            [f"tests/c/{test.program}.c"] if test.includes_ring else [self.object_of(test), f"src/lazyseq/{RING.name}"]
        )
        self.compile(folder, flags, *parts, "-o", "test")
        command = [*(self.no_aslr if test.flags == TSAN else []), "./test", *test.arguments]
        try:
            return subprocess.run(command, cwd=folder, capture_output=True, timeout=test.seconds).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def judge(self, mutant: Mutant, stages: list[Test]) -> Verdict:
        start = time.monotonic()
        killer = ""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(name)
            self.lay_out(folder, mutant.source)
            for test in stages:
                if not self.passes(folder, mutant, test):
                    killer = test.name
                    break
        return Verdict(mutant, killer, time.monotonic() - start)


# ---- The gate -------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every test, for survivors too")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="mutants whose name has this text")
    parser.add_argument("--list", action="store_true", help="say what there is, and do nothing")
    options = parser.parse_args()

    source = RING.read_text()
    mutants = order_mutants(source) + edit_mutants(source)
    names = [mutant.name for mutant in mutants]
    if len(set(names)) != len(names):
        fail("two mutants have one name")
    for name in SURVIVORS:
        if name not in names:
            fail(f"no mutant is called {name!r} any more: take it from SURVIVORS")
    mutants = [mutant for mutant in mutants if options.only in mutant.name]
    if options.list:
        print("\n".join(mutant.name for mutant in mutants))
        return 0

    stages = STAGES + (FULL if options.full else [])
    start = time.monotonic()
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        bench = Bench(Path(folder), stages)
        unchanged = bench.judge(Mutant("the ring as it is", source, False), STAGES)
        if unchanged.killer:
            fail(f"without any change, {unchanged.killer} fails")

        def judge(mutant: Mutant) -> Verdict:
            accepted = mutant.name in SURVIVORS and not options.full
            return bench.judge(mutant, [test for test in stages if test.quick or not accepted])

        for verdict in pool.map(judge, mutants):
            verdicts.append(verdict)
            print(f"{verdict.mutant.name:<72} {verdict.killer or 'SURVIVES':<28} {verdict.seconds:6.1f} s", flush=True)

    survivors = [verdict.mutant.name for verdict in verdicts if not verdict.killer]
    print(f"\n{len(verdicts)} mutants, {len(survivors)} survive, {time.monotonic() - start:.0f} s")
    for name in survivors:
        print(f"survives: {name}\n    {SURVIVORS.get(name, 'NO TEST NOTICES')}")
    wrong = [verdict.mutant.name for verdict in verdicts if verdict.killer and verdict.mutant.name in SURVIVORS]
    for name in wrong:
        print(f"in SURVIVORS, but a test notices: {name}")
    return 1 if wrong or any(name not in SURVIVORS for name in survivors) else 0


if __name__ == "__main__":
    sys.exit(main())
