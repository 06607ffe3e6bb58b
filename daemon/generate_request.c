/* generate_request.c: see generate_request.h. Whatever a client sends: every key is known and of its type and range, or
 * the request is refused by the key's name. */
#include "daemon/generate_request.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/text.h"
#include "io/source.h"

enum { HEADER_MAX = 16384, ID_MAX = 64 };

static int fail(char *reterr, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(reterr, IO_ERR, fmt, args);
    va_end(args);
    return -EINVAL;
}

static int take_id(struct md_generate_request *r, json_t *v, char *reterr)
{
    size_t n = json_string_length(v);

    if (!json_is_integer(v) && !(json_is_string(v) && n >= 1 && n <= ID_MAX))
        return fail(reterr, "id: must be a string of 1 to %d bytes or an integer", ID_MAX);
    r->id = v;
    return 0;
}

static int take_string(const char **ret, const char *key, json_t *v, size_t most, char *reterr)
{
    size_t n = json_string_length(v);

    if (!json_is_string(v) || n < 1 || n > most)
        return fail(reterr, "%s: must be a string of 1 to %zu bytes", key, most);
    *ret = json_string_value(v);
    return 0;
}

static int take_integer(uint64_t *ret, const char *key, json_t *v, uint64_t least, uint64_t most, char *reterr)
{
    json_int_t i = json_integer_value(v);

    if (!json_is_integer(v) || i < 0 || (uint64_t)i < least || (uint64_t)i > most)
        return fail(reterr, "%s: must be an integer from %llu to %llu", key, (unsigned long long)least,
                    (unsigned long long)most);
    *ret = (uint64_t)i;
    return 0;
}

static int take_number(float *ret, const char *key, json_t *v, double least, double most, char *reterr)
{
    double d = json_number_value(v);

    if (!json_is_number(v) || !(d >= least && d <= most))
        return fail(reterr, "%s: must be a number from %g to %g", key, least, most);
    *ret = (float)d;
    return 0;
}

static int take(struct md_generate_request *r, const char *key, json_t *v, char *reterr)
{
    uint64_t top_k = 0;
    int rc;

    if (!strcmp(key, "id"))
        return take_id(r, v, reterr);
    if (!strcmp(key, "n"))
        return take_integer(&r->n, key, v, 1, INT64_MAX, reterr);
    if (!strcmp(key, "temperature"))
        return take_number(&r->how.temperature, key, v, 0, 1e3, reterr);
    if (!strcmp(key, "top_p"))
        return take_number(&r->how.top_p, key, v, 1e-6, 1, reterr);
    if (!strcmp(key, "min_p"))
        return take_number(&r->how.min_p, key, v, 0, 1, reterr);
    if (!strcmp(key, "repetition_penalty"))
        return take_number(&r->how.repetition_penalty, key, v, 1e-3, 1e3, reterr);
    if (!strcmp(key, "seed"))
        return take_integer(&r->how.seed, key, v, 0, INT64_MAX, reterr);
    if (!strcmp(key, "stop"))
        return take_string(&r->stop, key, v, MD_TEXT_STOP, reterr);
    if (!strcmp(key, "model"))
        return take_string(&r->model, key, v, IO_ID_MAX, reterr);
    if (!strcmp(key, "stream"))
        return take_string(&r->stream, key, v, IO_ID_MAX, reterr);
    if (strcmp(key, "top_k"))
        return strlen(key) > ID_MAX ? fail(reterr, "unknown key") : fail(reterr, "unknown key '%s'", key);
    rc = take_integer(&top_k, key, v, 0, MD_BYTES, reterr);
    r->how.top_k = (uint32_t)top_k;
    return rc;
}

/* The id is taken first, so that a refusal can name it. */
int md_generate_request_read_id(struct md_generate_request *r, const void *header, size_t n, char *reterr)
{
    json_error_t error;
    json_t *id;

    *r = (struct md_generate_request){
        .how = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
        .n = 256,
    };
    if (n > HEADER_MAX)
        return fail(reterr, "the header is longer than %d bytes", HEADER_MAX);
    r->header = json_loadb(header, n, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(r->header))
        return fail(reterr, "the header is not a JSON object%s%.200s", r->header ? "" : ": ",
                    r->header ? "" : error.text);
    id = json_object_get(r->header, "id");
    return id ? take_id(r, id, reterr) : fail(reterr, "id: is missing");
}

int md_generate_request_read(struct md_generate_request *r, const void *header, size_t n, char *reterr)
{
    const char *key;
    json_t *v;
    int rc = md_generate_request_read_id(r, header, n, reterr);

    json_object_foreach(r->header, key, v) rc = rc ? rc : take(r, key, v, reterr);
    return rc;
}

void md_generate_request_done(struct md_generate_request *r)
{
    json_decref(r->header);
}
