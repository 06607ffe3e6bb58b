/* ctl_inputs.h: INPUT arguments of `mambactl run` and `feed`, and the options about them, as the section `inputs` of a
 * configuration. One thread. */
#ifndef TOOLS_CTL_INPUTS_H
#define TOOLS_CTL_INPUTS_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>

struct ctl_inputs {
    const char *command; /* the subcommand, for messages */
    const char *rate, *source_rate, *channel, *channels, *dtype, *time, *stream;
    bool resample, bytes;
};

/* clang-format off */
#define CTL_INPUTS_LONG                                                                                                \
    {"rate", required_argument, NULL, 'R'}, {"source-rate", required_argument, NULL, 'S'},                             \
    {"resample", no_argument, NULL, 'A'}, {"channel", required_argument, NULL, 'N'},                                   \
    {"channels", required_argument, NULL, 'M'}, {"dtype", required_argument, NULL, 'D'},                               \
    {"time", required_argument, NULL, 'I'}, {"stream", required_argument, NULL, 'W'},                                  \
    {"bytes", no_argument, NULL, 'Y'}
/* clang-format on */

#define CTL_INPUTS_HELP                                                                                                \
    "INPUT is a sound file, FILE.h5 or FILE.h5:/DATASET, FILE.csv, FILE.raw, a glob of them (in quotes),\n"            \
    "or - for raw samples on standard input.\n"                                                                        \
    "\n"                                                                                                               \
    "      --rate HZ           the data's rate, where they do not tell it; with --resample: the rate to be made\n"     \
    "      --resample          resample to the model's rate, else to --rate\n"                                         \
    "      --source-rate HZ    rate of raw samples that are to be resampled (default: --rate)\n"                       \
    "      --channel all|mix|N channels of sound files and raw samples to be taken\n"                                  \
    "      --channels N        channels of raw samples (default 1)\n"                                                  \
    "      --dtype TYPE        type of raw samples: float32 (default), int16, s16be, mulaw, ...\n"                     \
    "      --time NAME         the CSV column, HDF5 dataset or table field of the rows' times; none: there is none\n"  \
    "      --stream TEMPLATE   stream ids, from {input} {path} {stem} {dataset}\n"                                     \
    "      --bytes             every INPUT is a stream of bytes: a log, text, or - for standard input\n"

/* Takes one of the options above; false: it is none of them. */
bool ctl_inputs_option(struct ctl_inputs *in, int option, const char *value);

/* The section, one input per kind of argument; NULL after a message on stderr. */
json_t *ctl_inputs_section(const struct ctl_inputs *in, char *const *args, int n);

/* The configuration's text, `${` kept as it is; NULL: out of memory. To be freed. */
char *ctl_config_text(json_t *config);

#endif
