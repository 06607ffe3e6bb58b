/* fuzz_snapshot.c: snapshots. Input: a byte; 0: the rest is the file as it is; else records made of the rest with right
 * checksums, so that what stands behind those is reached: per record a byte for the kind, one for the length of its id,
 * two for that of its payload. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/restore.h"
#include "tests/fuzz/fuzz.h"

static void ignore(void *arg, const char *line)
{
}

static void touch(const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)((const volatile uint8_t *)bytes)[i];
}

/* What restore.c does with a record before it believes anything; then every byte that it may look at. */
static void use(const struct md_record *r)
{
    struct md_restored restored = {.saved = r->data, .bytes = r->bytes};
    const struct md_saved_stream *s = r->data;
    struct md_saved_parts parts;

    if (r->kind != MD_RECORD_STREAM || md_restored_parts(&restored, &parts))
        return;
    touch(parts.input, s->input_len);
    touch(parts.model, s->model_len);
    touch(parts.runs, s->n_runs * sizeof *parts.runs);
    touch(parts.slots, s->channels * parts.slot_stride);
}

static void write_records(const uint8_t *data, size_t size)
{
    const struct md_snapshot_head head = {.generation = 1};
    struct md_snapshot_writer w;
    char reterr[MD_SNAPSHOT_ERR];

    if (md_snapshot_begin(&w, fuzz_dir(), &head, reterr))
        abort();
    while (size >= 4) {
        uint32_t id = data[1];
        size_t bytes = (size_t)data[2] + 256 * data[3];
        data += 4;
        size -= 4;
        id = id < size ? id : (uint32_t)size;
        bytes = bytes < size - id ? bytes : size - id;
        void *record = malloc(md_record_bytes(id, bytes));
        md_record_write(record, 1 + data[-4] % (MD_RECORD_KINDS - 1), (const char *)data, id, data + id, bytes);
        if (md_snapshot_append(&w, record, md_record_bytes(id, bytes), 1, reterr))
            abort();
        free(record);
        data += id + bytes;
        size -= id + bytes;
    }
    if (md_snapshot_commit(&w, 1, reterr))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct md_snapshot_file f = {0};
    char reterr[MD_SNAPSHOT_ERR];
    struct md_record r;

    if (size < 1)
        return 0;
    if (data[0] == 0)
        fuzz_write("snapshot-000000000001", data + 1, size - 1);
    else
        write_records(data + 1, size - 1);
    if (md_snapshot_open(fuzz_dir(), ignore, NULL, &f, reterr) == 0)
        for (size_t at = 0; md_snapshot_next(&f, &at, &r);)
            use(&r);
    else if (data[0])
        abort(); /* what was just written is read back */
    md_snapshot_close(&f);
    return 0;
}
