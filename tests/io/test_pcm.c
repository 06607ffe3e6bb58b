/* Raw PCM: every encoding, FIFOs that dribble, standard input, frames cut anywhere. */
#include "io/audio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <sndfile.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/io/place.h"
#include "tests/io/recorder.h"

extern const struct io_source_class io_source_audio;

static char reterr[IO_ERR];

static int encoding(const char *name)
{
    for (int i = 0; io_pcm_encodings[i]; i++)
        if (strcmp(io_pcm_encodings[i], name) == 0)
            return i;
    fail_msg("no encoding %s", name);
    return 0;
}

static struct io_audio_conf conf_of(char **file, const char *kind, int channels)
{
    struct io_audio_conf c = {.common = {.scale = 1, .interval_ns = -1}, .files = {file, 1}, .channels = channels};
    c.encoding = encoding(kind);
    return c;
}

static void *opened(const struct io_audio_conf *c, struct recorder *r, double model_rate)
{
    void *source = NULL;
    const char *key;
    recorder_init(r, "in", model_rate);
    if (io_source_audio.check(c, &key, reterr) || io_source_audio.open(c, &r->host, &source, reterr))
        fail_msg("%s", reterr);
    return source;
}

static bool run(struct recorder *r, void *source)
{
    return recorder_run(r, &io_source_audio, source, 1000000000);
}

static void put(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(at(name), "wb");
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

/* All bytes there are, in every encoding, as libsndfile decodes them. */
static void encodings(void **state)
{
    const struct {
        const char *name;
        int format;
    } kinds[] = {
        {"s8", SF_FORMAT_PCM_S8},    {"u8", SF_FORMAT_PCM_U8},
        {"s16le", SF_FORMAT_PCM_16}, {"s16be", SF_FORMAT_PCM_16 | SF_ENDIAN_BIG},
        {"s24le", SF_FORMAT_PCM_24}, {"s24be", SF_FORMAT_PCM_24 | SF_ENDIAN_BIG},
        {"s32le", SF_FORMAT_PCM_32}, {"s32be", SF_FORMAT_PCM_32 | SF_ENDIAN_BIG},
        {"f32le", SF_FORMAT_FLOAT},  {"f32be", SF_FORMAT_FLOAT | SF_ENDIAN_BIG},
        {"f64le", SF_FORMAT_DOUBLE}, {"f64be", SF_FORMAT_DOUBLE | SF_ENDIAN_BIG},
        {"mulaw", SF_FORMAT_ULAW},   {"alaw", SF_FORMAT_ALAW},
    };
    static unsigned char bytes[72 * 2048]; /* whole frames of any width */
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] =
            (unsigned char)(i < 256 ? i : i * 2654435761u >> 13 & (i % 4 == 3 ? 0xbf : 0xff)); /* floats stay finite */
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (size_t i = 0; strchr(kinds[k].name, 'f') && i < sizeof bytes; i++) /* … and of a size */
            bytes[i] = (unsigned char)(i % 8 == 0 || i % 8 == 3 || i % 8 == 4 || i % 8 == 7 ? 0x3f : bytes[i]);
        put("all.raw", bytes, sizeof bytes);
        SF_INFO info = {.samplerate = 8000, .channels = 3, .format = SF_FORMAT_RAW | kinds[k].format};
        SNDFILE *f = sf_open(at("all.raw"), SFM_READ, &info);
        assert_non_null(f);
        float *want = malloc(sizeof bytes * sizeof *want);
        sf_count_t n = sf_readf_float(f, want, info.frames);
        sf_close(f);
        struct recorder r;
        char *file = at("all.raw");
        struct io_audio_conf c = conf_of(&file, kinds[k].name, 3);
        void *source = opened(&c, &r, 8000);
        assert_true(run(&r, source));
        assert_int_equal(r.n_streams, 1);
        struct recorded *s = r.streams[0];
        assert_true(s->rate == 8000 && s->channels == 3 && s->ended && r.n_said == 0);
        assert_int_equal(s->n, n);
        for (size_t i = 0; i < (size_t)n * 3; i++)
            if (s->x[i] != (double)want[i])
                fail_msg("%s: sample %zu is %.9g, not %.9g", kinds[k].name, i, s->x[i], (double)want[i]);
        io_source_audio.close(source);
        recorder_done(&r);
        free(want);
    }
}

static bool readable(void *source)
{
    struct pollfd p = {.fd = io_source_audio.fd(source), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* Bytes come in pieces that end inside samples; between them the source waits and its descriptor is silent. */
static void fifo(void **state)
{
    enum { FRAMES = 5000 };
    static int16_t x[2 * FRAMES];
    for (int i = 0; i < 2 * FRAMES; i++)
        x[i] = (int16_t)(i * 7919);
    char *file = at("fifo");
    assert_int_equal(mkfifo(file, 0600), 0);
    struct io_audio_conf c = conf_of(&file, "s16le", 2);
    c.channel = "2";
    c.common.rate = 16000;
    struct recorder r;
    void *source = opened(&c, &r, 0);
    assert_false(run(&r, source)); /* no writer yet: nothing, and not the end */
    int out = open(file, O_WRONLY);
    assert_true(out >= 0);
    unsigned seed = 7;
    for (size_t sent = 0; sent < sizeof x;) {
        size_t n = (seed = seed * 1103515245 + 12345) >> 16 & 1023;
        n = n < sizeof x - sent ? n : sizeof x - sent;
        assert_int_equal(write(out, (char *)x + sent, n), n);
        sent += n;
        assert_true(n == 0 || readable(source));
        assert_false(run(&r, source));
        assert_false(readable(source));
        assert_int_equal(r.streams[0]->n, sent / 4);
    }
    /* a queue without room: the descriptor must not keep the thread spinning */
    r.room = 0;
    assert_int_equal(write(out, x, 400), 400);
    assert_false(run(&r, source));
    assert_int_equal(write(out, x, 3), 3);
    assert_false(run(&r, source));
    assert_false(readable(source));
    r.room = SIZE_MAX;
    assert_false(run(&r, source));
    close(out);
    assert_true(readable(source));
    assert_true(run(&r, source));
    struct recorded *s = r.streams[0];
    assert_int_equal(s->n, FRAMES + 100);
    for (int i = 0; i < FRAMES; i++)
        assert_true(s->x[i] == x[2 * i + 1] / 32768.0 && s->seq[i] == i);
    assert_true(s->ended && recorder_said(&r, "ends inside a frame: 3 bytes of 4"));
    io_source_audio.close(source);
    recorder_done(&r);
}

static void standard_input(void **state)
{
    int ends[2], kept = dup(STDIN_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    char *dash = "-";
    struct io_audio_conf c = conf_of(&dash, "f32le", 1);
    struct recorder r;
    void *source = opened(&c, &r, 8000);
    assert_false(run(&r, source));
    const float x[3] = {0.25f, -1, 2};
    assert_int_equal(write(ends[1], x, sizeof x), sizeof x);
    assert_false(run(&r, source));
    close(ends[1]);
    assert_true(run(&r, source));
    struct recorded *s = recorder_find(&r, "in:-");
    assert_non_null(s);
    assert_true(s->n == 3 && s->ended && s->x[0] == 0.25 && s->x[1] == -1 && s->x[2] == 2);
    io_source_audio.close(source);
    recorder_done(&r);
    dup2(kept, STDIN_FILENO);
    close(kept);
}

static void resampled(void **state)
{
    static int16_t x[44100];
    put("cd.raw", x, sizeof x);
    char *file = at("cd.raw");
    struct io_audio_conf c = conf_of(&file, "s16le", 1);
    c.common.resample = true;
    c.source_rate = 44100;
    struct recorder r;
    void *source = opened(&c, &r, 16000);
    assert_true(run(&r, source));
    assert_true(r.streams[0]->n == 16000 && r.streams[0]->rate == 16000);
    io_source_audio.close(source);
    recorder_done(&r);
    recorder_init(&r, "in", 16000); /* without resampling, the declared rate must be the model's */
    c.common.resample = false;
    assert_int_equal(io_source_audio.open(&c, &r.host, &source, reterr), -EBADMSG);
    assert_non_null(strstr(reterr, "44100"));
    recorder_done(&r);
}

static void empty(void **state)
{
    put("empty.raw", "", 0);
    char *file = at("empty.raw");
    struct io_audio_conf c = conf_of(&file, "s16le", 1);
    struct recorder r;
    void *source = opened(&c, &r, 0);
    assert_true(run(&r, source));
    assert_true(r.n_streams == 1 && r.streams[0]->n == 0 && r.streams[0]->ended && r.n_said == 0);
    io_source_audio.close(source);
    recorder_done(&r);
}

static int make_dir(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int clean(void **state)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodings), cmocka_unit_test(fifo),  cmocka_unit_test(standard_input),
        cmocka_unit_test(resampled), cmocka_unit_test(empty),
    };
    return cmocka_run_group_tests_name("pcm", tests, make_dir, clean);
}
