/* fuzz_files.c: files as inputs, opened and read by their adapters. Input: a byte for the kind, then the file. */
#include <stdio.h>
#include <stdlib.h>

#include "daemon/config.h"
#include "tests/fuzz/fuzz.h"
#include "tests/io/recorder.h"

/* libhdf5 (1.10.8) loses a few hundred bytes of its own when it refuses a damaged file. What we forgot to close would not
 * hide behind this: the library's tables still reach it. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

enum { TURNS = 64 }; /* a file may say that it is longer than anyone can wait for */

static const char *const kinds[] = {"{type: csv, files: '%s/in'}", "{type: audio, files: '%s/in', channel: mix}",
                                    "{type: hdf5, files: '%s/in', dataset: /x, time: /t}"};

static const struct md_input_conf *configured(unsigned kind)
{
    static struct md_config *configs[sizeof kinds / sizeof *kinds];
    const struct io_source_class *class_[] = {io_source_find("csv", &(const char *){NULL}),
                                              io_source_find("audio", &(const char *){NULL}),
                                              io_source_find("hdf5", &(const char *){NULL})};
    char input[256], yaml[512];

    if (!class_[kind])
        return NULL;
    snprintf(input, sizeof input, kinds[kind], fuzz_dir());
    snprintf(yaml, sizeof yaml, "models: {m: {path: m}}\ninputs: {i: %s}\n", input);
    if (!configs[kind] && md_config_parse("fuzz", yaml, NULL, 0, false, stderr, &configs[kind]))
        abort();
    return &configs[kind]->inputs[0];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct md_input_conf *conf = size ? configured(data[0] % (sizeof kinds / sizeof *kinds)) : NULL;
    enum io_turn turn = IO_TURN_MORE;
    struct recorder r;
    char reterr[IO_ERR];
    void *source;

    if (!conf)
        return 0;
    fuzz_write("in", data + 1, size - 1);
    recorder_init(&r, "i", 0);
    if (conf->class_->open(conf->conf, &r.host, &source, reterr) == 0) {
        for (int i = 0; i < TURNS && turn == IO_TURN_MORE; i++) {
            int64_t wake;
            turn = conf->class_->turn(source, recorder_now(), &wake);
        }
        conf->class_->close(source);
    }
    recorder_done(&r);
    return 0;
}
