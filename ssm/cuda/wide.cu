/* wide.cu: a pass of any number of rows, layer by layer: norm, in_proj, select, scan, out_proj, then the head.
 *
 * The products want the tensor cores, the scan of short runs the memory, that of long runs the special function units,
 * so a large pass is cut into slices (plan.c says where) that go through the layers on streams of their own, one's
 * products beside another's scan. In a layer, a slice's select waits for the scan of the slice before it where that has
 * the beginning of one of its runs; nothing else is shared, for slices are disjoint rows of the same buffers. The
 * streams fork from the caller's and join it again by events. Launches go round the streams layer by layer, each stream
 * one layer behind the one before it, so that no slice waits until all of another's are launched. One thread at a time.
 *
 * The kernels of an uncut pass are chained (wide.h): each sets itself up while the one ahead ends.
 *
 * Bytes of a layer, mamba-130m, 4096 rows of one-row runs: states 403 MB (bf16), windows 75 MB, and in L2 for the most
 * part 12 r, 6 u, 25 xz, 13 xc, 13 y MB; 31 GFLOP. Long runs: no states to speak of; a slice has 70 MB of
 * activations, so that those on their way are more than the L2 cache.
 *
 * Ladder (mamba-130m, bf16, H100: one step of 1024 / 4096 streams, bf16 states, µs; 65536 steps of one stream, ms):
 *   2654, 7895, 82   two slices of one-row runs, 2048-row slices of long ones on three streams
 *   2690, 8025, 70   four streams, products on 2/3 of the multiprocessors beside long scans
 *   2506, 7854, –    kernels chained, one-row runs uncut
 *   2557, 8055, –    windows and states sent for before a layer wants them: taken out again
 *   2407, 7743, 68   scans rewritten, 4096-row slices; 2034, 6532 on one H200
 *   1807, 6283, –    on that H200: select and the products wait less (see there), the final norm and the head chained
 *   1743, 5972, –    another H200 (1814, 6330 before): scan_short sends for states four rows ahead
 *   1722, 5906, –    another (1741, 5945 before): arith.cuh's softplus and saturation in fewer instructions
 *
 * Scans of 1 × 65536 and 16 × 8192 on one H200, ms:
 *   68.6, 127   4096-row slices on four streams, long scans on 96 multiprocessors
 *   66.1, 133   long scans on 24
 *   63.7, 128   32768 rows a pass, not 16384
 *   58.7, 118   eight streams
 *   57.6, 115   long scans not unrolled, 65536 rows a pass
 *   57.1, 114   slices wait only where a run goes across
 *
 * 16 streams of 8191 steps (of 8192 the last is alone) on another H200, ms:
 *   113.7   as above
 *   112.3   slices begin where runs do
 *   111.2   slices a layer after each other, not launched one after the other
 *   107.3   on another (112.1 before; 1 × 65536 54.1, from 56.6): softplus and saturation
 *
 * One layer of 1024 streams (H200, ncu): norm 3.3, in_proj 12.1, select 13.9, scan 34.7, out_proj 10.2 µs, all
 * chained 66: only the scan asks much of the memory. Two or four parts of the batch on streams of their own, their
 * kernels on the same multiprocessors (scans of four units a block beside products in tiles of 64 rows, selects of 8 to
 * 32 rows a tile), took 1817 µs or more for 1024 streams, from 1784, and 6291 or more for 4096, from 6020, without a
 * graph; on half of the multiprocessors each 1786 and 6680; two parts with these kernels as they are 5992 (4096).
 *
 * Of long runs, 4096 rows (H200): 9.6, 37, select 31 before it waited less, and out_proj 25, on all multiprocessors.
 * Nothing else fits beside a long scan's block, so a pass of many slices is bound by the time on multiprocessors that
 * its kernels want together, not by how long a scan takes, and scans are packed on a quarter of them. On an eighth:
 * 16 × 8192 takes 127 ms; on all: 117.
 *
 * Traps: an event is recorded again for each slice; a wait is for the last record before it was asked for. Where slices
 * are depends on the runs, so a pass that is cut must not be captured for others; those that are captured have fewer
 * rows. */
#include "ssm/cuda/wide.h"

#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <new>

#include "ssm/cuda/gemm.h"
#include "ssm/fail.h"

enum {
    STREAMS = 8, /* that slices go on, the caller's among them */
    SCANS = 4    /* of slices of long runs that share the multiprocessors */
};

struct gpu_wide {
    uint32_t layers, sms;
    struct gpu_gemm *in_proj, *out_proj; /* [layers] */
    struct gpu_gemm head;
    cudaStream_t streams[STREAMS]; /* [0] is not used */
    cudaEvent_t forked, joined[STREAMS];
    cudaEvent_t *scanned; /* [layers] */
};

/* ---- open and close ---- */

static cudaError_t open_products(struct gpu_wide *w, const struct gpu_model *m, const struct gpu_pass *p)
{
    const size_t E = m->d.E, D = m->d.D;
    cudaError_t e = cudaSuccess;
    for (uint32_t i = 0; i < w->layers && !e; i++) {
        e = gpu_gemm_open(&w->in_proj[i], &m->layers[i].in_proj, p->u, E, p->capacity);
        if (!e)
            e = gpu_gemm_open(&w->out_proj[i], &m->layers[i].out_proj, p->y, D, p->capacity);
    }
    if (!e && m->head.n)
        e = gpu_gemm_open(&w->head, &m->head, p->u, E, p->capacity);
    w->head.chained = true; /* to the final norm */
    return e;
}

static cudaError_t open_streams(struct gpu_wide *w)
{
    cudaError_t e = cudaEventCreateWithFlags(&w->forked, cudaEventDisableTiming);
    for (int i = 1; i < STREAMS && !e; i++) {
        e = cudaStreamCreateWithFlags(&w->streams[i], cudaStreamNonBlocking);
        if (!e)
            e = cudaEventCreateWithFlags(&w->joined[i], cudaEventDisableTiming);
    }
    for (uint32_t i = 0; i < w->layers && !e; i++)
        e = cudaEventCreateWithFlags(&w->scanned[i], cudaEventDisableTiming);
    return e;
}

static cudaError_t open_device(struct gpu_wide *w, const struct gpu_model *m, const struct gpu_pass *p)
{
    int device = 0, sms = 0;
    cudaError_t e = cudaGetDevice(&device);
    if (!e)
        e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
    w->sms = (uint32_t)sms;
    if (!e)
        e = gpu_norm_open();
    if (!e)
        e = gpu_select_open();
    if (!e)
        e = gpu_scan_open(m);
    if (!e)
        e = open_products(w, m, p);
    return e ? e : open_streams(w);
}

int gpu_wide_open(const struct gpu_model *m, const struct gpu_pass *p, struct gpu_wide **ret, char *reterr)
{
    assert(m->fast);
    struct gpu_wide *w = new (std::nothrow) struct gpu_wide();
    if (w) {
        w->layers = m->d.L;
        w->in_proj = new (std::nothrow) struct gpu_gemm[w->layers]();
        w->out_proj = new (std::nothrow) struct gpu_gemm[w->layers]();
        w->scanned = (cudaEvent_t *)calloc(w->layers, sizeof *w->scanned);
    }
    int err = 0;
    if (!w || !w->in_proj || !w->out_proj || !w->scanned) {
        err = ssm_fail(reterr, -ENOMEM, "%s: no memory for the tables of a pass", m->model->name);
    } else {
        cudaError_t e = open_device(w, m, p);
        if (e)
            err = gpu_fail(reterr, m->model->name, "opening the kernels for many rows", e);
    }
    if (err)
        gpu_wide_close(&w);
    else
        *ret = w;
    return err;
}

void gpu_wide_close(struct gpu_wide **at)
{
    struct gpu_wide *w = *at;
    *at = NULL;
    if (!w)
        return;
    for (uint32_t i = 0; w->scanned && i < w->layers; i++)
        if (w->scanned[i])
            cudaEventDestroy(w->scanned[i]);
    for (int i = 1; i < STREAMS; i++) {
        if (w->joined[i])
            cudaEventDestroy(w->joined[i]);
        if (w->streams[i])
            cudaStreamDestroy(w->streams[i]);
    }
    if (w->forked)
        cudaEventDestroy(w->forked);
    free(w->scanned);
    delete[] w->in_proj;
    delete[] w->out_proj;
    delete w;
}

/* ---- a pass ---- */

/* What all slices of a pass have in common. */
struct work {
    struct gpu_wide *w;
    const struct gpu_model *m;
    const struct gpu_pass *p;
    enum ssm_dtype state;
    const struct gpu_slices *slices;
    uint32_t rows, n_runs;
    uint32_t product_sms, scan_sms; /* multiprocessors that one product takes, and one scan */
    bool chained;
};

/* The product of a slice's rows, on some multiprocessors. */
static void multiply(const struct work *k, const struct gpu_gemm *product, enum gpu_gemm_end end, void *y, size_t ldy,
                     const struct gpu_slice *s, cudaStream_t stream)
{
    struct gpu_gemm g = *product;
    g.begin = s->begin;
    g.sms = k->product_sms;
    g.chained = s->chained;
    gpu_gemm_run(&g, end, y, ldy, g.matrix->np, s->rows, s->bound, stream);
}

static void run_layer(const struct work *k, uint32_t layer, uint32_t index, cudaStream_t stream)
{
    const struct gpu_pass *p = k->p;
    const struct gpu_slices *slices = k->slices;
    const size_t E = k->m->d.E, D = k->m->d.D;
    const bool last = index + 1 == slices->n, wait = slices->waits[index], record = !last && slices->waits[index + 1];
    const uint32_t begin = slices->begin[index], end = last ? k->rows : slices->begin[index + 1];
    struct gpu_slice s = {begin, end - begin, &p->head->rows, k->chained && layer > 0};
    gpu_norm(k->m, p, layer, s, stream);
    s.chained = k->chained;
    multiply(k, &k->w->in_proj[layer], GPU_GEMM_HALF, p->xz + begin * 2 * D, 2 * D, &s, stream);
    if (wait)
        cudaStreamWaitEvent(stream, k->w->scanned[layer], 0);
    s.chained = k->chained && !wait;
    gpu_select(k->m, p, layer, s, k->w->sms, stream);
    s.chained = k->chained;
    gpu_scan(k->m, p, k->state, layer, s, k->rows, k->n_runs, k->scan_sms, stream);
    if (record)
        cudaEventRecord(k->w->scanned[layer], stream);
    s.chained = k->chained && !record;
    multiply(k, &k->w->out_proj[layer], GPU_GEMM_ADD, p->r + begin * E, E, &s, stream);
}

/* As many slices at a time as there are streams, the first on the caller's. */
static void run_slices(const struct work *k, cudaStream_t stream)
{
    struct gpu_wide *w = k->w;
    const uint32_t n = k->slices->n, lanes = n < STREAMS ? n : (uint32_t)STREAMS;
    cudaEventRecord(w->forked, stream);
    for (uint32_t i = 1; i < lanes; i++)
        cudaStreamWaitEvent(w->streams[i], w->forked, 0);
    for (uint32_t first = 0; first < n; first += lanes)
        for (uint32_t turn = 0; turn < w->layers + lanes - 1; turn++)
            for (uint32_t i = 0; i < lanes && i <= turn && first + i < n; i++)
                if (turn - i < w->layers)
                    run_layer(k, turn - i, first + i, i > 0 ? w->streams[i] : stream);
    for (uint32_t i = 1; i < lanes; i++) {
        cudaEventRecord(w->joined[i], w->streams[i]);
        cudaStreamWaitEvent(stream, w->joined[i], 0);
    }
}

void gpu_wide_run(struct gpu_wide *w, const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state,
                  const struct gpu_slices *slices, uint32_t rows, uint32_t n_runs, uint32_t n_picked, uint32_t n_out,
                  cudaStream_t stream)
{
    if (rows == 0)
        return;
    struct work k = {w, m, p, state, slices, rows, n_runs, w->sms, w->sms, true};
    if (slices->n > 1) {
        k.chained = false;
        k.product_sms = w->sms * 2 / 3; /* other slices' scans have the others */
        if (slices->long_runs)
            k.scan_sms = w->sms / (slices->n < SCANS ? slices->n : (uint32_t)SCANS);
        run_slices(&k, stream);
    } else {
        for (uint32_t layer = 0; layer < w->layers; layer++)
            run_layer(&k, layer, 0, stream);
    }
    const bool head = n_picked > 0 && n_out > 0 && m->head.n > 0;
    if (head || p->f)
        gpu_norm_final(m, p, rows, k.chained, stream);
    if (head)
        gpu_gemm_run(&w->head, GPU_GEMM_FLOAT, p->out, p->ldo, n_out, &p->head->n_picked, n_picked, stream);
}
