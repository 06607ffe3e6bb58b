/* sound.c: sound files through libsndfile, as ±1. Runs on the source's thread; a reader owns its file.
 *
 * Trap: libsndfile takes a WAV whose data end early for a shorter WAV and says so in its log only; and a compressed
 * file that breaks off ends like a whole one, with fewer frames than its header promised. Both are errors here, after
 * what could be decoded has been delivered. */
#include <errno.h>
#include <sndfile.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/audio.h"
#include "io/channels.h"
#include "io/files.h"

enum { BUFFER = 8192 }; /* samples decoded at once, or one frame where that is larger */

struct sound {
    const char *path; /* the caller's */
    SNDFILE *file;
    SF_INFO info;
    struct io_channels take;
    struct io_play_format format;
    sf_count_t frames; /* read so far */
    bool cut_short;    /* the header says more than the file has */
    uint32_t rows;     /* of buf */
    double buf[];      /* [rows][info.channels] */
};

static int unreadable(int error, const char *path, const char *why, char *reterr)
{
    snprintf(reterr, IO_ERR, "%s: %s", path, why);
    return error;
}

/* A line of the log, "data : 88200 (should be 44100)": the chunk is longer than the file. The lengths that WAV writers
 * to pipes leave in place, 2^31 and 2^32 or nearly so, are no promise; neither is the RIFF chunk's, which many get
 * wrong. */
static bool says_short(const char *line)
{
    static const char *const chunks[] = {"data ", "SSND ", "Data Size ", "riff ", "Riff size "};
    const char *colon = strchr(line, ':'), *is = strstr(line, "(should be ");
    if (strncmp(line, "**** Error", 10) == 0)
        return true;
    if (!colon || !is)
        return false;
    long long said = strtoll(colon + 1, NULL, 10), has = strtoll(is + strlen("(should be "), NULL, 10);
    bool unknown = said >= 0x7ffff000 && said <= 0xffffffff;
    line += strspn(line, " ");
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
        if (strncmp(line, chunks[i], strlen(chunks[i])) == 0)
            return said > has && !unknown;
    return false;
}

static bool log_says_short(SNDFILE *file)
{
    char log[8192] = "", *rest;
    sf_command(file, SFC_GET_LOG_INFO, log, sizeof log);
    for (char *line = strtok_r(log, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        if (says_short(line))
            return true;
    return false;
}

/* Opens the descriptor, which libsndfile then owns, whether it succeeds or not. */
static int open_file(const char *path, SNDFILE **ret, SF_INFO *info, char *reterr)
{
    struct stat st;
    int fd = io_file_open(path);
    if (fd < 0)
        return unreadable(fd, path, strerror(-fd), reterr);
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return unreadable(-EBADMSG, path, "not a regular file; raw PCM from a pipe needs `encoding`", reterr);
    }
    *info = (SF_INFO){0};
    *ret = sf_open_fd(fd, SFM_READ, info, SF_TRUE);
    if (!*ret)
        return unreadable(-EBADMSG, path, sf_strerror(NULL), reterr);
    if (info->channels < 1 || info->samplerate < 1) {
        sf_close(*ret);
        return unreadable(-EBADMSG, path, "has no channels or no rate", reterr);
    }
    return 0;
}

static void sound_close(void *self)
{
    struct sound *s = self;
    sf_close(s->file);
    free(s);
}

static int sound_open(const void *conf, const char *path, void **ret_self, char *reterr)
{
    const struct io_audio_conf *c = conf;
    struct io_channels take;
    SNDFILE *file;
    SF_INFO info;
    int r = io_channels_parse(c->channel, &take, reterr);
    if (r == 0)
        r = open_file(path, &file, &info, reterr);
    if (r)
        return r;
    int taken = io_channels_count(&take, (uint32_t)info.channels, path, reterr);
    uint32_t rows = info.channels < BUFFER ? BUFFER / (uint32_t)info.channels : 1;
    struct sound *s = taken < 0 ? NULL : malloc(sizeof *s + sizeof(double) * rows * (size_t)info.channels);
    if (!s) {
        sf_close(file);
        return taken < 0 ? taken : -ENOMEM;
    }
    *s = (struct sound){.path = path, .file = file, .info = info, .take = take, .rows = rows};
    s->format = (struct io_play_format){.rate = info.samplerate, .channels = (uint32_t)taken, .type = IO_F32, .rows = -1};
    if (info.frames < SF_COUNT_MAX)
        s->format.rows = info.frames;
    s->cut_short = log_says_short(file);
    *ret_self = s;
    return 0;
}

static int sound_format(void *self, struct io_play_format *ret, char *reterr)
{
    *ret = ((struct sound *)self)->format;
    return 0;
}

/* At the end of what can be decoded: is it the end of the file too? */
static int at_end(const struct sound *s, char *reterr)
{
    if (sf_error(s->file))
        return unreadable(-EBADMSG, s->path, sf_strerror(s->file), reterr);
    if (s->cut_short)
        return unreadable(-EBADMSG, s->path, "breaks off before the end that its header states", reterr);
    if (s->info.frames < SF_COUNT_MAX && s->frames < s->info.frames) {
        snprintf(reterr, IO_ERR, "%s: breaks off after %lld of %lld frames", s->path, (long long)s->frames,
                 (long long)s->info.frames);
        return -EBADMSG;
    }
    return 0;
}

static int sound_read(void *self, double *rows, int64_t *t_ns, uint32_t max, char *reterr)
{
    struct sound *s = self;
    sf_count_t n = sf_readf_double(s->file, s->buf, max < s->rows ? max : s->rows);
    if (n <= 0)
        return at_end(s, reterr);
    s->frames += n;
    io_channels_take(&s->take, s->buf, (uint32_t)n, (uint32_t)s->info.channels, rows);
    return (int)n;
}

const struct io_reader_class io_reader_sound = {sound_open, sound_format, sound_read, sound_close, NULL};
