/* hdf5_rows.h: what a row of each of the HDF5 sink's tables holds. Pure data; the types only on the thread that calls
 * libhdf5. Predictions and embeddings have their numbers in a dataset beside the table, row by row. */
#ifndef IO_HDF5_ROWS_H
#define IO_HDF5_ROWS_H

#include <hdf5.h>

#include "io/sink.h"

enum { IO_HDF5_MODEL = 64, IO_HDF5_EVENT = 16, IO_HDF5_REASON = 96 };

struct io_hdf5_stamp { /* first in every row but sys */
    uint32_t stream;   /* index into /streams */
    uint32_t epoch;
    int64_t seq;
    int64_t t_ns; /* INT64_MIN: unknown (numpy's and pandas' NaT) */
    int64_t out_seq;
    int32_t channel;
    uint8_t warmup, exact;
};

struct io_hdf5_prediction {
    struct io_hdf5_stamp at;
    uint16_t horizon, quantiles; /* how much of the row of prediction_values is filled */
    uint32_t levels;             /* which quantiles: index into /quantiles */
};

struct io_hdf5_embedding {
    struct io_hdf5_stamp at;
    int64_t span; /* samples that it is about */
};

struct io_hdf5_anomaly { /* channel_anomaly too */
    struct io_hdf5_stamp at;
    float score, p_value, surprise;
    uint32_t span; /* rows that it is about: 1, of a byte stream those of a record */
};

struct io_hdf5_surprise {
    struct io_hdf5_stamp at;
    float surprise;
};

struct io_hdf5_event {
    struct io_hdf5_stamp at;
    char event[IO_HDF5_EVENT], reason[IO_HDF5_REASON];
    int64_t from_seq, to_seq; /* INT64_MIN: left out */
    int64_t count;            /* −1: left out */
    uint8_t bridged;
};

struct io_hdf5_sys {
    double uptime_s;
    int64_t last_out_seq[IO_FAMILIES];
};

struct io_hdf5_stream_info { /* row i belongs to row i of /streams */
    char model[IO_HDF5_MODEL];
    double rate; /* Hz; 0: irregular */
};

/* The table's row type; the caller's (H5Tclose). */
hid_t io_hdf5_rows_type(enum io_family family);
hid_t io_hdf5_rows_stream_info(void);
hid_t io_hdf5_rows_text(size_t bytes); /* UTF-8, zero-padded; or H5T_VARIABLE */

#endif
