/* snapshot_file.h: the files of snapshots: one per generation, made under another name and renamed when all of it is on
 * the disk; read whole and believed only where every checksum is right. Little-endian; records back to back:
 *
 *   header   128 bytes, written last
 *   record   u32 kind, u32 id bytes, u64 payload bytes, u64 checksum of all that follows, the id, padding to 8, the
 *            payload, padding to 8
 *
 * A writer and a file that was read each belong to one thread. Errors: negative errno, and one line that names the
 * file.
 */
#ifndef MD_SNAPSHOT_FILE_H
#define MD_SNAPSHOT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MD_SNAPSHOT_VERSION = 1, MD_SNAPSHOT_ERR = 512 };

/* What stands in records is 8-aligned. */
static inline size_t md_record_padded(size_t n)
{
    return (n + 7) / 8 * 8;
}

enum md_record_kind {
    MD_RECORD_MODEL = 1, /* id: the model's; u64 ssm_model_hash() */
    MD_RECORD_STREAM,    /* id: the stream's; cut.h */
    MD_RECORD_VOICE,     /* id: the stream's; struct md_voice */
    MD_RECORD_OUTPUT,    /* id: the output's; struct io_position */
    MD_RECORD_KINDS
};

/* What a snapshot as a whole says. */
struct md_snapshot_head {
    uint64_t run;        /* of the daemon that made it */
    uint64_t generation; /* one more than the one before */
    int64_t t_ns;        /* since the Unix epoch */
    bool clean;          /* made after everything queued was consumed: nothing is lost between it and a new start */
};

struct md_record {
    enum md_record_kind kind;
    const char *id; /* not terminated */
    uint32_t id_len;
    const void *data; /* 8-aligned */
    size_t bytes;
};

/* ---- writing -------------------------------------------------------------------------------------------------- */

struct md_snapshot_writer {
    char dir[4096], part[4200], path[4200];
    int fd;
    uint64_t at, n, checksum;
    uint64_t sent; /* bytes on their way to the disk, or there */
    struct md_snapshot_head head;
};

/* Begins DIR/snapshot-GENERATION.part. */
int md_snapshot_begin(struct md_snapshot_writer *w, const char *dir, const struct md_snapshot_head *head, char *reterr);
/* Bytes of a record, and its making at `to`, so that another thread may prepare one. */
size_t md_record_bytes(uint32_t id_len, size_t bytes);
/* Returns where the payload is to be written. */
void *md_record_begin(void *to, enum md_record_kind kind, const char *id, uint32_t id_len, size_t bytes);
/* With its payload. */
void md_record_write(void *to, enum md_record_kind kind, const char *id, uint32_t id_len, const void *data,
                     size_t bytes);
/* Appends n whole records of `bytes` bytes together, whose checksums it fills in. */
int md_snapshot_append(struct md_snapshot_writer *w, void *records, size_t bytes, uint64_t n, char *reterr);
/* The header, the disk, the name; then no more than `keep` generations stay. */
int md_snapshot_commit(struct md_snapshot_writer *w, unsigned keep, char *reterr);
void md_snapshot_abandon(struct md_snapshot_writer *w); /* removes the part; after a failed begin too */

/* The same in memory: n whole records of `bytes` bytes together, whose checksums it fills in, behind a header. Bytes
 * for free(); NULL: out of memory. */
void *md_snapshot_image(const struct md_snapshot_head *head, const void *records, size_t bytes, uint64_t n,
                        size_t *ret_bytes);

/* ---- reading -------------------------------------------------------------------------------------------------- */

struct md_snapshot_file {
    struct md_snapshot_head head;
    char path[4200];
    const uint8_t *map;
    size_t bytes;
};

/* One file, whoever made it. -EBADMSG: it is not whole; else the errno of what cannot be read. Nothing is renamed. */
int md_snapshot_load(const char *path, struct md_snapshot_file *ret, char *reterr);
/* The same of bytes in memory (8-aligned), which stay the caller's: not to be closed. */
int md_snapshot_read(const void *bytes, size_t n, struct md_snapshot_file *ret, char *reterr);

/* The newest generation in `dir` that is whole. Each that is not is renamed to *.corrupt and told to `quarantined`,
 * whose line names the file and what is wrong. -ENOENT: there is none; the folder need not exist. */
int md_snapshot_open(const char *dir, void (*quarantined)(void *arg, const char *line), void *arg,
                     struct md_snapshot_file *ret, char *reterr);
void md_snapshot_close(struct md_snapshot_file *f);
/* Record after record; *at starts at 0. False: none left. */
bool md_snapshot_next(const struct md_snapshot_file *f, size_t *at, struct md_record *ret);

#endif
