/* wire_message.c: topics and headers of published messages. Called for every message by every sink: plain copies of
 * literals and numbers, no printf, no allocation.
 *
 * Trap: the order of keys and the text of numbers are part of promise 1 (outputs are bitwise reproducible). */
#include "io/wire.h"

#include "io/json_write.h"
#include "io/utf8.h"

enum { NAME_MAX_BYTES = 128, TEXT_MAX_BYTES = 256 }; /* model and reason; keeps every header below IO_JSON_MAX */

static bool topic_plain(unsigned char c)
{
    unsigned char lower = c | 0x20;
    return (lower >= 'a' && lower <= 'z') || (c >= '0' && c <= ':') || c == '_' || c == '-' || c == '.';
}

size_t io_topic_write(char *buf, enum io_family family, const char *id)
{
    static const char hex[] = "0123456789ABCDEF";
    const char *name = io_family_name(family);
    size_t len = strlen(name);
    char *p = buf + len;

    memcpy(buf, name, len);
    *p++ = '/';
    for (; *id; id++) {
        unsigned char c = (unsigned char)*id;
        if (topic_plain(c)) {
            *p++ = (char)c;
        } else {
            *p++ = '%';
            *p++ = hex[c >> 4];
            *p++ = hex[c & 15];
        }
    }
    *p++ = '/';
    *p = '\0';
    return (size_t)(p - buf);
}

/* Characters that stand for themselves in a JSON string and need no look at their neighbours. */
static size_t plain_run(const char *p, const char *end)
{
    const char *from = p;

    while (p < end && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x7f && *p != '"' && *p != '\\')
        p++;
    return (size_t)(p - from);
}

static void escaped(struct io_out *o, unsigned char c)
{
    char text[] = "\\u0000";

    if (c == '"' || c == '\\') {
        text[1] = (char)c;
        io_out_bytes(o, text, 2);
        return;
    }
    text[4] = (char)('0' + (c >> 4));
    text[5] = "0123456789abcdef"[c & 15];
    io_out_bytes(o, text, 6);
}

void io_out_string(struct io_out *o, const char *text, size_t max)
{
    const char *end = text + strnlen(text, max);
    bool cut = (size_t)(end - text) == max;

    IO_OUT_LIT(o, "\"");
    while (text < end) {
        size_t n = plain_run(text, end);
        uint32_t c;
        io_out_bytes(o, text, n);
        text += n;
        if (text == end)
            break;
        n = io_utf8_step(text, (size_t)(end - text), &c);
        if (!n && cut && end - text < 4)
            break; /* the cut fell into a character */
        if (!n)
            IO_OUT_LIT(o, "\xef\xbf\xbd");
        else if (n > 1)
            io_out_bytes(o, text, n);
        else
            escaped(o, (unsigned char)*text);
        text += n ? n : 1;
    }
    IO_OUT_LIT(o, "\"");
}

/* ---- groups of keys ---- */

static void write_seq(struct io_out *o, int64_t seq)
{
    if (seq == IO_SEQ_NONE)
        IO_OUT_LIT(o, "null");
    else
        io_out_i64(o, seq);
}

static void write_t_ns(struct io_out *o, int64_t t_ns)
{
    IO_OUT_LIT(o, ",\"t_ns\":");
    if (t_ns == IO_T_NONE) {
        IO_OUT_LIT(o, "null");
        return;
    }
    IO_OUT_LIT(o, "\"");
    io_out_i64(o, t_ns);
    IO_OUT_LIT(o, "\"");
}

static void write_position(struct io_out *o, const struct io_message *m)
{
    IO_OUT_LIT(o, ",\"epoch\":");
    io_out_u64(o, m->epoch);
    IO_OUT_LIT(o, ",\"seq\":");
    write_seq(o, m->seq);
    if (m->spans) {
        IO_OUT_LIT(o, ",\"stride\":null,\"span\":null");
    } else {
        IO_OUT_LIT(o, ",\"stride\":");
        io_out_i64(o, m->stride);
        IO_OUT_LIT(o, ",\"span\":");
        io_out_i64(o, m->span);
    }
    write_t_ns(o, m->t_ns);
    IO_OUT_LIT(o, ",\"rate\":");
    io_out_real(o, m->rate);
    IO_OUT_LIT(o, ",\"out_seq\":");
    io_out_u64(o, m->out_seq);
}

/* An empty payload has shape [0], so that a generic receiver's reshape() works on it too. */
static void write_shape(struct io_out *o, const struct io_message *m)
{
    IO_OUT_LIT(o, ",\"dtype\":\"float32\",\"shape\":[");
    for (uint32_t i = 0; i < m->ndim; i++) {
        if (i)
            IO_OUT_LIT(o, ",");
        io_out_u64(o, m->shape[i]);
    }
    if (m->ndim == 0)
        IO_OUT_LIT(o, "0");
    IO_OUT_LIT(o, "]");
}

static void write_spans(struct io_out *o, const struct io_message *m)
{
    IO_OUT_LIT(o, ",\"spans\":[");
    for (uint32_t i = 0; i < m->shape[0]; i++) {
        if (i)
            IO_OUT_LIT(o, ",");
        io_out_u64(o, m->spans[i]);
    }
    IO_OUT_LIT(o, "]");
}

static void write_columns(struct io_out *o, const struct io_message *m)
{
    if (m->spans)
        write_spans(o, m);
    if (m->family == IO_ANOMALY || m->family == IO_CHANNEL_ANOMALY)
        IO_OUT_LIT(o, ",\"columns\":[\"score\",\"p_value\",\"surprise\"]");
    if (m->family != IO_PREDICTION || !m->n_quantiles)
        return;
    IO_OUT_LIT(o, ",\"quantiles\":[");
    for (uint32_t i = 0; i < m->n_quantiles; i++) {
        if (i)
            IO_OUT_LIT(o, ",");
        io_out_level(o, m->quantiles[i]);
    }
    IO_OUT_LIT(o, "]");
}

static void write_event(struct io_out *o, const struct io_message *m)
{
    IO_OUT_LIT(o, ",\"event\":");
    io_out_string(o, m->event, NAME_MAX_BYTES);
    if (m->reason) {
        IO_OUT_LIT(o, ",\"reason\":");
        io_out_string(o, m->reason, TEXT_MAX_BYTES);
    }
    if (m->from_seq != IO_SEQ_NONE) {
        IO_OUT_LIT(o, ",\"from_seq\":");
        io_out_i64(o, m->from_seq);
    }
    if (m->to_seq != IO_SEQ_NONE) {
        IO_OUT_LIT(o, ",\"to_seq\":");
        io_out_i64(o, m->to_seq);
    }
    if (m->count >= 0) {
        IO_OUT_LIT(o, ",\"count\":");
        io_out_i64(o, m->count);
    }
    if (m->bridged)
        IO_OUT_LIT(o, ",\"bridged\":true");
}

static void write_sys(struct io_out *o, const struct io_message *m)
{
    IO_OUT_LIT(o, ",\"uptime_s\":");
    io_out_real(o, m->uptime_s);
    if (!m->last_out_seq)
        return;
    IO_OUT_LIT(o, ",\"last_out_seq\":{");
    for (unsigned f = 0; f < IO_EVENT; f++) {
        const char *name = io_family_name((enum io_family)f);
        if (f)
            IO_OUT_LIT(o, ",");
        io_out_string(o, name, NAME_MAX_BYTES);
        IO_OUT_LIT(o, ":");
        io_out_u64(o, m->last_out_seq[f]);
    }
    IO_OUT_LIT(o, "}");
}

static void write_delivery(struct io_out *o, const struct io_message *m)
{
    if (m->warmup)
        IO_OUT_LIT(o, ",\"warmup\":true");
    else
        IO_OUT_LIT(o, ",\"warmup\":false");
    IO_OUT_LIT(o, ",\"latency_us\":");
    io_out_i64(o, m->latency_us);
    if (!m->exact)
        IO_OUT_LIT(o, ",\"exact\":false");
}

size_t io_message_json(char *buf, size_t cap, const struct io_message *m)
{
    struct io_out o = {.p = buf, .end = buf + cap};

    IO_OUT_LIT(&o, "{\"v\":1,\"stream\":");
    io_out_string(&o, m->stream, IO_ID_MAX);
    if (m->model) {
        IO_OUT_LIT(&o, ",\"model\":");
        io_out_string(&o, m->model, NAME_MAX_BYTES);
    }
    IO_OUT_LIT(&o, ",\"run\":");
    io_out_u64(&o, m->run);
    if (m->family == IO_SYS) {
        write_sys(&o, m);
        write_shape(&o, m);
    } else {
        write_position(&o, m);
        if (m->family == IO_EVENT)
            write_event(&o, m);
        write_shape(&o, m);
        write_columns(&o, m);
        write_delivery(&o, m);
    }
    IO_OUT_LIT(&o, "}");
    return o.full ? 0 : (size_t)(o.p - buf);
}
