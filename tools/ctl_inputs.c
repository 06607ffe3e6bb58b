/* ctl_inputs.c: from file names to inputs. Arguments of one kind (and one dataset) become one input with many files, so
 * that a thousand sound files are played by one source. Trap: `${` in a file name is no variable. */
#include "tools/ctl_inputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool ctl_inputs_option(struct ctl_inputs *in, int option, const char *value)
{
    switch (option) {
    case 'R':
        in->rate = value;
        return true;
    case 'S':
        in->source_rate = value;
        return true;
    case 'A':
        in->resample = true;
        return true;
    case 'N':
        in->channel = value;
        return true;
    case 'M':
        in->channels = value;
        return true;
    case 'D':
        in->dtype = value;
        return true;
    case 'I':
        in->time = value;
        return true;
    case 'W':
        in->stream = value;
        return true;
    case 'Y':
        in->bytes = true;
        return true;
    default:
        return false;
    }
}

/* ---- kinds ------------------------------------------------------------------------------------------------ */

enum kind { AUDIO, RAW, HDF5, CSV, BYTES };

static const char *const kind_names[] = {"audio", "raw", "hdf5", "csv", "bytes"};

static const struct {
    const char *ending;
    enum kind kind;
} endings[] = {
    {".h5", HDF5}, {".hdf5", HDF5}, {".hdf", HDF5}, {".he5", HDF5}, {".csv", CSV}, {".tsv", CSV},
    {".txt", CSV}, {".raw", RAW},   {".pcm", RAW},  {".bin", RAW},  {".f32", RAW}, {".s16", RAW},
};

static enum kind kind_of(const char *name, size_t len)
{
    if (len == 1 && *name == '-')
        return RAW;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t n = strlen(endings[i].ending);
        if (len > n && strncasecmp(name + len - n, endings[i].ending, n) == 0)
            return endings[i].kind;
    }
    return AUDIO;
}

/* Where "FILE.h5:/DATASET" has its colon; the length where there is none. */
static size_t file_part(const char *arg)
{
    const char *colon = arg;
    while ((colon = strstr(colon, ":/"))) {
        if (kind_of(arg, (size_t)(colon - arg)) == HDF5)
            return (size_t)(colon - arg);
        colon++;
    }
    return strlen(arg);
}

/* numpy's names of what travels little-endian; others are those of `encoding`. */
static const char *encoding(const char *dtype)
{
    static const char *const names[][2] = {{"float32", "f32le"}, {"float64", "f64le"}, {"int16", "s16le"},
                                           {"int32", "s32le"},   {"int8", "s8"},       {"uint8", "u8"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(dtype, names[i][0]) == 0)
            return names[i][1];
    return dtype;
}

/* ---- the section ------------------------------------------------------------------------------------------ */

/* A value as it stands in the command; its type and range are checked with the configuration. */
static void set(json_t *input, const char *key, const char *text)
{
    char *end;
    double v = text ? strtod(text, &end) : 0;
    if (text)
        json_object_set_new(input, key, *text && !*end ? json_real(v) : json_string(text));
}

static void set_integer(json_t *input, const char *key, const char *text)
{
    char *end;
    long long v = text ? strtoll(text, &end, 10) : 0;
    if (text)
        json_object_set_new(input, key, *text && !*end ? json_integer(v) : json_string(text));
}

static json_t *new_input(const struct ctl_inputs *in, enum kind kind, const char *dataset)
{
    json_t *input = json_pack("{s:s, s:[]}", "type", kind == RAW ? "audio" : kind_names[kind], "files");
    bool raw = kind == RAW, sound = raw || kind == AUDIO;
    if (in->resample)
        json_object_set_new(input, "resample", json_true());
    set(input, "rate", in->rate);
    if (in->stream)
        json_object_set_new(input, "stream", json_string(in->stream));
    if (sound && in->channel)
        json_object_set_new(input, "channel", json_string(in->channel));
    if (raw) {
        json_object_set_new(input, "encoding", json_string(encoding(in->dtype ? in->dtype : "float32")));
        set_integer(input, "channels", in->channels);
        set(input, "source_rate", in->source_rate ? in->source_rate : in->resample ? in->rate : NULL);
    }
    if (dataset)
        json_object_set_new(input, "dataset", json_string(dataset));
    if (!sound && kind != BYTES && in->time && (kind == CSV || strcmp(in->time, "none") != 0))
        json_object_set_new(input, "time", json_string(in->time));
    return input;
}

/* The input of this kind and dataset, made where there is none yet: "audio", "hdf5", then "hdf5-2", … */
static json_t *input_for(json_t *section, const struct ctl_inputs *in, enum kind kind, const char *dataset)
{
    char id[32];
    for (int k = 1;; k++) {
        snprintf(id, sizeof id, k == 1 ? "%s" : "%s-%d", kind_names[kind], k);
        json_t *input = json_object_get(section, id);
        if (!input) {
            json_object_set_new(section, id, new_input(in, kind, dataset));
            return json_object_get(section, id);
        }
        const char *has = json_string_value(json_object_get(input, "dataset"));
        if (dataset ? has && strcmp(has, dataset) == 0 : !has)
            return input;
    }
}

json_t *ctl_inputs_section(const struct ctl_inputs *in, char *const *args, int n)
{
    json_t *section = json_object();
    for (int i = 0; i < n; i++) {
        size_t len = in->bytes ? strlen(args[i]) : file_part(args[i]);
        const char *dataset = args[i][len] ? args[i] + len + 1 : NULL;
        json_t *file = json_stringn(args[i], len), *whole = json_string(args[i]);
        json_decref(whole);
        if (!file || !whole) {
            json_decref(file);
            fprintf(stderr, "mambactl %s: %s: a name that is not UTF-8\n", in->command, args[i]);
            json_decref(section);
            return NULL;
        }
        json_t *input = input_for(section, in, in->bytes ? BYTES : kind_of(args[i], len), dataset);
        json_array_append_new(json_object_get(input, "files"), file);
    }
    return section;
}

char *ctl_config_text(json_t *config)
{
    char *json = json_dumps(config, JSON_INDENT(2)), *text = NULL;
    size_t n;
    FILE *out = json ? open_memstream(&text, &n) : NULL;
    for (const char *at = json; out && *at; at++) {
        if (at[0] == '$' && at[1] == '{')
            fputc('$', out);
        fputc(*at, out);
    }
    free(json);
    return out && fclose(out) == 0 ? text : NULL;
}
