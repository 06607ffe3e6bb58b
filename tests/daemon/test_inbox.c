/* test_inbox.c: a full queue drops rows, but neither the flags that came with them nor how many they were; what an
 * input does with the handle of a stream that has gone to another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "daemon/input.h"

struct rig {
    struct io_pool *pool;
    struct md_inbox inbox;
    struct md_input_conf conf;
    struct md_input input;
    struct io_stream stream;
};

static void begin(struct rig *r, enum md_when_full when_full, uint32_t queue)
{
    memset(r, 0, sizeof *r);
    assert_int_equal(io_pool_new(1 << 20, &r->pool), 0);
    assert_int_equal(md_inbox_init(&r->inbox, 4, r->pool), 0);
    r->conf.when_full = when_full;
    r->conf.queue = queue;
    r->conf.max_streams = 4;
    r->input.conf = &r->conf;
    r->input.inbox = &r->inbox;
    r->stream.input = &r->input;
    r->stream.inbox = &r->inbox;
    r->stream.channels = 1;
    assert_int_equal(md_inbox_enter(&r->inbox, &r->stream), 0);
}

static void push(struct rig *r, uint32_t rows, uint32_t flags)
{
    struct io_block *b = io_block_get(r->pool, rows * sizeof(float));

    assert_non_null(b);
    b->n = rows;
    b->flags = flags;
    assert_int_equal(md_inbox_push(&r->input, &r->stream, b, IO_SEQ_NONE), 0);
}

/* Takes everything out; the first block is the caller's to look at until done(). */
static struct io_block *collect(struct rig *r)
{
    struct io_stream *s;

    assert_int_equal(md_inbox_collect(&r->inbox, &s, 1, 1000), 1);
    assert_ptr_equal(s, &r->stream);
    return s->course.mine;
}

static void done(struct rig *r)
{
    for (struct io_block *b = r->stream.course.mine, *next; b; b = next) {
        next = b->next;
        io_block_put(r->pool, b);
    }
    md_inbox_done(&r->inbox);
    io_pool_free(&r->pool);
}

/* A block without rows, or the end of the stream, stays: what stood before it stands before it still. */
static void test_what_stays(void **state)
{
    static const uint32_t stays[] = {MD_NOTE, IO_END};

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct rig r;
        begin(&r, MD_DROP_OLDEST, 10);
        push(&r, 3, 0);
        push(&r, 3, IO_RESET);
        push(&r, 0, stays[i]);
        push(&r, 3, 0);
        push(&r, 9, 0);
        const struct io_block *b = collect(&r);
        assert_int_equal(b->n, 0);
        assert_int_equal(b->lost.rows, 6);
        assert_int_equal(b->flags, IO_RESET | stays[i]);
        assert_int_equal(b->next->n, 9);
        assert_int_equal(b->next->lost.rows, 3);
        assert_int_equal(b->next->flags, 0);
        done(&r);
    }
}

static void test_oldest(void **state)
{
    struct rig r;

    (void)state;
    begin(&r, MD_DROP_OLDEST, 10);
    push(&r, 5, IO_GAP);
    push(&r, 5, 0);
    push(&r, 6, IO_RESET);
    const struct io_block *b = collect(&r);
    assert_int_equal(b->n, 6);
    assert_int_equal(b->lost.rows, 10);
    assert_int_equal(b->flags, IO_GAP | IO_RESET);
    done(&r);
}

static void test_newest(void **state)
{
    struct rig r;

    (void)state;
    begin(&r, MD_DROP_NEWEST, 10);
    push(&r, 8, 0);
    push(&r, 3, IO_RESET);
    push(&r, 2, 0);
    const struct io_block *b = collect(&r);
    assert_int_equal(b->n, 8);
    assert_int_equal(b->flags, 0);
    assert_int_equal(b->next->n, 2);
    assert_int_equal(b->next->lost.rows, 3);
    assert_int_equal(b->next->flags, IO_RESET);
    done(&r);
}

/* It can be taken back, and that is all. */
static void test_stale(void **state)
{
    struct rig r;
    struct md_input before;

    (void)state;
    begin(&r, MD_BLOCK, 10);
    before = r.input; /* had it, and still has a handle */
    atomic_store(&r.stream.queue.stale, 1);
    struct io_place place = {.next = 77};
    struct md_replay replay;
    assert_false(md_inbox_place(&before, &r.stream, &place));
    assert_int_equal(place.next, 77);
    assert_true(md_inbox_place(&r.input, &r.stream, &place));
    assert_int_equal(place.next, 0);
    r.stream.replay.from = 5;
    md_inbox_last(&before, &r.stream, &replay);
    assert_int_equal(replay.from, IO_SEQ_NONE);
    assert_true(r.stream.replay.from == 5 && !r.stream.place.ended);
    struct io_block *b = io_block_get(r.pool, 0);
    assert_int_equal(md_inbox_push(&before, &r.stream, b, 7), -ESTALE);
    io_block_put(r.pool, b);
    assert_int_equal(r.stream.place.next, 0);
    md_inbox_drop(&before, &r.stream, 3, 2, IO_RESET);
    assert_int_equal(md_read(&before.counters.discarded[IO_R_LIMIT]), 6);
    assert_int_equal(r.stream.queue.lost.rows, 0);
    assert_false(md_inbox_retract(&before, &r.stream));
    md_inbox_end(&before, &r.stream);
    assert_int_equal(atomic_load(&r.stream.queue.stale), 0);
    assert_true(r.stream.queue.live && r.stream.queue.held && !r.stream.queue.ending);
    assert_false(md_inbox_let_go(&r.input, &r.stream, false));
    assert_true(r.stream.queue.held);
    assert_true(md_inbox_let_go(&r.input, &r.stream, true));
    assert_true(r.stream.queue.live && !r.stream.queue.held);
    push(&r, 3, 0);
    assert_int_equal(collect(&r)->n, 3);
    md_inbox_last(&r.input, &r.stream, &replay);
    assert_true(replay.from == 5 && r.stream.replay.from == IO_SEQ_NONE && r.stream.place.ended);
    done(&r);
}

/* A stream that the daemon ends is its source's to give back. */
static void test_cut_off(void **state)
{
    struct rig r;
    struct io_stream *s;

    (void)state;
    begin(&r, MD_BLOCK, 10);
    md_inbox_cut_off(&r.stream);
    assert_true(r.stream.queue.ending && r.stream.queue.ready && r.stream.queue.held);
    assert_int_equal(md_inbox_collect(&r.inbox, &s, 1, 1000), 1);
    s->course.end_due = false;
    assert_true(md_inbox_leave(&r.inbox, s));
    assert_true(!s->queue.live && s->queue.held);
    assert_true(md_inbox_let_go(&r.input, s, false));
    assert_false(s->queue.held);
    done(&r);
}

/* A replayable input goes on pushing by the handle of a stream that the daemon has ended and another input takes. */
struct taken {
    struct md_input *from;
    struct io_stream *s;
};

static void *push_on(void *arg)
{
    struct taken *t = arg;
    const struct io_host *h = &t->from->host;

    for (int r = 0; r == 0 || t->s->input == t->from;) {
        struct io_block *b = io_block_get(h->pool, sizeof(float));
        b->n = b->channels = 1;
        b->seq = IO_SEQ_NONE;
        r = h->push(h->self, t->s, b);
        if (r)
            io_block_put(h->pool, b);
    }
    h->end(h->self, t->s);
    return NULL;
}

static void end_by_daemon(struct md_inbox *in)
{
    struct io_stream *s;

    do {
        while (md_inbox_collect(in, &s, 1, 1000) == 0)
            ;
        while (s->course.mine) {
            struct io_block *b = s->course.mine;
            s->course.mine = b->next;
            io_block_put(in->pool, b);
        }
    } while (!md_inbox_leave(in, s));
}

static void test_taken_while_pushing(void **state)
{
    static const struct io_source_class replayable = {.replayable = true};
    static const struct ssm_model_info info = {.rate = 1};
    const struct io_stream_desc desc = {.id = "s", .channels = 1, .rate = 1};
    struct io_common common = {.rate = 1};
    struct md_config config = {0};
    struct md_registry registry;
    struct md_input inputs[2];
    struct rig r;

    (void)state;
    begin(&r, MD_DROP_OLDEST, 10);
    assert_int_equal(md_registry_init(&registry, &config), 0);
    r.conf.class_ = &replayable;
    r.conf.conf = &common;
    for (unsigned i = 0; i < 2; i++) {
        inputs[i] = (struct md_input){.conf = &r.conf, .registry = &registry, .inbox = &r.inbox, .info = &info};
        md_input_init(&inputs[i], r.pool);
    }
    for (unsigned i = 0; i < 100; i++) {
        struct md_input *from = &inputs[i % 2], *to = &inputs[(i + 1) % 2];
        struct taken t = {.from = from};
        struct io_stream *s;
        pthread_t thread;
        if (i == 0)
            assert_int_equal(from->host.stream(from, &desc, &t.s), 0);
        else
            t.s = md_registry_find(&registry, "s", 1);
        assert_int_equal(pthread_create(&thread, NULL, push_on, &t), 0);
        end_by_daemon(&r.inbox);
        assert_int_equal(to->host.stream(to, &desc, &s), 0);
        assert_ptr_equal(s, t.s);
        pthread_join(thread, NULL);
        assert_true(s->queue.live && s->queue.held && atomic_load(&s->queue.stale) == 0);
    }
    md_registry_done(&registry);
    done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_stays), cmocka_unit_test(test_oldest),  cmocka_unit_test(test_newest),
        cmocka_unit_test(test_stale),      cmocka_unit_test(test_cut_off), cmocka_unit_test(test_taken_while_pushing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
