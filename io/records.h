/* records.h: the keys of an input that can give a model bytes: how its streams fall into records. Pure functions; any
 * thread. */
#ifndef IO_RECORDS_H
#define IO_RECORDS_H

#include "io/source.h"

enum { IO_RECORD_MAX = 64 << 10 /* bytes, where max_record is left out */ };

struct io_records {
    char *delimiter;    /* NULL: newline */
    int64_t max_record; /* 0: IO_RECORD_MAX */
};

/* clang-format off */
#define IO_RECORDS_OPTIONS(conf, field) \
    {"delimiter", "of byte streams: the byte that ends a record: newline (default), nul, none, or the byte itself", \
     IO_OPT_STRING, offsetof(conf, field) + offsetof(struct io_records, delimiter)}, \
    {"max_record", "of byte streams: a longer record is cut (default 64KiB)", IO_OPT_SIZE, \
     offsetof(conf, field) + offsetof(struct io_records, max_record), .min = 1, .max = 1 << 30}
/* clang-format on */

/* Of the keys; *ret_key names the one at fault. */
int io_records_check(const struct io_records *r, const char **ret_key, char *reterr);

int32_t io_records_delimiter(const struct io_records *r); /* the byte, or −1: none */
uint32_t io_records_max(const struct io_records *r);

#endif
