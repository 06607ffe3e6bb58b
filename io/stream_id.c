/* stream_id.c: `{name}` templates for stream ids. Braces have no other use in them: an id that needs one comes from a
 * sender's header. */
#include "io/stream_id.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "io/wire.h"

static const struct {
    const char *name;
    size_t offset;
} names[] = {
    {"input", offsetof(struct io_id_parts, input)}, {"path", offsetof(struct io_id_parts, path)},
    {"stem", offsetof(struct io_id_parts, stem)},   {"dataset", offsetof(struct io_id_parts, dataset)},
    {"topic", offsetof(struct io_id_parts, topic)}, {"stream", offsetof(struct io_id_parts, stream)},
};

/* The part that the name of `len` bytes stands for, or NULL. */
static const char *part(const struct io_id_parts *parts, const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strlen(names[i].name) == len && !memcmp(names[i].name, name, len)) {
            const char *value;
            memcpy(&value, (const char *)parts + names[i].offset, sizeof value);
            return value;
        }
    }
    return NULL;
}

int io_id_check(const char *template_, const struct io_id_parts *usable, char *reterr)
{
    const char *p = template_;

    if (!*p) {
        snprintf(reterr, IO_ERR, "the template is empty");
        return -EINVAL;
    }
    while ((p = strpbrk(p, "{}"))) {
        const char *end = *p == '{' ? strpbrk(p + 1, "{}") : NULL;
        if (!end || *end != '}') {
            snprintf(reterr, IO_ERR, "unbalanced brace in \"%s\"", template_);
            return -EINVAL;
        }
        if (!part(usable, p + 1, (size_t)(end - p - 1))) {
            snprintf(reterr, IO_ERR, "this type of input has no %.*s", (int)(end - p + 1), p);
            return -EINVAL;
        }
        p = end + 1;
    }
    return 0;
}

static int append(char *out, size_t *len, const char *text, size_t n)
{
    if (n > IO_ID_MAX - *len)
        return -ENAMETOOLONG;
    memcpy(out + *len, text, n);
    *len += n;
    return 0;
}

int io_id_expand(const char *template_, const struct io_id_parts *parts, char *out)
{
    size_t len = 0;
    int r = 0;

    for (const char *p = template_; *p && !r;) {
        const char *end = *p == '{' ? strchr(p, '}') : NULL;
        if (end) {
            const char *value = part(parts, p + 1, (size_t)(end - p - 1));
            r = value ? append(out, &len, value, strlen(value)) : -EINVAL;
            p = end + 1;
        } else {
            size_t n = strcspn(p + 1, "{") + 1;
            r = append(out, &len, p, n);
            p += n;
        }
    }
    out[len] = '\0';
    return r ? r : io_id_valid(out, len) ? 0 : -EINVAL;
}
