/* test_timeline.c: the rules of time, one stream's blocks at a time: holes, duplicates, late rows, clocks, flags,
 * resets, irregular times; and that verdicts do not depend on how rows were cut into blocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/timeline.h"

enum { LOG = 4096, ROWS = 512 };

/* What became of the blocks: accepted rows, events, resets, discards. */
struct log {
    int64_t seq[LOG], dt[LOG];
    uint32_t epoch[LOG];
    unsigned n, gaps, drops, resets, clocks, held;
    uint64_t discarded[IO_R_COUNT];
    int64_t gap_from, gap_to, gap_count, drop_from, drop_to;
    bool bridged;
    enum md_reset why;
};

static struct io_block *block(uint32_t n, int64_t seq, int64_t t_ns, bool timed)
{
    struct io_block *b = calloc(1, sizeof *b + ROWS * 16);

    assert_true(n <= ROWS);
    b->n = n;
    b->channels = 1;
    b->type = IO_F32;
    b->seq = seq;
    b->t_ns = t_ns;
    b->timed = timed;
    return b;
}

/* Judges one block to its end; rows are taken at most `most` at a time. False: it is to be held. */
static bool run(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b, uint32_t most, struct log *l)
{
    uint32_t at = 0, in_hand = 0;
    struct md_verdict v;

    for (unsigned turns = 0; turns < 10000; turns++) {
        md_timeline_next(t, r, b, at, in_hand == 0, &v);
        l->clocks += v.clock;
        if (v.kind == MD_ROWS) {
            uint32_t n = v.n < most ? v.n : most;
            assert_int_equal(v.seq, b->seq + at);
            md_timeline_take(t, r, b, at, n, l->dt + l->n);
            for (uint32_t i = 0; i < n; i++, l->n++) {
                l->seq[l->n] = v.seq + i;
                l->epoch[l->n] = t->epoch;
            }
            at += n;
            in_hand += n;
        } else if (v.kind == MD_DISCARD) {
            l->discarded[v.why] += v.n;
            at += v.n;
        } else if (v.kind == MD_EVENT && strcmp(v.event, "gap") == 0) {
            l->gaps++;
            l->gap_from = v.from, l->gap_to = v.to, l->gap_count = v.count, l->bridged = v.bridged;
        } else if (v.kind == MD_EVENT) {
            l->drops++;
            l->drop_from = v.from, l->drop_to = v.to;
        } else if (v.kind == MD_RESET) {
            assert_int_equal(in_hand, 0);
            l->resets++;
            l->why = v.reset;
        } else if (v.kind == MD_STOP) {
            assert_true(in_hand > 0);
            in_hand = 0;
        } else if (v.kind == MD_HOLD) {
            l->held++;
            return false;
        } else {
            return true;
        }
    }
    fail_msg("a block without end");
    return false;
}

static void feed(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b, struct log *l)
{
    assert_true(run(t, r, b, UINT32_MAX, l));
    free(b);
}

static struct md_time_rules regular(double hz)
{
    return (struct md_time_rules){.rate = md_rate_of(hz), .interval_ns = -1, .gap_max_ns = -1};
}

static void begin(struct md_timeline *t, struct log *l)
{
    memset(t, 0, sizeof *t);
    memset(l, 0, sizeof *l);
    md_timeline_start(t, false);
}

static struct md_timeline t;
static struct log l;

static void test_rates(void **state)
{
    static const struct {
        double hz;
        int64_t num, den;
    } want[] = {{44100, 44100, 1}, {0.1, 1, 10}, {29.97, 2997, 100}, {360, 360, 1}, {1.0 / 3, 1, 3}, {1e-3, 1, 1000}};

    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct md_rate r = md_rate_of(want[i].hz);
        assert_int_equal(r.num, want[i].num);
        assert_int_equal(r.den, want[i].den);
    }
    assert_int_equal(md_rate_of(0).num, 0);
    assert_int_equal(md_rate_of(NAN).num, 0);
    assert_int_equal(md_rate_of(1e300).num, 0);
    /* no drift over 10^9 rows and more */
    assert_int_equal(md_rate_ns(md_rate_of(44100), INT64_C(44100) * 1000000), INT64_C(1000000) * 1000000000);
    assert_int_equal(md_rate_ns(md_rate_of(0.1), 1000000000), INT64_MAX); /* 317 years are more than int64 ns hold */
    assert_int_equal(md_rate_ns(md_rate_of(0.1), 100000000), INT64_C(1000000000) * 1000000000);
    assert_int_equal(md_rate_rows(md_rate_of(44100), 22675), 1);
    assert_int_equal(md_rate_ns(md_rate_of(3), 1), 333333333);
    assert_int_equal(md_rate_ns(md_rate_of(3), 2), 666666667);
    assert_int_equal(md_rate_ns(md_rate_of(3), -2), -666666667);
}

static void test_plain(void **state)
{
    struct md_time_rules r = regular(100);

    (void)state;
    begin(&t, &l);
    feed(&t, &r, block(10, IO_SEQ_NONE, IO_T_NONE, false), &l);
    feed(&t, &r, block(5, IO_SEQ_NONE, IO_T_NONE, false), &l);
    assert_int_equal(l.n, 15);
    for (unsigned i = 0; i < 15; i++) {
        assert_int_equal(l.seq[i], i);
        assert_int_equal(l.dt[i], 1);
    }
    assert_int_equal(l.gaps + l.resets + l.drops, 0);
    begin(&t, &l);
    feed(&t, &r, block(4, 1000, IO_T_NONE, false), &l); /* the first number is the sender's: no hole before it */
    assert_int_equal(l.seq[0], 1000);
    assert_int_equal(l.gaps, 0);
}

static void test_hole_by_seq(void **state)
{
    struct md_time_rules r = regular(100);

    (void)state;
    begin(&t, &l);
    feed(&t, &r, block(10, 0, IO_T_NONE, false), &l);
    feed(&t, &r, block(10, 17, IO_T_NONE, false), &l);
    assert_int_equal(l.n, 20);
    assert_int_equal(l.seq[10], 17);
    assert_int_equal(l.dt[10], 8); /* a hole of k gives 1 + k */
    assert_int_equal(l.dt[11], 1);
    assert_int_equal(l.gaps, 1);
    assert_int_equal(l.gap_from, 10);
    assert_int_equal(l.gap_to, 16);
    assert_int_equal(l.gap_count, 7);
    assert_true(l.bridged);
    assert_int_equal(l.resets, 0);
}

static void test_gap_max(void **state)
{
    struct md_time_rules r = regular(100);

    (void)state;
    r.gap_max_ns = 70000000; /* 7 samples */
    begin(&t, &l);
    feed(&t, &r, block(10, 0, IO_T_NONE, false), &l);
    feed(&t, &r, block(10, 17, IO_T_NONE, false), &l);
    assert_int_equal(l.resets, 0);
    assert_true(l.bridged);
    feed(&t, &r, block(10, 35, IO_T_NONE, false), &l);
    assert_int_equal(l.resets, 1);
    assert_int_equal(l.why, MD_RESET_GAP);
    assert_false(l.bridged);
    assert_int_equal(l.epoch[20], 1);
    assert_int_equal(l.seq[20], 35);
    assert_int_equal(l.dt[20], 1); /* nothing is owed across a reset */
}

static void test_duplicates_and_late(void **state)
{
    struct md_time_rules r = regular(100);

    (void)state;
    begin(&t, &l);
    feed(&t, &r, block(10, 0, IO_T_NONE, false), &l);
    feed(&t, &r, block(10, 5, IO_T_NONE, false), &l); /* five old, five new */
    assert_int_equal(l.discarded[IO_R_DUPLICATE], 5);
    assert_int_equal(l.n, 15);
    feed(&t, &r, block(5, 20, IO_T_NONE, false), &l);  /* 15 … 19 are missing */
    feed(&t, &r, block(10, 12, IO_T_NONE, false), &l); /* 12 13 14 again, 15 … 19 late, 20 21 again */
    assert_int_equal(l.discarded[IO_R_DUPLICATE], 10);
    assert_int_equal(l.discarded[IO_R_LATE], 5);
    assert_int_equal(l.n, 20);
    for (unsigned i = 1; i < l.n; i++)
        assert_true(l.seq[i] > l.seq[i - 1]);
}

static void test_hole_by_time(void **state)
{
    struct md_time_rules r = regular(100);
    const int64_t t0 = INT64_C(1700000000) * 1000000000, ms = 1000000;

    (void)state;
    begin(&t, &l);
    feed(&t, &r, block(10, IO_SEQ_NONE, t0, false), &l);
    feed(&t, &r, block(10, IO_SEQ_NONE, t0 + 102 * ms, false), &l); /* 2 ms of jitter: no hole */
    assert_int_equal(l.gaps, 0);
    feed(&t, &r, block(10, IO_SEQ_NONE, t0 + 231 * ms, false), &l); /* three samples on */
    assert_int_equal(l.gaps, 1);
    assert_int_equal(l.gap_count, 3);
    assert_int_equal(l.seq[20], 23);
    assert_int_equal(l.dt[20], 4);
    feed(&t, &r, block(10, IO_SEQ_NONE, t0 + 310 * ms, false), &l); /* two samples back */
    assert_int_equal(l.discarded[IO_R_DUPLICATE], 2);
    assert_int_equal(l.seq[30], 33);
    /* derived times keep the first anchor: jitter below a quarter sample does not show */
    assert_int_equal(md_timeline_ns(&r, t.anchor_seq, t.anchor_t, 40), t0 + 400 * ms);
}

static void test_clock(void **state)
{
    struct md_time_rules r = regular(100);
    const int64_t ms = 1000000;

    (void)state;
    begin(&t, &l);
    feed(&t, &r, block(10, 0, 0, false), &l);
    feed(&t, &r, block(10, 10, 110 * ms, false), &l); /* one sample off: tolerated */
    assert_int_equal(l.clocks, 0);
    feed(&t, &r, block(10, 20, 500 * ms, false), &l);
    assert_int_equal(l.clocks, 1);
    assert_int_equal(l.gaps, 0); /* seq rules */
    assert_int_equal(l.n, 30);
    assert_int_equal(md_timeline_ns(&r, t.anchor_seq, t.anchor_t, 30), 600 * ms); /* and the clock is followed */
}

static void test_flags(void **state)
{
    struct md_time_rules r = regular(100);
    struct io_block *b;

    (void)state;
    begin(&t, &l);
    b = block(10, IO_SEQ_NONE, IO_T_NONE, false);
    b->flags = IO_START | IO_RESET; /* at the very beginning: nothing to reset */
    feed(&t, &r, b, &l);
    assert_int_equal(l.resets, 0);
    b = block(10, IO_SEQ_NONE, IO_T_NONE, false);
    b->flags = IO_RESET;
    feed(&t, &r, b, &l);
    assert_int_equal(l.resets, 1);
    assert_int_equal(l.why, MD_RESET_SENDER);
    assert_int_equal(l.seq[10], 10); /* numbers go on */
    assert_int_equal(l.epoch[10], 1);
    b = block(10, 3, IO_T_NONE, false);
    b->flags = IO_START;
    feed(&t, &r, b, &l);
    assert_int_equal(l.why, MD_RESET_START);
    assert_int_equal(l.seq[20], 3); /* numbers begin anew */
    assert_int_equal(l.epoch[20], 2);
    assert_int_equal(l.n, 30);
    b = block(4, IO_SEQ_NONE, IO_T_NONE, false);
    b->flags = IO_GAP;
    feed(&t, &r, b, &l);
    assert_int_equal(l.gaps, 1);
    assert_int_equal(l.gap_count, -1);
    assert_int_equal(l.gap_from, IO_SEQ_NONE); /* no number is known to be missing */
    assert_int_equal(l.seq[30], 13);
    b = block(0, IO_SEQ_NONE, IO_T_NONE, false); /* flags without rows */
    b->flags = IO_RESET;
    feed(&t, &r, b, &l);
    assert_int_equal(l.resets, 3);
    assert_int_equal(t.rows, 0);
}

static bool next_event(const struct md_time_rules *r, struct io_block *b, const char *reason, int64_t from, int64_t to)
{
    struct md_verdict v;

    md_timeline_next(&t, r, b, 0, true, &v);
    return v.kind == MD_EVENT && strcmp(v.reason, reason) == 0 && v.from == from && v.to == to &&
           v.count == to - from + 1;
}

static void test_dropped_rows(void **state)
{
    struct md_time_rules r = regular(100);
    struct io_block *b;

    (void)state;
    begin(&t, &l);
    feed(&t, &r, block(10, IO_SEQ_NONE, IO_T_NONE, false), &l);
    b = block(10, IO_SEQ_NONE, IO_T_NONE, false);
    b->lost.rows = 6;
    feed(&t, &r, b, &l);
    assert_int_equal(l.drops, 1);
    assert_int_equal(l.drop_from, 10);
    assert_int_equal(l.drop_to, 15);
    assert_int_equal(l.gaps, 1);
    assert_int_equal(l.gap_count, 6);
    assert_int_equal(l.seq[10], 16);
    assert_int_equal(l.dt[10], 7);
    b = block(0, IO_SEQ_NONE, IO_T_NONE, false); /* rows dropped at the end keep their numbers */
    b->lost.rows = 4;
    b->flags = IO_END;
    feed(&t, &r, b, &l);
    assert_int_equal(l.drops, 2);
    assert_int_equal(t.next, 30);
    b = block(0, IO_SEQ_NONE, IO_T_NONE, false); /* an event for each reason, and the model hears of all */
    b->lost = (struct io_lost){.rows = 8, .limit = 3, .streams = 1, .memory = 2};
    assert_true(next_event(&r, b, "limit", 30, 32));
    assert_true(next_event(&r, b, "streams", 33, 33));
    assert_true(next_event(&r, b, "memory", 34, 35));
    assert_true(next_event(&r, b, "queue_full", 36, 37));
    feed(&t, &r, b, &l);
    feed(&t, &r, block(2, IO_SEQ_NONE, IO_T_NONE, false), &l);
    assert_int_equal(l.seq[20], 38);
    assert_int_equal(l.dt[20], 13);
    assert_int_equal(l.dt[21], 1);
}

static void set(struct io_block *b, uint32_t row, float v)
{
    ((float *)(void *)b->data)[row] = v;
}

static void test_nan_reset(void **state)
{
    struct md_time_rules r = regular(100);
    struct io_block *b = block(20, 0, IO_T_NONE, false);

    (void)state;
    r.nan_reset = true;
    set(b, 0, NAN); /* before the first whole row: nothing to reset */
    set(b, 7, INFINITY);
    set(b, 8, NAN);
    begin(&t, &l);
    feed(&t, &r, b, &l);
    assert_int_equal(l.discarded[IO_R_NAN], 3);
    assert_int_equal(l.resets, 1);
    assert_int_equal(l.why, MD_RESET_NAN);
    assert_int_equal(l.n, 17);
    assert_int_equal(l.seq[0], 1);
    assert_int_equal(l.seq[6], 9); /* a dropped row keeps its number */
    assert_int_equal(l.epoch[6], 1);
    assert_int_equal(l.gaps, 0);
}

static void test_reorder_holds(void **state)
{
    struct md_time_rules r = regular(100);
    struct io_block *b;

    (void)state;
    r.reorder = true;
    begin(&t, &l);
    feed(&t, &r, block(10, 0, IO_T_NONE, false), &l);
    b = block(10, 20, IO_T_NONE, false);
    assert_false(run(&t, &r, b, UINT32_MAX, &l));
    feed(&t, &r, block(10, 10, IO_T_NONE, false), &l);
    assert_true(run(&t, &r, b, UINT32_MAX, &l)); /* its turn has come */
    free(b);
    assert_int_equal(l.n, 30);
    assert_int_equal(l.gaps, 0);
    b = block(10, 40, IO_T_NONE, false);
    assert_false(run(&t, &r, b, UINT32_MAX, &l));
    b->flags |= MD_NO_WAIT; /* waited long enough */
    assert_true(run(&t, &r, b, UINT32_MAX, &l));
    free(b);
    assert_int_equal(l.gaps, 1);
    feed(&t, &r, block(10, 30, IO_T_NONE, false), &l);
    assert_int_equal(l.discarded[IO_R_LATE], 10);
}

static struct io_block *timed_block(uint32_t n, const int64_t *times)
{
    struct io_block *b = block(n, IO_SEQ_NONE, times[0], true);

    memcpy(io_block_times(b), times, n * sizeof *times);
    return b;
}

static void test_irregular(void **state)
{
    struct md_time_rules r = {.irregular = true, .rate = {0, 1}, .interval_ns = -1, .gap_max_ns = 1000};
    static const int64_t first[] = {100, 100, 100, 130, 150}, second[] = {150, 140, 149, 160, 2000, 2010};

    (void)state;
    begin(&t, &l);
    feed(&t, &r, timed_block(5, first), &l);
    assert_int_equal(t.interval, 30); /* the first positive difference */
    assert_int_equal(l.dt[1], 0);
    assert_int_equal(l.dt[3], 30);
    assert_int_equal(l.dt[4], 20);
    feed(&t, &r, timed_block(6, second), &l);
    assert_int_equal(l.discarded[IO_R_LATE], 2);
    assert_int_equal(l.dt[6], 10);
    assert_int_equal(l.resets, 1); /* 1840 ns are more than gap.max */
    assert_int_equal(l.why, MD_RESET_GAP);
    assert_int_equal(l.n, 9);
    assert_int_equal(l.epoch[7], 1);
    assert_int_equal(l.dt[8], 10);
    assert_int_equal(t.interval, 30); /* kept across epochs */
}

static void test_returning(void **state)
{
    struct md_time_rules r = regular(100);

    (void)state;
    begin(&t, &l);
    feed(&t, &r, block(10, IO_SEQ_NONE, IO_T_NONE, false), &l);
    md_timeline_start(&t, true);
    feed(&t, &r, block(5, IO_SEQ_NONE, IO_T_NONE, false), &l); /* counted on, next epoch */
    assert_int_equal(l.seq[10], 10);
    assert_int_equal(l.epoch[10], 1);
    md_timeline_start(&t, true);
    feed(&t, &r, block(5, 0, IO_T_NONE, false), &l); /* a sender's own numbers stand */
    assert_int_equal(l.seq[15], 0);
    assert_int_equal(l.epoch[15], 2);
    assert_int_equal(l.gaps + l.resets, 0);
}

static void test_hostile(void **state)
{
    struct md_time_rules r = regular(44100);
    static const int64_t odd[] = {INT64_MIN + 1,       -1, 0,        INT64_MAX, INT64_MAX - 1, INT64_C(1) << 61,
                                  -(INT64_C(1) << 61), 1,  IO_T_NONE};
    unsigned seed = 12345;

    (void)state;
    printf("seed %u\n", seed);
    srand(seed);
    r.gap_max_ns = 1000000;
    begin(&t, &l);
    for (unsigned i = 0; i < 20000; i++) {
        struct io_block *b =
            block((uint32_t)rand() % 4, odd[(unsigned)rand() % 9], odd[(unsigned)rand() % 9], rand() % 2);
        b->flags = (uint32_t)rand() % 16;
        b->lost.rows = rand() % 3 ? 0 : (uint32_t)rand();
        r.irregular = rand() % 2;
        l.n = 0;
        if (!run(&t, &r, b, 1 + (uint32_t)rand() % 3, &l))
            fail_msg("held without reorder");
        for (unsigned k = 0; k < l.n; k++)
            assert_true(l.dt[k] >= 0);
        free(b);
    }
}

/* The same rows, cut at random: the same verdict on every row. */
static void test_any_cutting(void **state)
{
    struct md_time_rules r = regular(128);
    static struct log whole, cut;
    unsigned seed = 77;

    (void)state;
    printf("seed %u\n", seed);
    srand(seed);
    for (unsigned round = 0; round < 50; round++) {
        struct io_block *big = block(ROWS, 100, 0, false);
        int64_t end = 100;
        r.nan_reset = round % 2;
        for (uint32_t i = 0; i < ROWS; i++)
            set(big, i, rand() % 50 ? 1.0f : NAN);
        begin(&t, &whole);
        assert_true(run(&t, &r, big, UINT32_MAX, &whole));
        begin(&t, &cut);
        while (end < 100 + ROWS) {
            uint32_t n = 1 + (uint32_t)rand() % 40, from = (uint32_t)(end - 100);
            n = from + n > ROWS ? ROWS - from : n;
            struct io_block *b = block(n, end, md_rate_ns(r.rate, from), false);
            memcpy(b->data, big->data + from * sizeof(float), n * sizeof(float));
            assert_true(run(&t, &r, b, 1 + (uint32_t)rand() % 16, &cut));
            end += n;
            free(b);
        }
        assert_int_equal(whole.n, cut.n);
        assert_memory_equal(whole.seq, cut.seq, whole.n * sizeof *whole.seq);
        assert_memory_equal(whole.dt, cut.dt, whole.n * sizeof *whole.dt);
        assert_memory_equal(whole.epoch, cut.epoch, whole.n * sizeof *whole.epoch);
        assert_int_equal(whole.resets, cut.resets);
        free(big);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),         cmocka_unit_test(test_plain),
        cmocka_unit_test(test_hole_by_seq),   cmocka_unit_test(test_gap_max),
        cmocka_unit_test(test_hole_by_time),  cmocka_unit_test(test_duplicates_and_late),
        cmocka_unit_test(test_clock),         cmocka_unit_test(test_flags),
        cmocka_unit_test(test_dropped_rows),  cmocka_unit_test(test_nan_reset),
        cmocka_unit_test(test_reorder_holds), cmocka_unit_test(test_irregular),
        cmocka_unit_test(test_returning),     cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_any_cutting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
