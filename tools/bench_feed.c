/* bench_feed.c: see bench_feed.h. The thread makes what the sending process would: float32 blocks of every stream in
 * turn, in bursts. A queue that is full is tried again; what the daemon refuses is not counted as accepted, which the
 * bench notices. */
#include "tools/bench_feed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "daemon/clock.h"

enum { RETRY_NS = 200000 };

static void sleep_until(int64_t ns)
{
    struct timespec t = {ns / 1000000000, ns % 1000000000};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static struct io_stream *stream_of(struct bench_feed *f, uint32_t i)
{
    char id[24];
    struct io_stream_desc desc = {.id = id, .channels = 1, .rate = 100, .samples = f->samples};

    if (!f->streams[i]) {
        snprintf(id, sizeof id, "bench/%05u", (unsigned)i);
        if (f->host->stream(f->host->self, &desc, &f->streams[i]))
            f->streams[i] = NULL;
    }
    return f->streams[i];
}

static void push(struct bench_feed *f)
{
    size_t bytes = io_block_need(f->samples, 1, IO_F32, false);
    struct io_stream *s = stream_of(f, (uint32_t)(f->sent % f->n_streams));
    struct io_block *b = s ? io_block_get(f->host->pool, bytes) : NULL;
    int r;

    if (!b)
        return;
    for (uint32_t i = 0; i < f->samples; i++)
        ((float *)(void *)b->data)[i] = (float)(i % 17) * 0.25f;
    b->type = IO_F32;
    b->n = f->samples;
    b->channels = 1;
    b->seq = (int64_t)(f->sent / f->n_streams * f->samples);
    b->t_ns = IO_T_NONE;
    b->arrived_ns = (uint64_t)md_now_ns();
    while ((r = f->host->push(f->host->self, s, b)) == -EAGAIN && !f->quit)
        sleep_until(md_now_ns() + RETRY_NS);
    if (r)
        io_block_put(f->host->pool, b);
    f->host->received(f->host->self, 1, bytes);
}

static void push_all(struct bench_feed *f, uint64_t messages, double per_second)
{
    int64_t start = md_now_ns();

    for (uint64_t i = 0; i < messages && !f->quit; i++, f->sent++) {
        if (per_second > 0 && i % f->burst == 0)
            sleep_until(start + (int64_t)((double)i * 1e9 / per_second));
        push(f);
    }
}

static void *run(void *arg)
{
    struct bench_feed *f = arg;

    pthread_mutex_lock(&f->lock);
    while (!f->quit) {
        uint64_t messages = f->messages;
        f->messages = 0;
        if (messages == 0) {
            pthread_cond_wait(&f->wake, &f->lock);
            continue;
        }
        double per_second = f->per_second;
        pthread_mutex_unlock(&f->lock);
        push_all(f, messages, per_second);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

int bench_feed_start(struct bench_feed *f, const struct io_host *host, uint32_t streams, uint32_t samples,
                     unsigned burst)
{
    int r;

    *f = (struct bench_feed){.n_streams = streams, .samples = samples, .burst = burst};
    f->streams = calloc(streams, sizeof *f->streams);
    if (!f->streams)
        return -ENOMEM;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->wake, NULL);
    f->host = host;
    r = -pthread_create(&f->thread, NULL, run, f);
    if (r) {
        free(f->streams);
        f->host = NULL;
        return r;
    }
    pthread_setname_np(f->thread, "feed");
    return 0;
}

void bench_feed_send(struct bench_feed *f, uint64_t messages, double per_second)
{
    pthread_mutex_lock(&f->lock);
    f->messages += messages;
    f->per_second = per_second;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
}

void bench_feed_stop(struct bench_feed *f)
{
    if (!f->host)
        return;
    pthread_mutex_lock(&f->lock);
    f->quit = true;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->lock);
    free(f->streams);
    f->host = NULL;
}
