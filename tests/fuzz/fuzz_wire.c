/* fuzz_wire.c: messages of every format. Input: a byte that chooses the format and what the input's configuration says
 * of raw samples, then frames, each behind its length in one byte (255: the rest). Rows that were accepted are
 * converted. */
#include <stdlib.h>
#include <string.h>

#include "io/zmq_message.h"
#include "tests/fuzz/fuzz.h"

static void convert(const struct io_zmq_message *m)
{
    enum io_sample type = io_dtype_sample(m->header.dtype);
    size_t values = (size_t)m->n * m->channels;
    void *to = malloc(values * io_sample_bytes(type) + 1);

    io_rows_convert(to, type, m->payload, m->header.dtype, values, 2.0, 1.0);
    free(to);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct io_zmq_message m;
    struct io_zmq_layout layout = {.channels = 1};
    enum io_reason why = IO_R_COUNT;
    const char *text = NULL;

    if (size < 1)
        return 0;
    layout.format = data[0] % 3;
    layout.topic = data[0] / 3 % 2;
    layout.dtype = data[0] / 6 % 7;
    layout.channels = 1 + data[0] / 42;
    if (data[0] >= 252)
        layout = (struct io_zmq_layout){IO_ZMQ_GNURADIO, IO_D_F32, 1, data[0] % 2, data[0] < 254};
    io_zmq_message_init(&m);
    for (size_t at = 1; at < size && m.n_frames < IO_ZMQ_FRAMES; m.n_frames++) {
        size_t left = size - at - 1, n = data[at] == 255 || data[at] > left ? left : data[at];
        zmq_msg_close(&m.frames[m.n_frames]);
        zmq_msg_init_size(&m.frames[m.n_frames], n);
        memcpy(zmq_msg_data(&m.frames[m.n_frames]), data + at + 1, n);
        m.bytes += n;
        at += 1 + n;
    }
    int r = io_zmq_message_read(&m, &layout, &why, &text);
    if (r && (why >= IO_R_COUNT || !text))
        abort(); /* refused without a reason */
    if (r == 0 && layout.format == IO_ZMQ_ARRAY)
        convert(&m);
    io_zmq_message_done(&m);
    return 0;
}
