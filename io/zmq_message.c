/* zmq_message.c: see zmq_message.h. The frames stay in libzmq's buffers; rows are copied once, into blocks.
 *
 * Trap: nothing in a message may be believed before it was compared with the size of the frame it speaks about. */
#include "io/zmq_message.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "io/gnuradio.h"

void io_zmq_message_init(struct io_zmq_message *m)
{
    for (unsigned i = 0; i < IO_ZMQ_FRAMES; i++)
        zmq_msg_init(&m->frames[i]);
    m->n_frames = 0;
}

void io_zmq_message_done(struct io_zmq_message *m)
{
    for (unsigned i = 0; i < IO_ZMQ_FRAMES; i++)
        zmq_msg_close(&m->frames[i]);
}

int io_zmq_message_receive(struct io_zmq_message *m, void *socket)
{
    zmq_msg_t *frame;

    m->n_frames = 0;
    m->bytes = m->longest = 0;
    do {
        /* a sender of too many frames loses them into the last slot, and the message is refused by their number */
        frame = &m->frames[m->n_frames < IO_ZMQ_FRAMES ? m->n_frames : IO_ZMQ_FRAMES - 1];
        while (zmq_msg_recv(frame, socket, ZMQ_DONTWAIT) < 0) {
            if (errno != EINTR)
                return -errno;
        }
        m->n_frames++;
        m->bytes += zmq_msg_size(frame);
        m->longest = zmq_msg_size(frame) > m->longest ? zmq_msg_size(frame) : m->longest;
    } while (zmq_msg_more(frame));
    return 0;
}

int64_t io_zmq_later(int64_t t_ns, double ns)
{
    int64_t sum;

    if (t_ns == IO_T_NONE || !(fabs(ns) < 9e18) || __builtin_add_overflow(t_ns, llround(ns), &sum))
        return IO_T_NONE;
    return sum;
}

static int refuse(enum io_reason why, const char *text, enum io_reason *ret_why, const char **ret_text)
{
    *ret_why = why;
    *ret_text = text;
    return -EBADMSG;
}

/* A topic matters only where the id comes from it, so a strange one is not yet an error. */
static void read_topic(struct io_zmq_message *m)
{
    const char *text = zmq_msg_data(&m->frames[0]);
    size_t len = zmq_msg_size(&m->frames[0]);

    if (len && text[len - 1] == '/')
        len--;
    m->topic_bad = len && !io_id_valid(text, len);
    if (m->topic_bad)
        len = 0;
    memcpy(m->topic, text, len);
    m->topic[len] = '\0';
}

/* Holds n·channels·bytes against what arrived; sizes from a header may overflow, so they are divided. */
static int read_size(struct io_zmq_message *m, size_t size, enum io_reason *ret_why, const char **ret_text)
{
    uint64_t channels = m->header.ndim == 2 ? m->header.shape[1] : 1;
    size_t item = io_dtype_bytes(m->header.dtype);

    if (channels > (IO_BLOCK_MAX - 16) / 16)
        return refuse(IO_R_SHAPE, "too many channels", ret_why, ret_text);
    if (size % (item * channels) || size / (item * channels) != m->header.shape[0])
        return refuse(IO_R_SHAPE, "the payload is not as long as shape and dtype say", ret_why, ret_text);
    m->n = m->header.shape[0];
    m->channels = (uint32_t)channels;
    return 0;
}

static int read_array(struct io_zmq_message *m, enum io_reason *ret_why, const char **ret_text)
{
    static const char shape[] = "the message is none of header, payload; topic, header, payload; and these with times";
    const char *first = zmq_msg_data(&m->frames[0]);
    unsigned at = zmq_msg_size(&m->frames[0]) && *first == '{' ? 0 : 1;
    int r;

    if (m->n_frames > IO_ZMQ_FRAMES || m->n_frames < at + 2)
        return refuse(IO_R_MALFORMED, shape, ret_why, ret_text);
    if (zmq_msg_size(&m->frames[at]) > IO_HEADER_MAX)
        return refuse(IO_R_SIZE, "the header is longer than 64 KiB", ret_why, ret_text);
    if (at)
        read_topic(m);
    r = io_header_parse(zmq_msg_data(&m->frames[at]), zmq_msg_size(&m->frames[at]), &m->header, ret_why, ret_text);
    if (!r)
        r = read_size(m, zmq_msg_size(&m->frames[at + 1]), ret_why, ret_text);
    if (r)
        return r;
    if (m->n_frames != at + 2u + (m->header.rate == 0))
        return refuse(IO_R_MALFORMED, m->header.rate == 0 ? "rate is 0 and there is no frame of times" : shape, ret_why,
                      ret_text);
    m->payload = zmq_msg_data(&m->frames[at + 1]);
    if (m->header.rate == 0) {
        if (zmq_msg_size(&m->frames[at + 2]) != m->n * sizeof(int64_t))
            return refuse(IO_R_SHAPE, "the frame of times is not one int64 per row", ret_why, ret_text);
        m->times = zmq_msg_data(&m->frames[at + 2]);
    }
    return 0;
}

/* gnuradio with tags: a header precedes the items, and says which is the first. */
static int read_tags(struct io_zmq_message *m, size_t *size, enum io_reason *ret_why, const char **ret_text)
{
    uint64_t first;
    size_t bytes;

    if (io_gnuradio_header(m->payload, *size, &first, &bytes))
        return refuse(IO_R_MALFORMED, "no header of gr-zeromq's pass_tags, or not all of it", ret_why, ret_text);
    if (first >= UINT64_C(1) << 62)
        return refuse(IO_R_MALFORMED, "the first item's number is beyond 2^62", ret_why, ret_text);
    m->header.seq = (int64_t)first;
    m->payload += bytes;
    *size -= bytes;
    return 0;
}

/* raw, bytes and gnuradio: what the input's config says stands in for the header. */
static int read_headless(struct io_zmq_message *m, const struct io_zmq_layout *l, enum io_reason *ret_why,
                         const char **ret_text)
{
    bool bytes = l->format == IO_ZMQ_BYTES;
    zmq_msg_t *payload = &m->frames[l->topic];
    uint32_t channels = bytes ? 1 : l->channels;
    enum io_dtype dtype = bytes ? IO_D_U8 : l->dtype;
    size_t size = zmq_msg_size(payload);

    if (m->n_frames != 1u + l->topic)
        return refuse(IO_R_MALFORMED, l->topic ? "the message is not topic, payload" : "the message is not one frame",
                      ret_why, ret_text);
    if (l->topic)
        read_topic(m);
    m->header = (struct io_header){.dtype = dtype, .ndim = 2, .seq = IO_SEQ_NONE, .t_ns = IO_T_NONE, .rate = -1};
    m->payload = zmq_msg_data(payload);
    if (l->tags && read_tags(m, &size, ret_why, ret_text))
        return -EBADMSG;
    m->header.shape[0] = size / (io_dtype_bytes(dtype) * channels);
    m->header.shape[1] = channels;
    return read_size(m, size, ret_why, ret_text);
}

int io_zmq_message_read(struct io_zmq_message *m, const struct io_zmq_layout *layout, enum io_reason *ret_why,
                        const char **ret_text)
{
    m->topic[0] = '\0';
    m->topic_bad = false;
    m->times = NULL;
    m->n = 0;
    if (layout->format == IO_ZMQ_ARRAY)
        return read_array(m, ret_why, ret_text);
    return read_headless(m, layout, ret_why, ret_text);
}
