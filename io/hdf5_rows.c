/* hdf5_rows.c: the rows of the HDF5 sink's tables as HDF5 types, from one list of columns. The file has the layout of
 * the structs, so that libhdf5 copies rows without converting them. Runs on the thread that calls libhdf5. */
#include "io/hdf5_rows.h"

enum kind { I32, U32, U16, U8, I64, F32, F64, EVENT, REASON };

struct column {
    const char *name;
    size_t offset;
    enum kind kind;
};

#define STAMP(field, kind)                                                                                             \
    {                                                                                                                  \
#field, offsetof(struct io_hdf5_stamp, field), kind                                                            \
    }
static const struct column stamp[] = {
    STAMP(stream, U32),  STAMP(epoch, U32), STAMP(seq, I64),  STAMP(t_ns, I64),
    STAMP(out_seq, I64), STAMP(warmup, U8), STAMP(exact, U8), {0},
};
static const struct column channel[] = {STAMP(channel, I32), {0}};

#define PREDICTION(field, kind)                                                                                        \
    {                                                                                                                  \
#field, offsetof(struct io_hdf5_prediction, field), kind                                                       \
    }
static const struct column prediction[] = {
    PREDICTION(horizon, U16), PREDICTION(quantiles, U16), PREDICTION(levels, U32), {0}};

static const struct column embedding[] = {{"span", offsetof(struct io_hdf5_embedding, span), I64}, {0}};

#define ANOMALY(field, kind)                                                                                           \
    {                                                                                                                  \
#field, offsetof(struct io_hdf5_anomaly, field), kind                                                          \
    }
static const struct column anomaly[] = {
    ANOMALY(score, F32), ANOMALY(p_value, F32), ANOMALY(surprise, F32), ANOMALY(span, U32), {0}};

static const struct column surprise[] = {{"surprise", offsetof(struct io_hdf5_surprise, surprise), F32}, {0}};

#define EVENT_(field, kind)                                                                                            \
    {                                                                                                                  \
#field, offsetof(struct io_hdf5_event, field), kind                                                            \
    }
static const struct column event[] = {
    EVENT_(event, EVENT),
    EVENT_(reason, REASON),
    EVENT_(from_seq, I64),
    EVENT_(to_seq, I64),
    EVENT_(count, I64),
    EVENT_(bridged, U8),
    {0},
};

#define LAST(family) offsetof(struct io_hdf5_sys, last_out_seq) + (family) * sizeof(int64_t)
static const struct column sys[] = {
    {"uptime_s", offsetof(struct io_hdf5_sys, uptime_s), F64},
    {"prediction", LAST(IO_PREDICTION), I64},
    {"embedding", LAST(IO_EMBEDDING), I64},
    {"anomaly", LAST(IO_ANOMALY), I64},
    {"channel_anomaly", LAST(IO_CHANNEL_ANOMALY), I64},
    {"surprise", LAST(IO_SURPRISE), I64},
    {0},
};

static const struct {
    size_t bytes;
    const struct column *parts[3];
} families[IO_FAMILIES] = {
    [IO_PREDICTION] = {sizeof(struct io_hdf5_prediction), {stamp, channel, prediction}},
    [IO_EMBEDDING] = {sizeof(struct io_hdf5_embedding), {stamp, channel, embedding}},
    [IO_ANOMALY] = {sizeof(struct io_hdf5_anomaly), {stamp, anomaly}},
    [IO_CHANNEL_ANOMALY] = {sizeof(struct io_hdf5_anomaly), {stamp, channel, anomaly}},
    [IO_SURPRISE] = {sizeof(struct io_hdf5_surprise), {stamp, surprise}},
    [IO_EVENT] = {sizeof(struct io_hdf5_event), {stamp, event}},
    [IO_SYS] = {sizeof(struct io_hdf5_sys), {sys}},
};

hid_t io_hdf5_rows_text(size_t bytes)
{
    hid_t t = H5Tcopy(H5T_C_S1);

    H5Tset_size(t, bytes);
    if (bytes != H5T_VARIABLE)
        H5Tset_strpad(t, H5T_STR_NULLPAD);
    H5Tset_cset(t, H5T_CSET_UTF8);
    return t;
}

static void insert(hid_t row, const struct column *c)
{
    const hid_t numbers[] = {
        [I32] = H5T_NATIVE_INT32, [U32] = H5T_NATIVE_UINT32, [U16] = H5T_NATIVE_UINT16, [U8] = H5T_NATIVE_UINT8,
        [I64] = H5T_NATIVE_INT64, [F32] = H5T_NATIVE_FLOAT,  [F64] = H5T_NATIVE_DOUBLE,
    };

    if (c->kind < EVENT) {
        H5Tinsert(row, c->name, c->offset, numbers[c->kind]);
    } else {
        hid_t text = io_hdf5_rows_text(c->kind == EVENT ? IO_HDF5_EVENT : IO_HDF5_REASON);
        H5Tinsert(row, c->name, c->offset, text);
        H5Tclose(text);
    }
}

hid_t io_hdf5_rows_type(enum io_family family)
{
    hid_t row = H5Tcreate(H5T_COMPOUND, families[family].bytes);

    for (unsigned i = 0; i < 3 && families[family].parts[i]; i++)
        for (const struct column *c = families[family].parts[i]; c->name; c++)
            insert(row, c);
    return row;
}

hid_t io_hdf5_rows_stream_info(void)
{
    hid_t row = H5Tcreate(H5T_COMPOUND, sizeof(struct io_hdf5_stream_info)), text = io_hdf5_rows_text(IO_HDF5_MODEL);

    H5Tinsert(row, "model", offsetof(struct io_hdf5_stream_info, model), text);
    H5Tinsert(row, "rate", offsetof(struct io_hdf5_stream_info, rate), H5T_NATIVE_DOUBLE);
    H5Tclose(text);
    return row;
}
