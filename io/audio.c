/* audio.c: `type: audio`: sound files of any format that libsndfile reads, and raw PCM where `encoding` is given. Runs
 * on the input's thread; playing (play.c) does the work. */
#include "io/audio.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/channels.h"

#define AT(field) offsetof(struct io_audio_conf, field)

static const char *const paces[] = {"fast", "realtime", NULL};

static const struct io_option options[] = {
    {"files", "files and globs, each file a stream; FIFOs and - (standard input) where encoding is given",
     IO_OPT_STRINGS, AT(files), .required = true},
    {"channel", "all, mix, or the number of one channel (1 is the first)", IO_OPT_STRING, AT(channel), "all"},
    {"pace", "realtime plays each file at its own rate, fast as quickly as it can be processed", IO_OPT_ENUM, AT(pace),
     "fast", .names = paces},
    {"encoding", "the files are raw PCM of this kind; none: their headers say what they are", IO_OPT_ENUM, AT(encoding),
     "none", .names = io_pcm_encodings},
    {"channels", "channels of raw PCM", IO_OPT_INT, AT(channels), "1", .min = 1, .max = 1024},
    {"source_rate", "samples per second of raw PCM, where it is to be resampled", IO_OPT_REAL, AT(source_rate),
     .min = 0, .max = 1e9},
    {0},
};

static int check(const void *conf, const char **ret_key, char *reterr)
{
    const struct io_audio_conf *c = conf;
    struct io_channels take;
    *ret_key = "channel";
    int r = io_channels_parse(c->channel, &take, reterr);
    if (r)
        return r;
    if (c->encoding && io_channels_count(&take, (uint32_t)c->channels, "raw PCM", reterr) < 0)
        return -EINVAL;
    *ret_key = "encoding";
    for (unsigned i = 0; i < c->files.n && !c->encoding; i++) {
        if (strcmp(c->files.v[i], "-") == 0) {
            snprintf(reterr, IO_ERR, "standard input is raw PCM: say which, for instance `encoding: s16le`");
            return -EINVAL;
        }
    }
    *ret_key = "source_rate";
    if (c->encoding && c->common.resample && c->source_rate <= 0) {
        snprintf(reterr, IO_ERR, "raw PCM does not tell its rate: `resample: true` needs `source_rate`");
        return -EINVAL;
    }
    if (!c->encoding && c->source_rate > 0) {
        snprintf(reterr, IO_ERR, "sound files tell their rate; `source_rate` goes with `encoding`");
        return -EINVAL;
    }
    return io_play_check(&c->common, ret_key, reterr);
}

static uint32_t channels(const void *conf)
{
    const struct io_audio_conf *c = conf;

    return strcmp(c->channel, "all") ? 1 : c->encoding ? (uint32_t)c->channels : 0;
}

static int audio_open(const void *conf, const struct io_host *host, void **ret_self, char *reterr)
{
    const struct io_audio_conf *c = conf;
    struct io_play_conf play = {
        .common = &c->common,
        .files = &c->files,
        .reader = c->encoding ? &io_reader_pcm : &io_reader_sound,
        .reader_conf = c,
        .realtime = c->pace == 1,
    };
    return io_play_open(&play, host, ret_self, reterr);
}

extern const struct io_source_class io_source_audio;
const struct io_source_class io_source_audio = {
    .type = "audio",
    .help = "sound files (WAV, FLAC, Ogg, Opus, MP3, AIFF, W64, RF64, CAF, AU and others) and raw PCM",
    .options = options,
    .conf_bytes = sizeof(struct io_audio_conf),
    .replayable = true,
    .check = check,
    .open = audio_open,
    .turn = io_play_turn,
    .close = io_play_close,
    .fd = io_play_fd,
    .channels = channels,
};
