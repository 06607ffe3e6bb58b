/* make_sounds FOLDER: the same signal as s.wav, s.flac, … in ten formats. */
#include <math.h>
#include <sndfile.h>
#include <stdio.h>

enum { FRAMES = 24000 };

int main(int argc, char **argv)
{
    static const struct {
        const char *ending;
        int format;
    } kinds[] = {
        {"wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16},   {"flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_16},
        {"aiff", SF_FORMAT_AIFF | SF_FORMAT_PCM_16}, {"w64", SF_FORMAT_W64 | SF_FORMAT_PCM_16},
        {"rf64", SF_FORMAT_RF64 | SF_FORMAT_PCM_16}, {"caf", SF_FORMAT_CAF | SF_FORMAT_PCM_16},
        {"au", SF_FORMAT_AU | SF_FORMAT_PCM_16},     {"ogg", SF_FORMAT_OGG | SF_FORMAT_VORBIS},
        {"opus", SF_FORMAT_OGG | SF_FORMAT_OPUS},    {"mp3", SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III},
    };
    static short x[FRAMES];
    for (int i = 0; i < FRAMES; i++)
        x[i] = (short)(12000 * sin(i * 0.03) + 5000 * sin(i * 0.0011 * i * 0.01));
    for (size_t k = 0; argc == 2 && k < sizeof kinds / sizeof *kinds; k++) {
        char path[4096];
        SF_INFO info = {.samplerate = 48000, .channels = 1, .format = kinds[k].format};
        snprintf(path, sizeof path, "%s/s.%s", argv[1], kinds[k].ending);
        SNDFILE *f = sf_open(path, SFM_WRITE, &info);
        if (!f || sf_writef_short(f, x, FRAMES) != FRAMES || sf_close(f))
            return 1;
    }
    return argc != 2;
}
