/* A model of the ring's protocol, for Spin: src/lazyseq/_prefetch.c, step by step. `./run` checks it.
 *
 * One step is one access to one shared variable, together with what its thread then does on its own; E1..E14, P1, P2
 * and R1 name the same places as in the C. RINGS readers do all that a reader may, in any order: publish, flush, take,
 * wait, drop, retract, await the parts of a result, until LAST positions have gone through each ring. WORKERS workers
 * claim, evaluate, deliver or attach.
 *
 * What is checked, in every reachable state:
 *   - nobody waits for ever: each execution ends with all threads over (no sleep here has a timeout), none goes round
 *     in circles;
 *   - a result that is taken or dropped belongs to the run at that place, and none is overwritten, lost or given twice;
 *     no run is claimed twice; a worker that writes a result is alone and holds the slot in WRITING;
 *   - who sleeps is counted, never more often than it is;
 *   - with -DDEATHS, all this also when workers die between a claim and its end (of a run in parts, before its first);
 *   - with -DREST, also items and readers that take so long that everybody else comes to rest: then no worker sleeps
 *     while a reader that sleeps has a run that nobody has claimed, and not all sleep while any such run is shown.
 *     (Two rings with two workers need more than 8 GB. That a worker looks first into the ring it is called to matters
 *     only with three.)
 *
 * What is not:
 *   - memory orders: Spin interleaves whole steps, as if every access were seq_cst. That the orders in the C make it so
 *     where it matters is argued at its labels and tested by TSan; a relaxed look may return an older value than here;
 *   - wrap-around of positions and generations: here both are small and only rise;
 *   - run.count and run.item, which go the way of run.index; more looks before a sleep than LOOKS; the look that begins
 *     a reader's wait, which is a take that finds nothing;
 *   - the kernel's half of a parker: asleep is who is PARKED, and a wake-up that comes late is one without reason, of
 *     which SPURIOUS may happen. A timeout is one too.
 *
 * Macros that begin with BUG_ are mistakes that the checks must find.
 */
#ifndef RINGS
#define RINGS 1 /* the first is there from the start, the others are made while workers run */
#endif
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef SLOTS
#define SLOTS 2 /* a power of two */
#endif
#ifndef CAPACITY
#define CAPACITY SLOTS
#endif
#ifndef LAST
#define LAST 3
#endif
#ifndef LOOKS
#define LOOKS 0 /* looks before a sleep: 0 or 1 */
#endif
#ifndef PARTS
#define PARTS 0 /* a result is delivered; otherwise attached, and completed in so many parts */
#endif
#ifndef SPURIOUS
#define SPURIOUS 0
#endif
#ifndef DEATHS
#define DEATHS 0 /* how many workers die of what they have claimed, are buried, and have a successor */
#endif
/* Relaxed accesses on which little hangs share a step with their neighbours, except with -DFINE. */
#if defined(FINE) || defined(CLOSE)
#define CLOSING
#else
#define CLOSING d_step
#endif
#ifdef FINE
#define TOGETHER
#define INNER_STEP d_step
#else
#define TOGETHER d_step
#define INNER_STEP
#endif
/* -DJUMPS: readers drop and retract. -DCLOSE: the crew is closed at any moment, not when all has been read. */

/* ---- What is shared --------------------------------------------------------------------------------------------- */

#define OWNED 0
#define TODO 1
#define CLAIMED 2
#define WRITING 3
#define DONE 4

#define WORD(generation, owner, state) ((generation) << 5 | (owner) << 3 | (state))
#define GENERATION(word) ((word) >> 5)
#ifdef BUG_NO_OWNER
#define OWNER(worker) 1
#else
#define OWNER(worker) ((worker) + 1)
#endif
#define STATE(word) ((word) & 7)
#define WITH(word, state) ((word) & ~7 | (state))
#define AT(ring, position) ((ring) * SLOTS + (position) % SLOTS)
#define WISH(position) ((position) + 1)

/* Slots: index and position always agree, unless somebody reads them from two assignments. A result is the index of its
 * run, plus one. */
byte word[RINGS * SLOTS], index[RINGS * SLOTS], position[RINGS * SLOTS], result[RINGS * SLOTS];
bit begun[RINGS * SLOTS]; /* for the checks: this assignment has been claimed */

byte frontier[RINGS], first[RINGS], wanted[RINGS], hint[RINGS];

byte nrings = 1;
bit closed;
byte asleep, looking;
byte announced[WORKERS]; /* worker.asleep */
#define ANNOUNCED 1
#define CALLED 2

#define EMPTY 0
#define PARKED 1
#define NOTIFIED 2
#define READER(ring) (WORKERS + (ring))
byte parker[WORKERS + RINGS];
byte spurious = SPURIOUS;
byte deaths = DEATHS;

#if PARTS
#define PROGRESS(ring, index) ((ring) * LAST + (index))
byte parts[RINGS * LAST]; /* how many are there, for the checks */
byte done[RINGS * LAST], wanted_parts[RINGS * LAST];
bit unwanted[RINGS * LAST];
#endif

byte reading = RINGS;

/* ---- Who rests -------------------------------------------------------------------------------------------------- */

#ifdef REST
/* At timeout: nobody else can do a step. */
inline check_rest()
{
    d_step {
        r = 0;
        some = false;
        every = true;
        w = 0;
        do
        :: w < WORKERS ->
            some = some || parker[w] == PARKED;
            every = every && parker[w] == PARKED;
            w++
        :: else -> break
        od;
        w = 0;
        do
        :: r < RINGS * SLOTS ->
            assert(!(some && STATE(word[r]) == TODO && parker[READER(r / SLOTS)] == PARKED));
            assert(!(every && STATE(word[r]) == TODO && position[r] < frontier[r / SLOTS]));
            r++
        :: else -> break
        od;
        r = 0;
        some = false;
        every = false
    }
}
#endif

/* ---- Parking ---------------------------------------------------------------------------------------------------- */

inline park(p)
{
    if
    :: d_step { parker[p] == NOTIFIED -> parker[p] = EMPTY }  /* P1: kept since before */
    :: d_step { parker[p] == EMPTY -> parker[p] = PARKED };   /* P1 */
        if
        :: d_step { parker[p] == NOTIFIED -> parker[p] = EMPTY } /* P1: woken */
#if SPURIOUS
        :: d_step { spurious > 0 -> spurious--; parker[p] = EMPTY }
#endif
        fi
    fi
}

inline unpark(p)
{
#ifdef BUG_UNPARK_KEEPS_NOTHING
    parker[p] = (parker[p] == PARKED -> NOTIFIED : parker[p])
#else
    parker[p] = NOTIFIED /* P2 */
#endif
}

/* Call at most `most` sleepers to a ring; changes `most` and w. */
inline wake_workers(ring, most)
{
    w = 0;
    do
    :: w < WORKERS && most > 0 ->
        if
#ifdef FINE
        :: announced[w] == ANNOUNCED -> /* E9 */
            if
            :: d_step { announced[w] == ANNOUNCED -> announced[w] = CALLED + ring }
                d_step { assert(asleep > 0); asleep--; most-- }
                unpark(w)
            :: announced[w] != ANNOUNCED
            fi
#else
        :: d_step { announced[w] == ANNOUNCED -> /* E9 */
                announced[w] = CALLED + ring;
                assert(asleep > 0);
                asleep--;
                most--
            }
            unpark(w)
#endif
        :: announced[w] != ANNOUNCED /* E9 */
        fi;
        w++
    :: else -> d_step { w = 0; most = 0 } break
    od
}

/* ---- Readers ---------------------------------------------------------------------------------------------------- */

inline publish()
{
    TOGETHER {
        /* R1: index and position are stored before the word, */
        index[AT(me, tail)] = tail;
#ifndef BUG_WORD_BEFORE_POSITION
        position[AT(me, tail)] = tail; /* R1 */
#endif
        INNER_STEP { /* E1: and the word shows them. */
#ifdef BUG_NO_GENERATION
            word[AT(me, tail)] = WORD(0, 0, TODO);
#else
            assert(GENERATION(word[AT(me, tail)]) < 7);
            word[AT(me, tail)] = WORD(GENERATION(word[AT(me, tail)]) + 1, 0, TODO);
#endif
            begun[AT(me, tail)] = false
        }
#ifdef BUG_WORD_BEFORE_POSITION
        position[AT(me, tail)] = tail;
#endif
        tail++
    }
}

inline flush()
{
    TOGETHER {
        n = tail - shown;
        first[me] = head;
#ifdef BUG_LOOKING_BEFORE_FRONTIER
        n = (n > looking -> n - looking : 0);
#endif
#ifdef BUG_SLEEPERS_BEFORE_FRONTIER
        n = (asleep > 0 -> n : 0);
#endif
#if defined(BUG_LOOKING_BEFORE_FRONTIER) || defined(BUG_SLEEPERS_BEFORE_FRONTIER)
    }
    {
#endif
        frontier[me] = tail; /* E9 E14 */
        shown = tail;
#ifdef BUG_FLUSH_WAKES_NOBODY
        n = 0;
#endif
    }
#if LOOKS && !defined(BUG_LOOKING_BEFORE_FRONTIER)
    n = (n > looking -> n - looking : 0); /* E14 */
#endif
#ifndef BUG_SLEEPERS_BEFORE_FRONTIER
    n = (asleep > 0 -> n : 0); /* E9 */
#endif
    wake_workers(me, n)
}

inline wake_helpers()
{
#ifdef BUG_NO_HELPERS
    skip
#else
    if
    :: asleep > 0 -> /* E9 */
        i = head;
        do
        :: d_step { i < tail -> n = n + (STATE(word[AT(me, i)]) == TODO -> 1 : 0); i++ }
        :: else -> break
        od;
        i = 0;
        wake_workers(me, n)
    :: asleep == 0
    fi
#endif
}

inline leave()
{
    word[AT(me, head)] = WORD(GENERATION(word[AT(me, head)]), 0, OWNED);
    begun[AT(me, head)] = false;
    head++
}

/* Take the result out of a slot that was seen DONE. */
inline take_done()
{
    assert(result[AT(me, head)] == head + 1 && index[AT(me, head)] == head);
    result[AT(me, head)] = 0;
    leave()
}

/* `got`: LZS_OK. */
inline take()
{
#ifdef FINE
    got = (STATE(word[AT(me, head)]) == DONE); /* E5 */
    if
    :: got -> d_step { take_done() }
    :: else
    fi
#else
    d_step {
#ifdef BUG_TAKE_UNSEEN
        got = true;
#else
        got = (STATE(word[AT(me, head)]) == DONE); /* E5 */
#endif
        if
        :: got -> take_done()
        :: else
        fi
    }
#endif
}

inline retract()
{
#ifdef BUG_RETRACT_BLINDLY
    if
    :: STATE(word[AT(me, head)]) == TODO -> d_step { leave() }
    :: STATE(word[AT(me, head)]) != TODO
    fi
#else
    if
    :: d_step { STATE(word[AT(me, head)]) == TODO -> leave() } /* E6 */
    :: STATE(word[AT(me, head)]) != TODO
    fi
#endif
}

inline drop()
{
    seen = word[AT(me, head)]; /* E5 */
    do
    :: STATE(seen) == DONE ->
#if PARTS
        unwanted[PROGRESS(me, head)] = true;
#endif
        d_step { take_done() }
        break
#ifndef BUG_DROP_WHILE_WRITTEN
    :: d_step { STATE(seen) == WRITING && STATE(word[AT(me, head)]) != WRITING -> seen = word[AT(me, head)] }
    :: d_step { (STATE(seen) == TODO || STATE(seen) == CLAIMED) && word[AT(me, head)] != seen -> /* E6 E5 */
            seen = word[AT(me, head)]
        }
    :: d_step { (STATE(seen) == TODO || STATE(seen) == CLAIMED) && word[AT(me, head)] == seen -> leave() } /* E6 */
        break
#else
    :: d_step { STATE(seen) != DONE && word[AT(me, head)] != seen -> seen = word[AT(me, head)] }
    :: d_step { STATE(seen) != DONE && word[AT(me, head)] == seen -> leave() }
        break
#endif
    od;
    seen = 0
}

/* `over`: LZS_CLOSED. */
inline wait()
{
    at = head;
#ifdef AHEAD
    do
    :: at + 1 < tail -> at++
    :: break
    od;
#endif
    wake_helpers();
    wanted[me] = WISH(at); /* E8 */
#ifndef BUG_NO_LOOK_AFTER_THE_WISH
    got = (STATE(word[AT(me, at)]) == DONE); /* E8 */
#endif
    if
    :: !got ->
#ifndef BUG_READER_OVERLOOKS_CLOSE
        over = closed; /* E10 */
#endif
        if
        :: !over ->
            park(READER(me));
            got = (STATE(word[AT(me, at)]) == DONE) /* E5 */
        :: else
        fi
    :: else
    fi;
    TOGETHER {
        at = 0;
        wanted[me] = 0;
        over = (!got && closed); /* E10 */
        got = false
    }
}

#if PARTS
/* The result of the last take, part after part. */
inline await_parts()
{
    i = 1;
    do
    :: i <= PARTS && !over ->
        if
        :: done[PROGRESS(me, head - 1)] >= i -> /* E12 */
            assert(parts[PROGRESS(me, head - 1)] >= i);
            i++
        :: else ->
            k = i;
            wake_helpers();
            i = k;
#ifdef BUG_PARTS_COUNTED_BEFORE_THE_WISH
            got = (done[PROGRESS(me, head - 1)] >= i);
            wanted_parts[PROGRESS(me, head - 1)] = i;
#else
            wanted_parts[PROGRESS(me, head - 1)] = i; /* E13 */
            got = (done[PROGRESS(me, head - 1)] >= i); /* E13 */
#endif
            if
            :: !got ->
                over = closed; /* E10 */
                if
                :: !over -> park(READER(me))
                :: else
                fi
            :: else
            fi;
            wanted_parts[PROGRESS(me, head - 1)] = 0;
            got = (done[PROGRESS(me, head - 1)] >= i); /* E12 */
            over = (!got && closed); /* E10 */
            d_step { got = false; k = 0 }
        fi
#ifdef JUMPS
    :: i <= PARTS && !over -> break
#endif
    :: else -> break
    od;
    if
    :: i <= PARTS -> unwanted[PROGRESS(me, head - 1)] = true
    :: else
    fi;
    i = 0
}
#endif

inline close()
{
    CLOSING {
    closed = true; /* E10 */
#ifndef BUG_CLOSE_WAKES_NO_WORKER
    do
    :: w < WORKERS -> unpark(w); w++
    :: else -> break
    od;
    w = 0;
#endif
#ifndef BUG_CLOSE_WAKES_NO_READER
    n = nrings; /* E11 */
#endif
    do
    :: w < n -> unpark(READER(w)); w++
    :: else -> break
    od;
    w = 0;
    n = 0
    }
}

proctype Reader(byte me)
{
    byte head, tail, shown, seen, at, i, k, n, w, r;
    bool got, over, some, every;

    if
    :: me > 0 -> nrings = me + 1 /* E11 */
    :: else
    fi;
    do
    :: !over && tail < LAST && tail - head < CAPACITY -> publish()
    :: !over && tail > shown -> flush()
#ifdef JUMPS
    :: !over && head < tail -> drop()
    :: !over && head < tail -> retract()
    :: !over && head == tail && first[me] < head -> first[me] = head /* a drop that finds nothing */
#endif
    :: !over && head < tail && tail == shown ->
        take();
        if
        :: got ->
            got = false;
#if PARTS
            await_parts()
#endif
        :: else -> wait()
        fi
#ifdef REST
    :: !over && head < tail && tail == shown -> timeout; check_rest()
#endif
    :: over || head == LAST -> break
    od;
    do
    :: head < tail -> drop()
    :: else -> break
    od;
    reading--;
#ifndef CLOSE
    if
    :: reading == 0 -> close()
    :: reading > 0
    fi
#endif
}

#ifdef CLOSE
proctype Closer()
{
    byte w, n;
    close()
}
#endif

/* ---- Workers ---------------------------------------------------------------------------------------------------- */

#define NOTHING 0
#define FOUND 1
#define OVER 2

/* Positions older than a round of the slots are the same slots again; `from` may lie beyond. */
#define SCAN_FROM(position) ((position) + SLOTS < until -> until - SLOTS : (position))

#if SLOTS > 1
#define WHERE_TO_LOOK (hint[turn] < first[turn] -> first[turn] : hint[turn])
#else
#define WHERE_TO_LOOK first[turn] /* the only slot is found with any hint */
#endif

/* Claim the first TODO of ring `turn` from `from` up to `until`. */
inline scan()
{
    do
    :: from < until && status == NOTHING ->
        d_step { /* a look */
            mine = word[AT(turn, from)];
            if
            :: STATE(mine) == TODO
            :: else -> mine = 0; from++
            fi
        }
        if
        :: mine != 0 ->
#ifdef BUG_CLAIM_BLINDLY
            mine = WORD(GENERATION(mine), OWNER(me), CLAIMED);
            word[AT(turn, from)] = mine;
#else
            d_step { /* E2 */
                if
                :: word[AT(turn, from)] == mine ->
                    mine = WORD(GENERATION(mine), OWNER(me), CLAIMED);
                    word[AT(turn, from)] = mine
                :: else -> mine = 0; from++
                fi
            }
#endif
            if
            :: mine != 0 ->
                TOGETHER {
                    what = index[AT(turn, from)]; /* R1 */
#ifdef BUG_POSITION_OF_THE_SCAN
                    p = from;
#else
                    p = position[AT(turn, from)]; /* R1 */
#endif
                    INNER_STEP {
#ifndef BUG_NO_LOOK_AFTER_THE_CLAIM
                        if
                        :: word[AT(turn, from)] == mine -> status = FOUND /* R1 */
                        :: else -> mine = 0; p = 0
                        fi;
#else
                        status = FOUND;
#endif
                        if
                        :: status == FOUND ->
                            assert(what == p);
                            assert(!begun[AT(turn, from)]);
                            begun[AT(turn, from)] = (word[AT(turn, from)] == mine)
                        :: else
                        fi;
                        what = 0;
                        from++
                    }
#if SLOTS > 1
                    if
                    :: status == FOUND -> hint[turn] = from
                    :: else
                    fi
#endif
                }
            :: else
            fi
        :: else
        fi
    :: else -> break
    od
}

inline claim()
{
    n = 1;
    do
    :: k < n && status == NOTHING ->
        TOGETHER {
            if
            :: k == 0 ->
                status = (closed -> OVER : NOTHING); /* E10 */
#ifndef BUG_RINGS_COUNTED_ONCE
                n = nrings /* E11 */
#endif
            :: else
            fi;
            INNER_STEP { turn = (turn + 1 < n -> turn + 1 : 0); k++; from = WHERE_TO_LOOK }
            INNER_STEP { until = (status == OVER -> 0 : frontier[turn]); from = SCAN_FROM(from) } /* E9 */
        }
        scan();
#if SLOTS > 1 && !defined(BUG_HINT_ALONE)
        if
        :: status == NOTHING ->
            d_step { from = first[turn]; from = SCAN_FROM(from) }
            scan()
        :: else
        fi;
#endif
        from = 0; until = 0
    :: else -> k = 0; n = 0; break
    od
}

inline claim_wait()
{
    do
    :: status == NOTHING ->
        claim();
        if
        :: status == NOTHING ->
#if LOOKS
            looking++; /* E14 */
            claim();
#ifndef BUG_LOOKING_UNTIL_THE_SLEEP
            looking--; /* E14 */
#endif
            if
            :: status == NOTHING ->
#endif
#ifdef BUG_ANNOUNCED_BEFORE_COUNTED
                announced[me] = ANNOUNCED;
                asleep++;
#else
                TOGETHER {
                    asleep++;            /* E9: counted, */
                    announced[me] = ANNOUNCED /* E9: announced, */
                }
#endif
#ifndef BUG_NO_LOOK_AFTER_THE_ANNOUNCEMENT
                claim(); /* E9: and looked once more. */
#endif
#ifdef BUG_LOOKING_UNTIL_THE_SLEEP
                looking--;
#endif
                if
                :: status == NOTHING -> park(me)
                :: else
                fi;
                if
#ifdef FINE
                :: d_step { announced[me] == ANNOUNCED -> announced[me] = 0 }
                    d_step { assert(asleep > 0); asleep-- }
#else
                :: d_step { announced[me] == ANNOUNCED -> announced[me] = 0; assert(asleep > 0); asleep-- }
#endif
                :: d_step { announced[me] != ANNOUNCED -> call = announced[me] - CALLED; announced[me] = 0 }
                    if
#ifndef BUG_WAKE_UP_NOT_HANDED_ON
                    :: status == FOUND -> n = 1; wake_workers(call, n)
#endif
                    :: status == NOTHING -> turn = (call > 0 -> call - 1 : RINGS) /* one before it */
                    :: else
                    fi;
                    call = 0
                fi
#if LOOKS
#ifdef BUG_LOOKING_UNTIL_THE_SLEEP
            :: else -> looking--
#else
            :: else
#endif
            fi
#endif
        :: else
        fi
    :: else -> break
    od
}

inline wake()
{
    if
#ifdef FINE
    :: wanted[turn] == WISH(p) -> /* E8 */
        if
        :: d_step { wanted[turn] == WISH(p) -> wanted[turn] = 0 }
            unpark(READER(turn))
        :: wanted[turn] != WISH(p)
        fi
#else
    :: d_step { wanted[turn] == WISH(p) -> wanted[turn] = 0 } /* E8 */
        unpark(READER(turn))
#endif
    :: wanted[turn] != WISH(p)
    fi
}

/* `got`: not LZS_CANCELLED. */
#if DEATHS
/* Somebody finds the worker dead: who that is does not matter, so the dead one itself does it. */
inline bury()
{
#ifndef BUG_BURY_NOTHING
    d_step {
        if
#ifdef BUG_BURY_BLINDLY
        :: true ->
#else
        :: word[AT(turn, p)] == mine || word[AT(turn, p)] == WITH(mine, WRITING) -> /* E7 */
#endif
            word[AT(turn, p)] = WORD(GENERATION(mine), 0, TODO);
            begun[AT(turn, p)] = false;
            result[AT(turn, p)] = 0
        :: else
        fi
    }
#ifndef BUG_BURY_WAKES_NOBODY
    n = 1;
    wake_workers(turn, n)
#endif
#else
    skip
#endif
}
#endif

inline attach()
{
#ifdef BUG_ATTACH_BLINDLY
    got = (word[AT(turn, p)] == mine);
    if :: got -> word[AT(turn, p)] = WITH(mine, WRITING) :: else fi;
#else
    d_step { /* E3 */
        got = (word[AT(turn, p)] == mine);
        if
        :: got -> word[AT(turn, p)] = WITH(mine, WRITING)
        :: else
        fi
    }
#endif
#if DEATHS
    if
    :: d_step { got && deaths > 0 -> deaths-- } bury(); got = false
    :: true
    fi;
#endif
    if
    :: got ->
#ifdef BUG_DONE_BEFORE_THE_RESULT
        word[AT(turn, p)] = WITH(mine, DONE);
#endif
#ifdef BUG_WISH_BEFORE_DONE
        wake();
#endif
        TOGETHER {
            INNER_STEP {
                assert(word[AT(turn, p)] == WITH(mine, WRITING) && result[AT(turn, p)] == 0);
                result[AT(turn, p)] = p + 1
            }
            word[AT(turn, p)] = WITH(mine, DONE) /* E4 E8 */
        }
    :: else
    fi
}

inline evaluate()
{
#ifdef REST
    if
    :: true
    :: true -> timeout; check_rest()
    fi
#else
    skip
#endif
}

#if PARTS
inline add_parts()
{
    do
    :: k < PARTS && !unwanted[PROGRESS(turn, p)] ->
        evaluate();
        k++;
#ifndef BUG_PART_AFTER_THE_COUNT
        parts[PROGRESS(turn, p)] = k;
#endif
#ifdef BUG_PARTS_WISH_BEFORE_THE_COUNT
        from = wanted_parts[PROGRESS(turn, p)];
#endif
        done[PROGRESS(turn, p)] = k; /* E12 E13 */
#ifndef BUG_PARTS_WISH_BEFORE_THE_COUNT
        from = wanted_parts[PROGRESS(turn, p)]; /* E13 */
#endif
#ifdef BUG_PART_AFTER_THE_COUNT
        parts[PROGRESS(turn, p)] = k;
#endif
        if
        :: from != 0 && from <= k -> unpark(READER(turn))
        :: else
        fi;
        from = 0;
        wake()
    :: k < PARTS - 1 && !unwanted[PROGRESS(turn, p)] -> /* one that wakes nobody */
        k++;
        parts[PROGRESS(turn, p)] = k;
        done[PROGRESS(turn, p)] = k /* E12 */
    :: else -> break
    od;
    k = 0
}
#endif

proctype Worker(byte me)
{
    byte turn, status, from, until, mine, p, what, k, n, w, r, call;
    bool got, some, every;

    do
    :: status == NOTHING -> claim_wait()
    :: status == FOUND ->
#if !PARTS
        evaluate();
#endif
#if DEATHS
        if
        :: d_step { deaths > 0 -> deaths-- } bury(); got = false
        :: true -> attach()
        fi;
#else
        attach();
#endif
        if
        :: got ->
#if PARTS
            add_parts()
#elif !defined(BUG_WISH_BEFORE_DONE)
            wake()
#else
            skip
#endif
        :: else
        fi;
        status = NOTHING; mine = 0; p = 0; got = false
    :: status == OVER -> break
    od
}

init
{
    byte i;

    atomic {
        do
        :: i < RINGS -> run Reader(i); i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < WORKERS -> run Worker(i); i++
        :: else -> break
        od;
        i = 0;
#ifdef CLOSE
        run Closer()
#endif
    }
    _nr_pr == 1;
    d_step {
        assert(asleep == 0 && looking == 0);
        do
        :: i < RINGS * SLOTS -> assert(STATE(word[i]) == OWNED && result[i] == 0); i++
        :: else -> break
        od
    }
}
