/* audio.h: the audio input's configuration and its two readers: sound files and raw PCM. */
#ifndef IO_AUDIO_H
#define IO_AUDIO_H

#include "io/play.h"

struct io_audio_conf {
    struct io_common common;
    struct io_strings files;
    char *channel;
    int pace;     /* 1: realtime */
    int encoding; /* index into io_pcm_encodings; 0: what the files' headers say */
    int64_t channels;
    double source_rate; /* of raw PCM; 0: the input's, or the model's */
};

extern const char *const io_pcm_encodings[]; /* NULL-terminated; the first stands for "not raw" */
extern const struct io_reader_class io_reader_pcm, io_reader_sound;

#endif
