/* pcm.c: headerless PCM from a file, a FIFO or standard input, as ±1. Runs on the source's thread; a reader owns its
 * descriptor. Trap: a read may end inside a frame; the rest of it is kept for the next one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/audio.h"
#include "io/channels.h"
#include "io/files.h"

enum { BUFFER = 16 << 10 };

const char *const io_pcm_encodings[] = {"none",  "s8",    "u8",    "s16le", "s16be", "s24le", "s24be", "s32le",
                                        "s32be", "f32le", "f32be", "f64le", "f64be", "mulaw", "alaw",  NULL};

static const struct encoding {
    enum { SIGNED, UNSIGNED, FLOATING, MULAW, ALAW } kind;
    unsigned width;
    bool big;
} encodings[] = {
    /* as io_pcm_encodings */
    {0},
    {SIGNED, 1, false},
    {UNSIGNED, 1, false},
    {SIGNED, 2, false},
    {SIGNED, 2, true},
    {SIGNED, 3, false},
    {SIGNED, 3, true},
    {SIGNED, 4, false},
    {SIGNED, 4, true},
    {FLOATING, 4, false},
    {FLOATING, 4, true},
    {FLOATING, 8, false},
    {FLOATING, 8, true},
    {MULAW, 1, false},
    {ALAW, 1, false},
};

struct pcm {
    const char *path; /* the caller's */
    int fd;
    struct encoding encoding;
    struct io_channels take;
    uint32_t channels; /* of a frame */
    struct io_play_format format;
    size_t frame, have;  /* bytes of a frame, bytes in buf */
    double *row;         /* one frame's samples */
    unsigned char buf[]; /* BUFFER, or one frame where that is larger */
};

/* ---- samples ---------------------------------------------------------------------------------------------- */

static double mulaw(unsigned char b)
{
    int u = ~b & 0xff, t = (((u & 0xf) << 3) + 0x84) << (u >> 4 & 7);
    return (u & 0x80 ? 0x84 - t : t - 0x84) / 32768.0;
}

static double alaw(unsigned char b)
{
    int a = b ^ 0x55, t = (a & 0xf) << 4, segment = a >> 4 & 7;
    t = segment ? (t + 0x108) << (segment - 1) : t + 8;
    return (a & 0x80 ? t : -t) / 32768.0;
}

static double floating(uint64_t bits, unsigned width)
{
    uint32_t narrow = (uint32_t)bits;
    float f;
    double d;
    memcpy(&f, &narrow, sizeof f);
    memcpy(&d, &bits, sizeof d);
    return width == 4 ? (double)f : d;
}

static double sample(const struct encoding *e, const unsigned char *b)
{
    uint64_t bits = 0;
    for (unsigned i = 0; i < e->width; i++)
        bits |= (uint64_t)b[e->big ? e->width - 1 - i : i] << (8 * i);
    switch (e->kind) {
    case SIGNED: /* to the top of 64 bits, whose range is ±2^63 */
        return (double)(int64_t)(bits << (64 - 8 * e->width)) / 9223372036854775808.0;
    case UNSIGNED:
        return ((double)bits - 128) / 128;
    case FLOATING:
        return floating(bits, e->width);
    case MULAW:
        return mulaw(*b);
    case ALAW:
        return alaw(*b);
    }
    return 0;
}

/* ---- reader ----------------------------------------------------------------------------------------------- */

static void pcm_close(void *self)
{
    struct pcm *p = self;
    if (p->fd >= 0)
        close(p->fd);
    free(p->row);
    free(p);
}

static int pcm_open(const void *conf, const char *path, void **ret_self, char *reterr)
{
    const struct io_audio_conf *c = conf;
    struct encoding e = encodings[c->encoding];
    uint32_t channels = (uint32_t)c->channels;
    size_t frame = (size_t)e.width * channels;
    struct stat st;
    struct pcm *p = calloc(1, sizeof *p + (frame > BUFFER ? frame : BUFFER));
    if (!p)
        return -ENOMEM;
    *p = (struct pcm){.path = path, .fd = -1, .encoding = e, .channels = channels, .frame = frame};
    p->row = malloc(channels * sizeof *p->row);
    int r = p->row ? io_channels_parse(c->channel, &p->take, reterr) : -ENOMEM;
    if (r == 0)
        r = io_channels_count(&p->take, channels, path, reterr);
    if (r < 0)
        goto fail;
    p->format = (struct io_play_format){.rate = c->source_rate, .channels = (uint32_t)r, .type = IO_F32};
    p->fd = r = io_file_open(path);
    if (r < 0) {
        snprintf(reterr, IO_ERR, "%s: %s", path, strerror(-r));
        goto fail;
    }
    p->format.rows = fstat(p->fd, &st) == 0 && S_ISREG(st.st_mode) ? (int64_t)st.st_size / (int64_t)frame : -1;
    *ret_self = p;
    return 0;
fail:
    pcm_close(p);
    return r;
}

static int pcm_format(void *self, struct io_play_format *ret, char *reterr)
{
    *ret = ((struct pcm *)self)->format;
    return 0;
}

static void decode(struct pcm *p, double *rows, uint32_t n)
{
    const unsigned char *b = p->buf;
    for (uint32_t i = 0; i < n; i++, rows += p->format.channels) {
        for (uint32_t k = 0; k < p->channels; k++, b += p->encoding.width)
            p->row[k] = sample(&p->encoding, b);
        io_channels_take(&p->take, p->row, 1, p->channels, rows);
    }
}

static int pcm_read(void *self, double *rows, int64_t *t_ns, uint32_t max, char *reterr)
{
    struct pcm *p = self;
    size_t want = (size_t)max * p->frame;
    if (want > BUFFER)
        want = BUFFER > p->frame ? BUFFER / p->frame * p->frame : p->frame;
    if (p->have < want) {
        ssize_t got = io_file_read(p->fd, p->buf + p->have, want - p->have);
        if (got < 0 && !(got == -EAGAIN && p->have >= p->frame)) {
            snprintf(reterr, IO_ERR, "%s: %s", p->path, strerror((int)-got));
            return (int)got;
        }
        if (got == 0 && p->have > 0 && p->have < p->frame) {
            snprintf(reterr, IO_ERR, "%s: ends inside a frame: %zu bytes of %zu", p->path, p->have, p->frame);
            return -EBADMSG;
        }
        p->have += got > 0 ? (size_t)got : 0;
        if (p->have < p->frame)
            return got == 0 ? 0 : -EAGAIN;
    }
    uint32_t n = (uint32_t)(p->have / p->frame < max ? p->have / p->frame : max);
    decode(p, rows, n);
    p->have -= n * p->frame;
    memmove(p->buf, p->buf + n * p->frame, p->have);
    return (int)n;
}

static int pcm_fd(void *self)
{
    return ((struct pcm *)self)->fd;
}

const struct io_reader_class io_reader_pcm = {pcm_open, pcm_format, pcm_read, pcm_close, pcm_fd};
