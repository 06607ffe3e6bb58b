/* Sound files as streams: ten formats, channels, rates, pace, backpressure, broken files. All files are made here,
 * through libsndfile, from a generated signal. */
#include "io/audio.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <sndfile.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/resample.h"
#include "tests/io/place.h"
#include "tests/io/recorder.h"

extern const struct io_source_class io_source_audio;

enum { FRAMES = 30011, LONG = 400000 };
static char reterr[IO_ERR];
static const int64_t second = 1000000000;

/* Speech-like: gliding tones, another one in each channel. */
static float *signal_of(int channels, int rate, int frames)
{
    float *x = malloc(sizeof *x * (size_t)(frames + 1) * (size_t)channels);
    for (int i = 0; i < frames; i++)
        for (int c = 0; c < channels; c++) {
            double t = (double)i / rate;
            x[i * channels + c] =
                (float)(0.4 * sin(2 * M_PI * (300 + 100 * c + 20 * t) * t) + 0.1 * sin(2 * M_PI * 1900 * t));
        }
    return x;
}

static void make_sound(const char *name, int format, int channels, int rate, int frames)
{
    SF_INFO info = {.samplerate = rate, .channels = channels, .format = format};
    SNDFILE *f = sf_open(at(name), SFM_WRITE, &info);
    if (!f)
        fail_msg("%s: %s", name, sf_strerror(NULL));
    float *x = signal_of(channels, rate, frames);
    assert_int_equal(sf_writef_float(f, x, frames), frames);
    sf_close(f);
    free(x);
}

/* The whole file as libsndfile gives it. */
static float *decoded(const char *name, sf_count_t *ret_frames)
{
    SF_INFO info = {0};
    SNDFILE *f = sf_open(at(name), SFM_READ, &info);
    float *x = malloc(sizeof *x * (size_t)(info.frames + 1) * (size_t)info.channels);
    *ret_frames = sf_readf_float(f, x, info.frames + 1);
    sf_close(f);
    return x;
}

static struct io_audio_conf conf_of(char **files, unsigned n)
{
    return (struct io_audio_conf){.common = {.scale = 1, .interval_ns = -1}, .files = {files, n}, .channels = 1};
}

static void *opened(const struct io_audio_conf *c, struct recorder *r)
{
    void *source = NULL;
    const char *key;
    if (io_source_audio.check(c, &key, reterr) || io_source_audio.open(c, &r->host, &source, reterr))
        fail_msg("%s", reterr);
    return source;
}

/* Plays the input to its end. */
static void play(const struct io_audio_conf *c, struct recorder *r, double model_rate)
{
    recorder_init(r, "in", model_rate);
    void *source = opened(c, r);
    assert_true(recorder_run(r, &io_source_audio, source, second));
    io_source_audio.close(source);
}

static struct recorded *only(struct recorder *r)
{
    assert_int_equal(r->n_streams, 1);
    assert_true(r->streams[0]->ended);
    return r->streams[0];
}

static void same_as_floats(const struct recorded *s, const float *x, size_t n)
{
    assert_int_equal(s->n, n);
    assert_int_equal(s->type, IO_F32);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(s->seq[i], i);
    for (size_t i = 0; i < n * s->channels; i++)
        if (s->x[i] != x[i])
            fail_msg("sample %zu is %.9g, not %.9g", i, s->x[i], x[i]);
}

/* ---- formats ---------------------------------------------------------------------------------------------- */

static const struct kind {
    const char *name;
    int format;
    bool lossless, detects_end; /* a file that breaks off can be told from a whole one */
} kinds[] = {
    {"s.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, true, true},
    {"s.flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_16, true, true},
    {"s.ogg", SF_FORMAT_OGG | SF_FORMAT_VORBIS, false, false},
    {"s.opus", SF_FORMAT_OGG | SF_FORMAT_OPUS, false, false},
    {"s.mp3", SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III, false, true},
    {"s.aiff", SF_FORMAT_AIFF | SF_FORMAT_PCM_16, true, true},
    {"s.w64", SF_FORMAT_W64 | SF_FORMAT_PCM_16, true, true},
    {"s.rf64", SF_FORMAT_RF64 | SF_FORMAT_PCM_16, true, true},
    {"s.caf", SF_FORMAT_CAF | SF_FORMAT_PCM_16, true, true},
    {"s.au", SF_FORMAT_AU | SF_FORMAT_PCM_16, true, true},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void ten_formats(void **state)
{
    assert_int_equal(KINDS, 10);
    for (int channels = 1; channels <= 2; channels++) {
        for (size_t k = 0; k < KINDS; k++)
            make_sound(kinds[k].name, kinds[k].format, channels, 48000, FRAMES);
        sf_count_t n;
        float *wav = decoded("s.wav", &n);
        assert_int_equal(n, FRAMES);
        for (size_t k = 0; k < KINDS; k++) {
            struct recorder r;
            char *file = at(kinds[k].name), id[32];
            struct io_audio_conf c = conf_of(&file, 1);
            play(&c, &r, 48000);
            struct recorded *s = only(&r);
            snprintf(id, sizeof id, "in:%s", kinds[k].name);
            assert_string_equal(s->id, id);
            assert_int_equal(s->channels, channels);
            assert_true(s->rate == 48000 && !s->irregular);
            assert_int_equal(r.n_said, 0);
            float *whole = decoded(kinds[k].name, &n);
            same_as_floats(s, whole, (size_t)n); /* however it was cut */
            if (kinds[k].lossless)
                same_as_floats(s, wav, FRAMES);
            else
                assert_true(s->n >= FRAMES && s->n < FRAMES + 5000);
            free(whole);
            recorder_done(&r);
        }
        free(wav);
    }
}

static void cut_file(const char *name, const char *to, double part)
{
    static unsigned char bytes[1 << 20];
    FILE *f = fopen(at(name), "rb");
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    f = fopen(at(to), "wb");
    fwrite(bytes, 1, (size_t)((double)n * part), f);
    fclose(f);
}

/* What decodes is delivered and is right; then comes an error that names the file. Of a CAF libsndfile reads nothing.
 */
static void broken_off(void **state)
{
    for (size_t k = 0; k < KINDS; k++) {
        struct recorder r;
        char name[32];
        snprintf(name, sizeof name, "cut-%s", kinds[k].name);
        make_sound(kinds[k].name, kinds[k].format, 1, 48000, LONG);
        cut_file(kinds[k].name, name, 0.6);
        char *file = at(name);
        struct io_audio_conf c = conf_of(&file, 1);
        if (strcmp(kinds[k].name, "s.caf") == 0) {
            void *source;
            recorder_init(&r, "in", 0);
            assert_int_equal(io_source_audio.open(&c, &r.host, &source, reterr), -EBADMSG);
            assert_non_null(strstr(reterr, name));
            recorder_done(&r);
            continue;
        }
        sf_count_t n;
        float *whole = decoded(kinds[k].name, &n);
        play(&c, &r, 0);
        struct recorded *s = only(&r);
        assert_true(s->n < LONG && s->n > LONG / 3);
        for (size_t i = 0; kinds[k].lossless && i < s->n; i++)
            assert_true(s->x[i] == whole[i]);
        if (kinds[k].detects_end && !(recorder_said(&r, "note error") && recorder_said(&r, name)))
            fail_msg("%s: nothing was said", name);
        free(whole);
        recorder_done(&r);
    }
}

static void empty_file(void **state)
{
    struct recorder r;
    make_sound("empty.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 2, 16000, 0);
    char *file = at("empty.wav");
    struct io_audio_conf c = conf_of(&file, 1);
    c.common.resample = true;
    play(&c, &r, 8000);
    assert_int_equal(only(&r)->n, 0);
    assert_int_equal(r.n_said, 0);
    recorder_done(&r);
}

/* ---- channels, scale, rates ------------------------------------------------------------------------------- */

static void channels(void **state)
{
    make_sound("three.wav", SF_FORMAT_WAV | SF_FORMAT_FLOAT, 3, 16000, FRAMES);
    sf_count_t n;
    float *x = decoded("three.wav", &n), *want = malloc(sizeof *want * FRAMES);
    char *file = at("three.wav");
    const char *const choices[] = {"1", "2", "3", "mix"};
    for (int k = 0; k < 4; k++) {
        struct recorder r;
        struct io_audio_conf c = conf_of(&file, 1);
        c.channel = (char *)choices[k];
        c.common.scale = k == 1 ? -8 : 1;
        c.common.offset = k == 1 ? 0.5 : 0;
        for (int i = 0; i < FRAMES; i++) {
            const float *f = x + 3 * i;
            want[i] = k == 3 ? (float)(((double)f[0] + f[1] + f[2]) / 3) : k == 1 ? f[k] * -8 + 0.5f : f[k];
            if (k == 1)
                want[i] = (float)((double)f[1] * -8 + 0.5);
        }
        play(&c, &r, 16000);
        assert_int_equal(only(&r)->channels, 1);
        same_as_floats(only(&r), want, FRAMES);
        recorder_done(&r);
    }
    struct recorder r;
    struct io_audio_conf c = conf_of(&file, 1);
    void *source;
    recorder_init(&r, "in", 0);
    c.channel = "4";
    assert_int_equal(io_source_audio.open(&c, &r.host, &source, reterr), -EBADMSG);
    assert_non_null(strstr(reterr, "three.wav: channel 4 is wanted, there are 3"));
    recorder_done(&r);
    free(want);
    free(x);
}

static void resampled(void **state)
{
    make_sound("cd.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 2, 44100, FRAMES);
    sf_count_t n;
    float *x = decoded("cd.wav", &n);
    double *in = malloc(sizeof *in * FRAMES * 2), *out = malloc(sizeof *out * FRAMES * 2);
    for (size_t i = 0; i < FRAMES * 2; i++)
        in[i] = x[i];
    struct io_resample_plan *plan;
    struct io_resampler *one;
    assert_int_equal(io_resample_plan_new(44100, 16000, &plan, reterr), 0);
    assert_int_equal(io_resampler_new(plan, 2, &one), 0);
    size_t m = io_resampler_push(one, in, FRAMES, out);
    for (size_t got; (got = io_resampler_flush(one, out + 2 * m, FRAMES - m));)
        m += got;
    float *want = malloc(sizeof *want * m * 2);
    for (size_t i = 0; i < m * 2; i++)
        want[i] = (float)out[i];
    char *file = at("cd.wav");
    const double rates[][2] = {{16000, 0}, {16000, 22050}, {0, 16000}}; /* the model's, the input's */
    for (int k = 0; k < 3; k++) {
        struct recorder r;
        struct io_audio_conf c = conf_of(&file, 1);
        c.common.resample = true;
        c.common.rate = rates[k][1];
        play(&c, &r, rates[k][0]);
        assert_true(only(&r)->rate == 16000);
        same_as_floats(only(&r), want, m);
        recorder_done(&r);
    }
    io_resampler_free(&one);
    io_resample_plan_free(&plan);
    free(want);
    free(out);
    free(in);
    free(x);
}

static void rates(void **state)
{
    make_sound("a.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 1, 44100, 100);
    make_sound("b.flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 1, 22050, 100);
    char *files[] = {at("a.wav"), at("b.flac")};
    const struct {
        double model, input;
        const char *said;
    } cases[] = {
        {44100, 0, "b.flac: its rate is 22050 Hz, the model's is 44100 Hz"},
        {0, 22050, "a.wav: its rate is 44100 Hz, the input's is 22050 Hz"},
        {44100, 22050, "a.wav: its rate is 44100 Hz, the input's is 22050 Hz"},
    };
    struct recorder r;
    void *source;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct io_audio_conf c = conf_of(files, 2);
        c.common.rate = cases[k].input;
        recorder_init(&r, "in", cases[k].model);
        assert_int_equal(io_source_audio.open(&c, &r.host, &source, reterr), -EBADMSG);
        if (!strstr(reterr, cases[k].said))
            fail_msg("%s", reterr);
        recorder_done(&r);
    }
    struct io_audio_conf c = conf_of(files, 2); /* neither names one: each is taken as it is */
    play(&c, &r, 0);
    assert_true(recorder_find(&r, "in:a.wav")->rate == 44100 && recorder_find(&r, "in:b.flac")->rate == 22050);
    recorder_done(&r);
}

/* ---- lists ------------------------------------------------------------------------------------------------ */

static void wrong_files(void **state)
{
    struct recorder r;
    void *source;
    char *missing = at("none.wav"), *glob = at("none*.wav"), *text = at("text.wav"), *dash = "-";
    FILE *f = fopen(text, "w");
    fputs("not a sound", f);
    fclose(f);
    recorder_init(&r, "in", 0);
    struct io_audio_conf c = conf_of(&missing, 1);
    assert_int_equal(io_source_audio.open(&c, &r.host, &source, reterr), -ENOENT);
    assert_non_null(strstr(reterr, "none.wav"));
    c = conf_of(&glob, 1);
    assert_int_equal(io_source_audio.open(&c, &r.host, &source, reterr), -ENOENT);
    c = conf_of(&text, 1);
    assert_int_equal(io_source_audio.open(&c, &r.host, &source, reterr), -EBADMSG);
    assert_non_null(strstr(reterr, "text.wav"));
    recorder_done(&r);
    const char *key;
    c = conf_of(&dash, 1);
    assert_int_equal(io_source_audio.check(&c, &key, reterr), -EINVAL);
    assert_string_equal(key, "encoding");
    c.encoding = 3;
    c.common.resample = true;
    assert_int_equal(io_source_audio.check(&c, &key, reterr), -EINVAL);
    assert_string_equal(key, "source_rate");
    c = conf_of(&text, 1);
    c.common.stream = "{topic}";
    assert_int_equal(io_source_audio.check(&c, &key, reterr), -EINVAL);
    assert_string_equal(key, "stream");
    c.common.stream = NULL;
    const char *const bad[] = {"0", "left", "-1", "1x", "99999999", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        c.channel = (char *)bad[i];
        assert_int_equal(io_source_audio.check(&c, &key, reterr), -EINVAL);
        assert_string_equal(key, "channel");
    }
}

static void names(void **state)
{
    struct recorder r;
    char command[300];
    snprintf(command, sizeof command, "mkdir -p %s/x %s/y", dir, dir);
    assert_int_equal(system(command), 0);
    make_sound("x/a.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 1, 16000, 10);
    make_sound("y/a.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 1, 16000, 20);
    char *glob = at("?/*.wav");
    struct io_audio_conf c = conf_of(&glob, 1);
    play(&c, &r, 0);
    assert_int_equal(r.n_streams, 2);
    assert_int_equal(recorder_find(&r, "in:x/a.wav")->n, 10);
    assert_int_equal(recorder_find(&r, "in:y/a.wav")->n, 20);
    recorder_done(&r);
    c.common.stream = "{stem}@{input}"; /* both the same: the second is refused, and said */
    play(&c, &r, 0);
    assert_int_equal(r.n_streams, 1);
    assert_int_equal(recorder_find(&r, "a@in")->n, 10);
    assert_true(recorder_said(&r, "duplicate_stream a@in"));
    assert_true(recorder_said(&r, "y/a.wav: left out (20 samples): the same stream id as"));
    assert_int_equal(r.discarded[IO_R_DUPLICATE_STREAM], 20);
    recorder_done(&r);
}

/* Far more files than may be open at once; blocks are refused now and then; every row arrives once. */
static void many_files(void **state)
{
    enum { N = 60, EACH = 700 };
    struct recorder r;
    char name[32];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "many-%02d.wav", i);
        make_sound(name, SF_FORMAT_WAV | SF_FORMAT_PCM_16, 1, 16000, EACH + i);
    }
    sf_count_t n;
    float *x = decoded("many-59.wav", &n);
    char *glob = at("many-*.wav");
    struct io_audio_conf c = conf_of(&glob, 1);
    recorder_init(&r, "in", 16000);
    void *source = opened(&c, &r);
    unsigned waits = 0;
    for (r.room = 0; !recorder_run(&r, &io_source_audio, source, second); waits++)
        r.room = waits % 3 ? 1500 : 0;
    assert_true(waits > 10);
    io_source_audio.close(source);
    assert_int_equal(r.n_streams, N);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "in:many-%02d.wav", i);
        same_as_floats(recorder_find(&r, name), x, (size_t)(EACH + i));
    }
    free(x);
    recorder_done(&r);
}

/* Turns on a clock of their own until the source is done. */
static void play_out(void *source)
{
    int64_t now = 0, wake;
    unsigned turns = 0;
    for (enum io_turn t; (t = io_source_audio.turn(source, now, &wake)) != IO_TURN_DONE; turns++) {
        assert_true(turns < 100000);
        now = t == IO_TURN_WAIT ? wake : now;
    }
}

static void no_slots(void **state)
{
    struct recorder r;
    char *glob = at("many-*.wav");
    struct io_audio_conf c = conf_of(&glob, 1);
    recorder_init(&r, "in", 0);
    r.streams_max = 5; /* and no slot ever comes back */
    void *source = opened(&c, &r);
    play_out(source);
    assert_int_equal(r.n_streams, 5);
    uint64_t played = 0, all = 0;
    for (unsigned i = 0; i < 5; i++) {
        assert_true(r.streams[i]->ended && r.streams[i]->n >= 700);
        played += r.streams[i]->n;
    }
    for (unsigned i = 0; i < 60; i++) /* as many_files() made them */
        all += 700 + i;
    assert_int_equal(r.discarded[IO_R_STREAMS], all - played);
    io_source_audio.close(source);
    recorder_done(&r);
}

/* A source that has handed over a part of a file, whose stream the daemon has ended since. `c` stays with it. */
static void *ended_midway(struct recorder *r, struct io_audio_conf *c)
{
    static char *file;
    make_sound("long.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 1, 16000, FRAMES);
    file = at("long.wav");
    *c = conf_of(&file, 1);
    recorder_init(r, "in", 0);
    r->room = 5000;
    void *source = opened(c, r);
    assert_false(recorder_run(r, &io_source_audio, source, second));
    r->streams[0]->stale = true;
    return source;
}

static void ended_meanwhile(void **state)
{
    struct recorder r;
    struct io_audio_conf c;
    void *source = ended_midway(&r, &c);
    r.room = SIZE_MAX;
    assert_true(recorder_run(&r, &io_source_audio, source, second));
    assert_int_equal(only(&r)->n, FRAMES);
    io_source_audio.close(source);
    recorder_done(&r);
}

/* Nor has it a slot for it again, until one comes free. */
static void waits_meanwhile(void **state)
{
    struct recorder r;
    struct io_audio_conf c;
    void *source = ended_midway(&r, &c);
    r.room = SIZE_MAX;
    r.streams_max = 0;
    assert_false(recorder_run(&r, &io_source_audio, source, second / 20));
    r.streams_max = 1;
    play_out(source);
    assert_int_equal(only(&r)->n, FRAMES);
    assert_int_equal(r.n_said, 0);
    io_source_audio.close(source);
    recorder_done(&r);
}

/* None does: what was not taken is counted. */
static void refused_meanwhile(void **state)
{
    struct recorder r;
    struct io_audio_conf c;
    void *source = ended_midway(&r, &c);
    r.streams_max = 0;
    play_out(source);
    assert_true(recorder_said(&r, "the rest is left out"));
    assert_true(r.streams[0]->n > 0 && r.discarded[IO_R_STREAMS] == FRAMES - r.streams[0]->n);
    io_source_audio.close(source);
    recorder_done(&r);
}

/* ---- pace ------------------------------------------------------------------------------------------------- */

/* On a clock of its own: each file's rows leave when they would sound, without drift, whatever the turns' jitter. */
static void realtime(void **state)
{
    struct recorder r;
    make_sound("r8.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 1, 8000, FRAMES);
    make_sound("r44.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 1, 44100, FRAMES);
    char *files[] = {at("r8.wav"), at("r44.wav")};
    struct io_audio_conf c = conf_of(files, 2);
    c.pace = 1;
    recorder_init(&r, "in", 0);
    void *source = opened(&c, &r);
    int64_t began = 77 * second, now = began, wake = 0;
    unsigned turns = 0;
    enum io_turn t;
    for (; (t = io_source_audio.turn(source, now, &wake)) != IO_TURN_DONE; turns++) {
        if (t == IO_TURN_MORE)
            continue;
        double played = (double)(now - began) / 1e9;
        for (unsigned i = 0; i < r.n_streams; i++) {
            double due = fmin(played * r.streams[i]->rate, FRAMES), has = (double)r.streams[i]->n;
            assert_true(has <= due + 1e-6 && has >= due - 0.021 * r.streams[i]->rate);
        }
        assert_true(wake > now && wake <= now + 25000000);
        now = turns % 7 ? wake : wake + 3000000;
    }
    double took = (double)(now - began) / 1e9;
    assert_true(took > (double)FRAMES / 8000 - 0.01 && took < (double)FRAMES / 8000 + 0.05);
    assert_true(turns < 1500);
    assert_true(recorder_find(&r, "in:r8.wav")->n == FRAMES && recorder_find(&r, "in:r44.wav")->n == FRAMES);
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
        cmocka_unit_test(ten_formats),       cmocka_unit_test(broken_off),      cmocka_unit_test(empty_file),
        cmocka_unit_test(channels),          cmocka_unit_test(resampled),       cmocka_unit_test(rates),
        cmocka_unit_test(wrong_files),       cmocka_unit_test(names),           cmocka_unit_test(many_files),
        cmocka_unit_test(no_slots),          cmocka_unit_test(ended_meanwhile), cmocka_unit_test(waits_meanwhile),
        cmocka_unit_test(refused_meanwhile), cmocka_unit_test(realtime),
    };
    return cmocka_run_group_tests_name("audio", tests, make_dir, clean);
}
