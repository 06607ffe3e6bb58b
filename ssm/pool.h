/* pool.h: the engine's worker threads. One run at a time, started by the thread that owns the pool; the caller is
 * worker 0. Between runs the workers spin for some microseconds, then sleep: an idle pool uses no CPU.
 *
 * What a worker wrote before the end of a run, or before a barrier, is visible to all after it. */
#ifndef SSM_POOL_H
#define SSM_POOL_H

struct ssm_pool;

/* `asked` threads, or one per core where that is 0; at most `most`. */
unsigned ssm_pool_size(unsigned asked, unsigned most);

/* `threads` ≥ 1 counts the caller: threads − 1 are started, with all signals blocked. */
int ssm_pool_new(unsigned threads, struct ssm_pool **ret);
void ssm_pool_free(struct ssm_pool **pool);
unsigned ssm_pool_threads(const struct ssm_pool *pool);

/* Calls fn(ctx, worker, workers) once on every worker, worker = 0 .. workers − 1, and returns when all have returned.
 * Not from inside a run. */
void ssm_pool_run(struct ssm_pool *pool, void (*fn)(void *ctx, unsigned worker, unsigned workers), void *ctx);

/* Calls fn(ctx, part, parts) once for every part = 0 .. parts − 1, on whichever workers come by, and returns when all
 * parts have ended. A worker that the system has not put on a core yet is not waited for. */
void ssm_pool_share(struct ssm_pool *pool, unsigned parts, void (*fn)(void *ctx, unsigned part, unsigned parts),
                    void *ctx);

/* Inside a run, not of parts: no worker goes on before all have come here. Every worker must call it equally often. */
void ssm_pool_barrier(struct ssm_pool *pool);

#endif
