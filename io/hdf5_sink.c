/* hdf5_sink.c: the `hdf5` output: messages as rows of tables. Runs on the one libhdf5 thread; owns its segment and what
 * it remembers of streams and quantiles.
 *
 * A failure (a full disk) is final: the text is kept for close(), later calls return the same code and touch nothing.
 */
#include <errno.h>
#include <math.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/hdf5_error.h"
#include "io/hdf5_rows.h"
#include "io/hdf5_segment.h"

struct conf {
    char *path;
};

struct stream {
    uint32_t index;
    char id[IO_ID_MAX + 1];
};

struct sink {
    struct io_hdf5_segment seg;
    void *streams; /* search tree of struct stream by id */
    uint32_t n_streams;
    float *levels; /* [n_levels][quantiles_max], NaN beyond a set's own */
    uint32_t n_levels, quantiles_max, horizon_max, embedding_max;
    int failed; /* 0, or negative errno */
    char why[IO_ERR];
};

static const struct io_option options[] = {
    {"path", "PATH-000001.h5 and so on, one file a run; a name ending in .h5 is one file, which must not exist",
     IO_OPT_STRING, offsetof(struct conf, path), .required = true, .sole = "series of files"},
    {0},
};

static int check(const void *conf, bool resumes, const char **ret_key, char *reterr)
{
    const struct conf *c = conf;
    size_t len = strlen(c->path);

    *ret_key = "path";
    if (len == 0 || c->path[len - 1] == '/')
        snprintf(reterr, IO_ERR, "needs a file name");
    else if (resumes && len > 3 && strcmp(c->path + len - 3, ".h5") == 0)
        snprintf(reterr, IO_ERR, "with `state` each start needs a file of its own: give a name without .h5");
    else
        return 0;
    return -EINVAL;
}

/* ---- what rows refer to ----------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct stream *)a)->id, ((const struct stream *)b)->id);
}

/* Makes room for a row in each of two tables (`b` may be NULL) before either gets one: what is buffered goes out
 * together. */
static int make_room(struct sink *s, const struct io_hdf5_table *a, const struct io_hdf5_table *b)
{
    bool full = io_hdf5_table_full(a) || (b && io_hdf5_table_full(b));

    return full ? io_hdf5_segment_write(&s->seg, false, s->why) : 0;
}

static void fill_text(char *out, size_t cap, const char *text)
{
    size_t n = text ? strlen(text) : 0;

    if (n > cap) /* cut between characters */
        for (n = cap; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80;)
            n--;
    memcpy(out, text ? text : "", n);
}

/* Enters a stream. */
static int add_stream(struct sink *s, const struct io_message *m, struct stream *new)
{
    int r = make_room(s, &s->seg.streams, &s->seg.stream_info);
    if (r)
        return r;
    char *id = io_hdf5_table_add(&s->seg.streams);
    struct io_hdf5_stream_info *info = io_hdf5_table_add(&s->seg.stream_info);
    fill_text(id, IO_ID_MAX, m->stream);
    fill_text(info->model, sizeof info->model, m->model);
    info->rate = m->rate;
    new->index = s->n_streams++;
    return 0;
}

/* The index of the message's stream. */
static int find_stream(struct sink *s, const struct io_message *m, uint32_t *ret)
{
    struct stream key = {0}, **found, *new;

    snprintf(key.id, sizeof key.id, "%s", m->stream);
    found = tfind(&key, &s->streams, by_id);
    if (found) {
        *ret = (*found)->index;
        return 0;
    }
    new = malloc(sizeof *new);
    int r = new ? add_stream(s, m, &key) : -ENOMEM;
    if (r == 0) {
        *new = key;
        r = tsearch(new, &s->streams, by_id) ? 0 : -ENOMEM;
    }
    if (r)
        free(new);
    *ret = key.index;
    return r;
}

/* The index of a set of quantiles; a new one is entered. */
static int find_levels(struct sink *s, const float *quantiles, uint32_t n, uint32_t *ret)
{
    size_t bytes = s->quantiles_max * sizeof(float);

    for (uint32_t i = 0; i < s->n_levels; i++) {
        const float *known = s->levels + (size_t)i * s->quantiles_max;
        if (memcmp(known, quantiles, n * sizeof(float)) == 0 && (n == s->quantiles_max || isnan(known[n]))) {
            *ret = i;
            return 0;
        }
    }
    float *grown = realloc(s->levels, (s->n_levels + 1) * bytes);
    if (!grown)
        return -ENOMEM;
    s->levels = grown;
    int r = make_room(s, &s->seg.quantiles, NULL);
    if (r)
        return r;
    float *new = s->levels + (size_t)s->n_levels * s->quantiles_max;
    for (uint32_t q = 0; q < s->quantiles_max; q++)
        new[q] = q < n ? quantiles[q] : NAN;
    memcpy(io_hdf5_table_add(&s->seg.quantiles), new, bytes);
    *ret = s->n_levels++;
    return 0;
}

/* ---- messages as rows ------------------------------------------------------------------------------------- */

/* Of row i, which is `ahead` samples behind the message's first. */
static int64_t row_time(const struct io_message *m, uint32_t i, int64_t ahead)
{
    if (m->times)
        return m->times[i];
    if (m->t_ns == IO_T_NONE || i == 0)
        return m->t_ns;
    return m->rate > 0 ? m->t_ns + llround((double)ahead * 1e9 / m->rate) : IO_T_NONE;
}

static struct io_hdf5_stamp stamp(const struct io_message *m, uint32_t stream, uint32_t i, uint32_t channel)
{
    return (struct io_hdf5_stamp){
        .stream = stream,
        .epoch = m->epoch,
        .seq = m->seq + (int64_t)i * m->stride,
        .t_ns = row_time(m, i, (int64_t)i * m->stride),
        .out_seq = (int64_t)m->out_seq + i,
        .channel = (int32_t)channel,
        .warmup = m->warmup,
        .exact = m->exact,
    };
}

/* [n][channels][horizon][quantiles]; a byte model's [n][256] is a horizon of one. */
static int write_prediction(struct sink *s, const struct io_message *m, uint32_t stream)
{
    struct io_hdf5_table *table = &s->seg.tables[IO_PREDICTION], *numbers = &s->seg.predictions;
    uint32_t channels = m->ndim == 4 ? m->shape[1] : 1, horizon = m->ndim == 4 ? m->shape[2] : 1;
    uint32_t n_q = m->shape[m->ndim - 1], levels = 0;
    const float *from = m->data;
    int r = m->n_quantiles == n_q ? find_levels(s, m->quantiles, n_q, &levels) : 0;

    for (uint32_t k = 0; k < m->shape[0] * channels && r == 0; k++) {
        r = make_room(s, table, numbers);
        if (r)
            break;
        struct io_hdf5_prediction *row = io_hdf5_table_add(table);
        *row = (struct io_hdf5_prediction){stamp(m, stream, k / channels, k % channels), (uint16_t)horizon,
                                           (uint16_t)n_q, levels};
        float *to = io_hdf5_table_add(numbers);
        for (uint32_t h = 0; h < s->horizon_max; h++)
            for (uint32_t q = 0; q < s->quantiles_max; q++)
                *to++ = h < horizon && q < n_q ? *from++ : NAN;
    }
    return r;
}

static int write_embedding(struct sink *s, const struct io_message *m, uint32_t stream)
{
    struct io_hdf5_table *table = &s->seg.tables[IO_EMBEDDING], *numbers = &s->seg.embeddings;
    uint32_t channels = m->shape[1], dim = m->shape[2];
    int r = 0;

    for (uint32_t k = 0; k < m->shape[0] * channels; k++) {
        r = make_room(s, table, numbers);
        if (r)
            break;
        struct io_hdf5_embedding *row = io_hdf5_table_add(table);
        *row = (struct io_hdf5_embedding){stamp(m, stream, k / channels, k % channels), m->span};
        float *to = io_hdf5_table_add(numbers);
        memcpy(to, m->data + (size_t)k * dim, dim * sizeof *to);
        for (uint32_t d = dim; d < s->embedding_max; d++)
            to[d] = NAN;
    }
    return r;
}

/* [n][3], of a byte stream one a record, and channel_anomaly's [n][channels][3] */
static int write_anomaly(struct sink *s, const struct io_message *m, uint32_t stream)
{
    struct io_hdf5_table *table = &s->seg.tables[m->family];
    uint32_t channels = m->ndim == 3 ? m->shape[1] : 1;
    int64_t ahead = 0;
    int r = 0;

    for (uint32_t k = 0; k < m->shape[0] * channels && r == 0; k++) {
        const float *v = m->data + 3 * (size_t)k;
        r = make_room(s, table, NULL);
        if (r)
            break;
        struct io_hdf5_anomaly *row = io_hdf5_table_add(table);
        *row = (struct io_hdf5_anomaly){stamp(m, stream, k / channels, k % channels), v[0], v[1], v[2], 1};
        if (!m->spans)
            continue;
        row->at.seq = m->seq + ahead;
        row->at.t_ns = row_time(m, k, ahead);
        row->span = m->spans[k];
        ahead += row->span;
    }
    return r;
}

static int write_surprise(struct sink *s, const struct io_message *m, uint32_t stream)
{
    struct io_hdf5_table *table = &s->seg.tables[IO_SURPRISE];
    int r = 0;

    for (uint32_t i = 0; i < m->shape[0]; i++) {
        r = make_room(s, table, NULL);
        if (r)
            break;
        struct io_hdf5_surprise *row = io_hdf5_table_add(table);
        *row = (struct io_hdf5_surprise){stamp(m, stream, i, 0), m->data[i]};
    }
    return r;
}

static int write_event(struct sink *s, const struct io_message *m, uint32_t stream)
{
    int r = make_room(s, &s->seg.tables[IO_EVENT], NULL);
    if (r)
        return r;
    struct io_hdf5_event *row = io_hdf5_table_add(&s->seg.tables[IO_EVENT]);
    *row = (struct io_hdf5_event){
        .at = stamp(m, stream, 0, 0),
        .from_seq = m->from_seq,
        .to_seq = m->to_seq,
        .count = m->count,
        .bridged = m->bridged,
    };
    fill_text(row->event, sizeof row->event, m->event);
    fill_text(row->reason, sizeof row->reason, m->reason);
    return 0;
}

static int write_sys(struct sink *s, const struct io_message *m)
{
    int r = make_room(s, &s->seg.tables[IO_SYS], NULL);
    if (r)
        return r;
    struct io_hdf5_sys *row = io_hdf5_table_add(&s->seg.tables[IO_SYS]);
    row->uptime_s = m->uptime_s;
    for (int f = 0; f < IO_FAMILIES && m->last_out_seq; f++)
        row->last_out_seq[f] = (int64_t)m->last_out_seq[f];
    return 0;
}

/* A row wider than the env promised would not fit its place in the file. */
static bool fits(const struct sink *s, const struct io_message *m)
{
    if (m->family == IO_PREDICTION)
        return m->shape[m->ndim - 1] <= s->quantiles_max && (m->ndim != 4 || m->shape[2] <= s->horizon_max);
    return m->family != IO_EMBEDDING || m->shape[2] <= s->embedding_max;
}

static int write_rows(struct sink *s, const struct io_message *m)
{
    uint32_t stream = 0;
    int r = m->family == IO_SYS ? 0 : find_stream(s, m, &stream);

    if (r)
        return r;
    switch (m->family) {
    case IO_PREDICTION:
        return write_prediction(s, m, stream);
    case IO_EMBEDDING:
        return write_embedding(s, m, stream);
    case IO_SURPRISE:
        return write_surprise(s, m, stream);
    case IO_EVENT:
        return write_event(s, m, stream);
    case IO_SYS:
        return write_sys(s, m);
    default:
        return write_anomaly(s, m, stream);
    }
}

static int sink_write(void *self, const struct io_message *m)
{
    struct sink *s = self;

    if (s->failed)
        return s->failed;
    io_hdf5_quiet();
    if (fits(s, m)) {
        s->failed = write_rows(s, m);
        return s->failed;
    }
    snprintf(s->why, sizeof s->why, "%.200s: a %s of %.200s is wider than this output was opened for", s->seg.path,
             io_family_name(m->family), m->stream);
    s->failed = -EMSGSIZE;
    return s->failed;
}

/* ---- the class -------------------------------------------------------------------------------------------- */

static int sink_flush(void *self)
{
    struct sink *s = self;

    io_hdf5_quiet();
    if (!s->failed)
        s->failed = io_hdf5_segment_write(&s->seg, true, s->why);
    return !s->failed && io_hdf5_segment_deleted(&s->seg) ? -ENOENT : s->failed;
}

static int sink_mark(void *self, struct io_position *ret)
{
    struct sink *s = self;

    io_hdf5_quiet();
    if (!s->failed)
        s->failed = io_hdf5_segment_mark(&s->seg, ret, s->why);
    return s->failed;
}

static int sink_close(void *self, int64_t linger_ns, char *reterr)
{
    struct sink *s = self;
    int r = sink_flush(s);
    char why[IO_ERR];
    int closed = io_hdf5_segment_close(&s->seg, why);

    if (r || closed)
        snprintf(reterr, IO_ERR, "%s", !r ? why : s->why[0] ? s->why : strerror(-r));
    tdestroy(s->streams, free);
    free(s->levels);
    free(s);
    return r ? r : closed;
}

static int sink_open(const void *conf, const struct io_sink_env *env, void **ret_self, char *reterr)
{
    const struct conf *c = conf;
    struct sink *s = calloc(1, sizeof *s);
    uint32_t first;
    int r;

    if (!s)
        return -ENOMEM;
    io_hdf5_quiet();
    s->horizon_max = env->horizon_max ? env->horizon_max : 1;
    s->quantiles_max = env->quantiles_max ? env->quantiles_max : 1;
    s->embedding_max = env->embedding_max ? env->embedding_max : 1;
    r = env->position ? io_hdf5_segment_cut(c->path, env->position, reterr) : 0;
    if (r == 0)
        r = io_hdf5_segment_make(&s->seg, c->path, env, reterr);
    if (r) {
        free(s);
        return r;
    }
    if (env->n_quantiles) /* set 0, whether it is used or not */
        s->failed = find_levels(s, env->quantiles, env->n_quantiles, &first);
    if (s->failed)
        return sink_close(s, 0, reterr);
    *ret_self = s;
    return 0;
}

const struct io_sink_class io_sink_hdf5 = {
    .type = "hdf5",
    .help = "HDF5 tables, readable while they are written (SWMR)",
    .options = options,
    .conf_bytes = sizeof(struct conf),
    .thread = "hdf5",
    .tables = true,
    .flush_ns = 1000000000,
    .check = check,
    .open = sink_open,
    .write = sink_write,
    .mark = sink_mark,
    .flush = sink_flush,
    .close = sink_close,
};
