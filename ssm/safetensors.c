/* safetensors.c: reads the header of a mapped .safetensors file: 8 bytes of little-endian length, that many bytes of
 * JSON, then the data. Runs once, at open; the mapping belongs to the struct and every pointer handed out lies in it.
 * Trap: the file may come from anywhere, so no number in it is used before it was checked against the file's size. */
#include "ssm/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ssm/fail.h"

enum { HEADER_MAX = 100 << 20, TENSORS_MAX = 1 << 20 };

struct ssm_safetensors {
    uint8_t *map;
    uint64_t bytes;
    json_t *header;                /* owns the names and dtypes */
    struct ssm_st_tensor *tensors; /* by name */
    size_t n;
    const char *path; /* caller's, during open only */
    uint64_t data_at; /* where the data begins */
};

static size_t dtype_bytes(const char *dtype)
{
    static const struct {
        const char *name;
        size_t bytes;
    } known[] = {{"F32", 4}, {"BF16", 2}, {"F16", 2}, {"F64", 8}, {"I64", 8},  {"I32", 4},     {"I16", 2},    {"I8", 1},
                 {"U64", 8}, {"U32", 4},  {"U16", 2}, {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, dtype))
            return known[i].bytes;
    return 0;
}

static int map_file(struct ssm_safetensors *st, char *reterr)
{
    int err = 0;
    struct stat info;
    int fd = open(st->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ssm_fail(reterr, -errno, "%s: %s", st->path, strerror(errno));
    if (fstat(fd, &info) < 0) {
        err = ssm_fail(reterr, -errno, "%s: %s", st->path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        err = ssm_fail(reterr, -EBADMSG, "%s: not a regular file", st->path);
    } else if (info.st_size < 10) {
        err =
            ssm_fail(reterr, -EBADMSG, "%s: %lld bytes, too short for safetensors", st->path, (long long)info.st_size);
    } else {
        st->bytes = (uint64_t)info.st_size;
        void *map = mmap(NULL, st->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED)
            err = ssm_fail(reterr, -errno, "%s: %s", st->path, strerror(errno));
        else
            st->map = map;
    }
    close(fd);
    return err;
}

static int parse_header(struct ssm_safetensors *st, char *reterr)
{
    uint64_t length = 0;
    json_error_t why;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | st->map[i];
    if (length > st->bytes - 8 || length > HEADER_MAX)
        return ssm_fail(reterr, -EBADMSG, "%s: header of %llu bytes in a file of %llu", st->path,
                        (unsigned long long)length, (unsigned long long)st->bytes);
    st->data_at = 8 + length;
    st->header = json_loadb((const char *)st->map + 8, length, JSON_REJECT_DUPLICATES, &why);
    if (!st->header)
        return ssm_fail(reterr, -EBADMSG, "%s: header: %s", st->path, why.text);
    if (!json_is_object(st->header))
        return ssm_fail(reterr, -EBADMSG, "%s: header is not a JSON object", st->path);
    if (json_object_size(st->header) > TENSORS_MAX)
        return ssm_fail(reterr, -EBADMSG, "%s: more than %d tensors", st->path, TENSORS_MAX);
    return 0;
}

static bool get_u64(const json_t *value, uint64_t *ret)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *ret = (uint64_t)json_integer_value(value);
    return true;
}

/* The shape, and how many bytes it comes to. */
static int parse_shape(const struct ssm_safetensors *st, const json_t *shape, struct ssm_st_tensor *t, char *reterr)
{
    size_t width = dtype_bytes(t->dtype);
    if (!width)
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s' has the unknown dtype '%s'", st->path, t->name, t->dtype);
    if (!json_is_array(shape) || json_array_size(shape) > SSM_ST_DIMS)
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s': 'shape' is not a list of at most %d numbers", st->path,
                        t->name, SSM_ST_DIMS);
    t->n_dims = (uint32_t)json_array_size(shape);
    t->bytes = width;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (!get_u64(json_array_get(shape, i), &t->shape[i]))
            return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s': 'shape' holds something that is not a size", st->path,
                            t->name);
        if (__builtin_mul_overflow(t->bytes, t->shape[i], &t->bytes))
            return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s': 'shape' overflows", st->path, t->name);
    }
    return 0;
}

static int parse_tensor(const struct ssm_safetensors *st, const char *name, const json_t *value,
                        struct ssm_st_tensor *t, char *reterr)
{
    uint64_t begin, end, room = st->bytes - st->data_at;
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    const json_t *offsets = json_object_get(value, "data_offsets");
    *t = (struct ssm_st_tensor){.name = name, .dtype = dtype};
    if (!dtype)
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s': no 'dtype'", st->path, name);
    int err = parse_shape(st, json_object_get(value, "shape"), t, reterr);
    if (err)
        return err;
    if (json_array_size(offsets) != 2 || !get_u64(json_array_get(offsets, 0), &begin) ||
        !get_u64(json_array_get(offsets, 1), &end) || begin > end)
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s': 'data_offsets' is not [begin, end]", st->path, name);
    if (end > room)
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s' ends at byte %llu of %llu: the file is cut short", st->path,
                        name, (unsigned long long)end, (unsigned long long)room);
    if (end - begin != t->bytes)
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s' has %llu bytes where its shape and dtype need %llu",
                        st->path, name, (unsigned long long)(end - begin), (unsigned long long)t->bytes);
    t->data = st->map + st->data_at + begin;
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct ssm_st_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int by_name(const void *a, const void *b)
{
    const struct ssm_st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* The tensors must tile the data: what overlaps is forged, what lies between belongs to nobody. */
static int check_tiling(struct ssm_safetensors *st, char *reterr)
{
    const uint8_t *at = st->map + st->data_at;
    qsort(st->tensors, st->n, sizeof *st->tensors, by_place);
    for (size_t i = 0; i < st->n; i++) {
        const struct ssm_st_tensor *t = &st->tensors[i];
        if (t->data < at)
            return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s' overlaps tensor '%s'", st->path, t->name,
                            st->tensors[i - 1].name);
        if (t->data > at)
            return ssm_fail(reterr, -EBADMSG, "%s: %llu unclaimed bytes before tensor '%s'", st->path,
                            (unsigned long long)(t->data - at), t->name);
        at = t->data + t->bytes;
    }
    if (at != st->map + st->bytes)
        return ssm_fail(reterr, -EBADMSG, "%s: %llu unclaimed bytes at the end", st->path,
                        (unsigned long long)(st->map + st->bytes - at));
    return 0;
}

static int parse_tensors(struct ssm_safetensors *st, char *reterr)
{
    const char *name;
    json_t *value;
    st->tensors = calloc(json_object_size(st->header) + 1, sizeof *st->tensors);
    if (!st->tensors)
        return ssm_fail(reterr, -ENOMEM, "%s: out of memory", st->path);
    json_object_foreach(st->header, name, value)
    {
        if (!strcmp(name, "__metadata__"))
            continue;
        int err = parse_tensor(st, name, value, &st->tensors[st->n], reterr);
        if (err)
            return err;
        st->n++;
    }
    int err = check_tiling(st, reterr);
    qsort(st->tensors, st->n, sizeof *st->tensors, by_name);
    return err;
}

int ssm_safetensors_open(const char *path, struct ssm_safetensors **ret, char *reterr)
{
    struct ssm_safetensors *st = calloc(1, sizeof *st);
    if (!st)
        return ssm_fail(reterr, -ENOMEM, "%s: out of memory", path);
    st->path = path;
    int err = map_file(st, reterr);
    if (!err)
        err = parse_header(st, reterr);
    if (!err)
        err = parse_tensors(st, reterr);
    if (err) {
        ssm_safetensors_close(&st);
        return err;
    }
    st->path = NULL;
    *ret = st;
    return 0;
}

void ssm_safetensors_close(struct ssm_safetensors **st)
{
    if (!*st)
        return;
    if ((*st)->map)
        munmap((*st)->map, (*st)->bytes);
    json_decref((*st)->header);
    free((*st)->tensors);
    free(*st);
    *st = NULL;
}

const struct ssm_st_tensor *ssm_safetensors_find(const struct ssm_safetensors *st, const char *name)
{
    struct ssm_st_tensor key = {.name = name};
    return bsearch(&key, st->tensors, st->n, sizeof *st->tensors, by_name);
}

uint64_t ssm_safetensors_bytes(const struct ssm_safetensors *st)
{
    return st->bytes;
}
