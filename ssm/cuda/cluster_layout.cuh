/* cluster_layout.cuh: what cluster.cu shares out and where it lies: blocks of a cluster, a block's channels, its shared
 * memory, the rings of weights. Worked out on the host for a model; for known widths also by the compiler. */
#ifndef SSM_CUDA_CLUSTER_LAYOUT_CUH
#define SSM_CUDA_CLUSTER_LAYOUT_CUH

#include "ssm/cuda/gpu.h"

enum {
    WARPS = 8, /* that compute */
    THREADS = (WARPS + 1) * 32,
    ROWS = GPU_FEW_ROWS,
    BLOCKS_MAX = 16, /* of a cluster */
    DEPTH_MAX = 8,   /* of a ring */
    LDBC = 36,       /* floats; 8 outputs of 4 rows in different banks */
    LDSTAGE = 20,    /* likewise */
    SHARED_MAX = 227 * 1024
};

enum exchange { EXCHANGE_X, EXCHANGE_Y, EXCHANGE_R, EXCHANGES };

/* Pieces of weights: up to the convolution; x_proj; from dt_proj on; final norm and head. */
enum piece { FRONT, SELECT, BACK, HEAD, PIECES };

enum { BARRIERS = EXCHANGES + PIECES * DEPTH_MAX };

/* What follows from a model's width; for some widths the compiler knows it. Offsets are bytes of shared memory, the
 * same in every block. */
struct dims {
    uint32_t E, D, Rp;
    uint32_t blocks;                  /* of a cluster */
    uint32_t channels, tiles, shares; /* of a block; in tiles of 16; warps to a tile in the scan */
    uint32_t ldu, ldx, ldc, lddt;     /* halfs from row to row; odd multiples of 16 bytes, for ldmatrix */
    uint32_t info;                    /* struct info [2], by parity of the tile */
    uint32_t u, dt, bc;               /* fp16 [8][E], fp16 [8][Rp], fp32 [8][2N] */
    uint32_t x, y, r;                 /* exchanged: fp16 [8][D], fp16 [8][D], fp32 [8][E] */
    uint32_t own_in, own_x;           /* this block's channels, fp16 [8][channels]: before the convolution, after it */
    uint32_t own_y, own_z;
    uint32_t stage; /* fp32 [WARPS][8][16]: r on its way out */
    uint32_t rows_end;
    uint32_t norm, in_x, in_z, conv, conv_bias, bias_x, bias_z; /* in a FRONT buffer */
    uint32_t x_proj, x_bias;                                    /* SELECT */
    uint32_t dt_proj, dt_bias, A, skip, out_proj, out_bias;     /* BACK */
    uint32_t norm_f, head;                                      /* HEAD */
    uint32_t front_bytes, select_bytes, back_bytes;
};

/* What the kernel is told. */
struct args {
    struct dims d;
    uint32_t L;
    uint32_t head_tiles, head_bias; /* of all blocks; where in HEAD */
    uint32_t layers_at;             /* in shared memory */
    struct ring {
        uint32_t at, bytes, depth;
    } ring[PIECES];
    uint32_t bytes; /* of shared memory */
    struct gpu_pass p;
    struct gpu_carried carried;
    const struct gpu_layer *layers;
    const void *embedding;
    enum ssm_dtype dtype;
    const float *norm_f;
    struct gpu_matrix head;
    float eps;
};

/* A tile's rows and runs. */
struct info {
    uint8_t *slot[ROWS];                     /* by run */
    uint32_t first[ROWS], T[ROWS];           /* by run; first: row of the tile */
    uint32_t run[ROWS], t[ROWS], left[ROWS]; /* by row: its run, rows of that before it and after it */
    uint32_t pick[ROWS];
    float g[ROWS];
};

/* The first of n tiles that block `rank` has; the next block's is the end. */
static __device__ __forceinline__ uint32_t first_tile(const struct dims &d, uint32_t n, uint32_t rank)
{
    return n * rank / d.blocks;
}

static __host__ __device__ constexpr uint32_t take(uint32_t *at, uint32_t bytes)
{
    uint32_t from = *at;
    *at += GPU_PADDED(bytes);
    return from;
}

/* As many blocks as leave each a multiple of 32 channels, whole groups of a state's layout. */
static __host__ __device__ constexpr uint32_t cluster_blocks(uint32_t D)
{
    uint32_t groups = D / 32, n = groups < BLOCKS_MAX ? groups : BLOCKS_MAX;
    while (groups % n)
        n--;
    return n;
}

static __host__ __device__ constexpr void lay_rows(struct dims *d)
{
    uint32_t at = GPU_PADDED(BARRIERS * 8u);
    d->ldu = d->E + 8;
    d->ldx = d->D + 8;
    d->ldc = d->channels + 8;
    d->lddt = d->Rp + 8;
    d->info = take(&at, 2 * sizeof(struct info));
    d->u = take(&at, ROWS * d->ldu * 2);
    d->dt = take(&at, ROWS * d->lddt * 2);
    d->bc = take(&at, ROWS * LDBC * 4);
    d->x = take(&at, ROWS * d->ldx * 2);
    d->y = take(&at, ROWS * d->ldx * 2);
    d->r = take(&at, ROWS * d->E * 4);
    d->own_in = take(&at, ROWS * d->ldc * 2);
    d->own_x = take(&at, ROWS * d->ldc * 2);
    d->own_y = take(&at, ROWS * d->ldc * 2);
    d->own_z = take(&at, ROWS * d->ldc * 2);
    d->stage = take(&at, WARPS * ROWS * LDSTAGE * 4);
    d->rows_end = at;
}

static __host__ __device__ constexpr void lay_pieces(struct dims *d)
{
    uint32_t front = 0, select = 0, back = 0, head = 0, c = d->channels;
    uint32_t out = (d->E / 16 + d->blocks - 1) / d->blocks;
    d->norm = take(&front, d->E * 4);
    d->in_x = take(&front, c * d->E * 2);
    d->in_z = take(&front, c * d->E * 2);
    d->conv = take(&front, c * 4 * 4);
    d->conv_bias = take(&front, c * 4);
    d->bias_x = take(&front, c * 4);
    d->bias_z = take(&front, c * 4);
    d->front_bytes = front;
    d->x_proj = take(&select, (d->Rp + 32) * d->D * 2);
    d->x_bias = take(&select, (d->Rp + 32) * 4);
    d->select_bytes = select;
    d->dt_proj = take(&back, c * d->Rp * 2);
    d->dt_bias = take(&back, c * 4);
    d->A = take(&back, c * 64);
    d->skip = take(&back, c * 4);
    d->out_proj = take(&back, out * 16 * d->D * 2);
    d->out_bias = take(&back, out * 64);
    d->back_bytes = back;
    d->norm_f = take(&head, d->E * 4);
    d->head = head;
}

static __host__ __device__ constexpr struct dims dims_of(uint32_t E, uint32_t D, uint32_t Rp)
{
    struct dims d = {};
    d.E = E;
    d.D = D;
    d.Rp = Rp;
    d.blocks = cluster_blocks(D);
    d.channels = D / d.blocks;
    d.tiles = d.channels / 16;
    d.shares = WARPS / d.tiles;
    lay_rows(&d);
    lay_pieces(&d);
    return d;
}

/* ---- a model's, on the host ---- */

/* One buffer of each kind, then one more of each in turn while there is room. */
static bool lay_rings(struct args *a)
{
    static const enum piece order[] = {FRONT, BACK, SELECT};
    for (struct args::ring &r : a->ring) {
        r.depth = 1;
        a->bytes += r.bytes;
    }
    if (a->bytes > SHARED_MAX)
        return false;
    for (bool grown = true; grown;) {
        grown = false;
        for (enum piece piece : order) {
            struct args::ring *r = &a->ring[piece];
            if (r->depth < a->L && r->depth < DEPTH_MAX && a->bytes + r->bytes <= SHARED_MAX) {
                r->depth++;
                a->bytes += r->bytes;
                grown = true;
            }
        }
    }
    uint32_t at = a->bytes;
    for (int piece = PIECES - 1; piece >= 0; piece--)
        a->ring[piece].at = at -= a->ring[piece].depth * a->ring[piece].bytes;
    return true;
}

/* All but the pass. False: not for this regime. */
static bool args_of(const struct gpu_model *m, struct args *ret)
{
    struct args a = {};
    if (!m->resident)
        return false;
    a.d = dims_of(m->d.E, m->d.D, m->d.Rp);
    if (a.d.tiles > WARPS)
        return false;
    a.L = m->d.L;
    a.head_tiles = m->head.np / 16;
    a.layers = m->layers_device;
    a.embedding = m->embedding;
    a.dtype = m->dtype;
    a.norm_f = m->norm_f;
    a.head = m->head;
    a.eps = m->d.eps;
    uint32_t tiles = (a.head_tiles + a.d.blocks - 1) / a.d.blocks, head = a.d.head;
    take(&head, tiles * 16 * a.d.E * 2);
    a.head_bias = take(&head, tiles * 64);
    a.ring[FRONT].bytes = a.d.front_bytes;
    a.ring[SELECT].bytes = a.d.select_bytes;
    a.ring[BACK].bytes = a.d.back_bytes;
    a.ring[HEAD].bytes = head;
    a.bytes = a.d.rows_end;
    a.layers_at = take(&a.bytes, a.L * (uint32_t)sizeof *a.layers);
    *ret = a;
    return lay_rings(ret);
}

#endif
