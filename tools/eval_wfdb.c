/* eval_wfdb.c: PhysioNet's WFDB records whose signals share one file of format 212: pairs of 12-bit samples in three
 * bytes. RECORD.dat stands beside RECORD.hea, whose first line says how many signals there are. Values are the file's
 * integers: no figure here depends on the unit. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/eval_table.h"

/* The number of signals. */
static int read_header(const char *path, uint32_t *ret, char *reterr)
{
    char *name = NULL, *text = NULL, file[64];
    size_t bytes;
    unsigned signals = 0, format = 0;
    if (asprintf(&name, "%.*s.hea", (int)eval_file_unpacked(path) - 4, path) < 0)
        return -ENOMEM;
    int err = eval_file_read(name, &text, &bytes, reterr);
    for (char *line = text; err == 0 && line && format == 0;) {
        char *end = strchr(line, '\n');
        if (*line != '#' && !signals)
            signals = sscanf(line, "%*s %u", &signals) == 1 ? signals : 0;
        else if (*line != '#' && sscanf(line, "%63s %u", file, &format) != 2)
            break;
        line = end ? end + 1 : NULL;
    }
    if (err == 0 && (format != 212 || signals < 1 || signals > 64)) {
        snprintf(reterr, EVAL_ERR, "%s: no WFDB header of signals of format 212", name);
        err = -EBADMSG;
    }
    *ret = signals;
    free(text);
    free(name);
    return err;
}

/* −2048 stands for a missing sample. */
static double sample(const unsigned char *bytes, size_t i)
{
    const unsigned char *b = bytes + i / 2 * 3;
    int v = i % 2 ? b[2] | (b[1] & 0xf0) << 4 : b[0] | (b[1] & 0x0f) << 8;
    v = v < 2048 ? v : v - 4096;
    return v == -2048 ? NAN : v;
}

int eval_wfdb_load(const char *path, struct eval_table *ret, char *reterr)
{
    char *bytes = NULL;
    size_t n;
    uint32_t signals = 0;
    int err = read_header(path, &signals, reterr);
    if (err == 0)
        err = eval_file_read(path, &bytes, &n, reterr);
    if (err)
        return err;
    size_t rows = (n / 3 * 2 + (n % 3 == 2)) / signals;
    double *x = malloc((rows * signals + 1) * sizeof *x);
    for (size_t i = 0; x && i < rows * signals; i++)
        x[i] = sample((const unsigned char *)bytes, i);
    free(bytes);
    if (!x)
        return -ENOMEM;
    *ret = (struct eval_table){.rows = rows, .channels = signals, .x = x};
    return 0;
}
