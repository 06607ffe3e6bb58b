/* tail_json.c: header text is passed on as it came; the payload's floats are written by its shape. */
#include "tools/tail_json.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

/* The header's shape, if the header is an object and the payload as long as the shape says. */
static int read_shape(const struct tail_message *msg, uint32_t shape[4], unsigned *ret_ndim)
{
    json_t *root = json_loadb(msg->header, msg->header_len, 0, NULL), *v;
    const json_t *array = json_object_get(root, "shape");
    size_t values = 1, n = json_array_size(array), i;

    json_array_foreach(array, i, v)
    {
        json_int_t k = json_integer_value(v);
        if (i >= 4 || k < 0 || k > 1 << 24 || values > (size_t)1 << 32) {
            n = 0;
            break;
        }
        shape[i] = (uint32_t)k;
        values *= (size_t)k;
    }
    json_decref(root);
    *ret_ndim = (unsigned)n;
    return n && values * sizeof(float) == msg->bytes ? 0 : -EBADMSG;
}

static const char *write_array(FILE *out, const uint32_t *shape, unsigned ndim, const char *x)
{
    char text[24];
    float v;

    putc('[', out);
    for (uint32_t i = 0; i < shape[0]; i++) {
        if (i)
            putc(',', out);
        if (ndim > 1) {
            x = write_array(out, shape + 1, ndim - 1, x);
            continue;
        }
        memcpy(&v, x, sizeof v);
        x += sizeof v;
        fwrite(text, 1, io_float_write(text, v), out);
    }
    putc(']', out);
    return x;
}

static bool plain_topic(const struct tail_message *msg)
{
    for (size_t i = 0; i < msg->topic_len; i++)
        if (msg->topic[i] < 0x20 || msg->topic[i] > 0x7e || msg->topic[i] == '"' || msg->topic[i] == '\\')
            return false;
    return true;
}

int tail_json_line(FILE *out, const struct tail_message *msg)
{
    uint32_t shape[4];
    unsigned ndim;
    size_t len = msg->header_len;

    if (!plain_topic(msg) || len < 3 || msg->header[0] != '{' || msg->header[len - 1] != '}' ||
        memchr(msg->header, '\n', len) || read_shape(msg, shape, &ndim))
        return -EBADMSG;
    fprintf(out, "{\"topic\":\"%.*s\",%.*s,\"data\":", (int)msg->topic_len, msg->topic, (int)len - 2, msg->header + 1);
    write_array(out, shape, ndim, msg->payload);
    fputs("}\n", out);
    return 0;
}
