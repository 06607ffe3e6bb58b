"""The selective scan (arXiv 2312.00752, eq. 2) with carried state, forward and backward over time.

    h[t] = exp(Δ[t]·g[t]·A)·h[t−1] + Δ[t]·B[t]·x[t]        y[t] = Σ_n h[t]·C[t]

Shapes: x, Δ, y [S, T, D]; B, C [S, T, N]; g [S, T]; A [D, N]; h [S, D, N]. Two implementations of the same formulas: a
Triton kernel for GPUs, for which x, y, B and C may be bf16, and a plain loop over T, fp32 alone. The kernel keeps h
before every CHUNK steps and computes the others again on the way back; the loop keeps all. No gradient flows into h0
(truncated back-propagation through time).
"""
import torch
from torch.nn import functional as F

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK_D = 16
CHUNK = 4  # steps; longer ones want more registers than there are


if triton:
    LOG2E, LN2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)

    @triton.jit
    def _load(p, row, width, at):
        return tl.load(p + row * width + at).to(tl.float32)

    @triton.jit
    def _forward(x, delta, b, c, g, a, h0, y, hs, last, T, D, N: tl.constexpr, BD: tl.constexpr, K: tl.constexpr):
        s = tl.program_id(0).to(tl.int64)
        d = tl.program_id(1) * BD + tl.arange(0, BD)
        n = tl.arange(0, N)
        dn = d[:, None] * N + n[None, :]
        rate = tl.load(a + dn) * LOG2E
        h = tl.load(h0 + s * D * N + dn)
        chunks = T // K
        for i in range(chunks):
            tl.store(hs + (s * chunks + i) * D * N + dn, h)
            xs, ds, bs, cs, gs = (), (), (), (), ()
            for k in tl.static_range(K):  # all loads first: they are under way together
                row = s * T + i * K + k
                xs += (_load(x, row, D, d),)
                ds += (_load(delta, row, D, d),)
                bs += (_load(b, row, N, n),)
                cs += (_load(c, row, N, n),)
                gs += (_load(g, row, 1, 0),)
            for k in tl.static_range(K):
                h = tl.exp2((ds[k] * gs[k])[:, None] * rate) * h + (ds[k] * xs[k])[:, None] * bs[k][None, :]
                tl.store(y + (s * T + i * K + k) * D + d, tl.sum(h * cs[k][None, :], axis=1))
        tl.store(last + s * D * N + dn, h)

    @triton.jit
    def _backward(x, delta, b, c, g, a, hs, dy, dx, ddelta, db, dc, da, T, D, N: tl.constexpr, BD: tl.constexpr, K: tl.constexpr):
        s = tl.program_id(0).to(tl.int64)
        j = tl.program_id(1)
        d = j * BD + tl.arange(0, BD)
        n = tl.arange(0, N)
        dn = d[:, None] * N + n[None, :]
        rate = tl.load(a + dn) * LOG2E
        dh = tl.zeros((BD, N), dtype=tl.float32)
        da_sum = tl.zeros((BD, N), dtype=tl.float32)
        parts, chunks = tl.num_programs(1), T // K
        for back in range(chunks):
            i = chunks - 1 - back
            xs, ds, bs, cs, gs, dys = (), (), (), (), (), ()
            for k in tl.static_range(K):
                row = s * T + i * K + k
                xs += (_load(x, row, D, d),)
                ds += (_load(delta, row, D, d),)
                bs += (_load(b, row, N, n),)
                cs += (_load(c, row, N, n),)
                gs += (_load(g, row, 1, 0),)
                dys += (_load(dy, row, D, d),)
            states, decays = (tl.load(hs + (s * chunks + i) * D * N + dn),), ()
            for k in tl.static_range(K):  # the chunk's states once more
                decays += (tl.exp2((ds[k] * gs[k])[:, None] * rate),)
                states += (decays[k] * states[k] + (ds[k] * xs[k])[:, None] * bs[k][None, :],)
            for k in tl.static_range(K - 1, -1, -1):
                row = s * T + i * K + k
                part = (row * parts + j) * N + n
                dh += dys[k][:, None] * cs[k][None, :]
                tl.store(dc + part, tl.sum(dys[k][:, None] * states[k + 1], axis=0))
                tl.store(db + part, tl.sum(dh * (ds[k] * xs[k])[:, None], axis=0))
                into = tl.sum(dh * bs[k][None, :], axis=1)
                dh = dh * decays[k]
                dlog = dh * states[k]
                tl.store(dx + row * D + d, into * ds[k])
                tl.store(ddelta + row * D + d, into * xs[k] + tl.sum(dlog * rate, axis=1) * (gs[k] * LN2))
                da_sum += dlog * (ds[k] * gs[k])[:, None]
        tl.store(da + s * D * N + dn, da_sum)


class TritonScan(torch.autograd.Function):
    """Of whole chunks."""

    @staticmethod
    def forward(ctx, x, delta, b, c, g, a, h0):
        x, delta, b, c, g, a, h0 = (t.contiguous() for t in (x, delta, b, c, g, a, h0))
        S, T, D = x.shape
        N = a.shape[1]
        y, last = torch.empty_like(x), torch.empty_like(h0)
        hs = torch.empty(S, T // CHUNK, D, N, device=x.device)
        _forward[(S, D // BLOCK_D)](x, delta, b, c, g, a, h0, y, hs, last, T, D, N, BLOCK_D, CHUNK, num_warps=1)
        ctx.save_for_backward(x, delta, b, c, g, a, hs)
        return y, last

    @staticmethod
    def backward(ctx, dy, _):
        x, delta, b, c, g, a, hs = ctx.saved_tensors
        S, T, D = x.shape
        N = a.shape[1]
        parts = D // BLOCK_D
        dx, ddelta = torch.empty_like(x), torch.empty_like(delta)
        db = torch.empty(S, T, parts, N, device=x.device)
        dc = torch.empty_like(db)
        da = torch.empty(S, D, N, device=x.device)
        _backward[(S, parts)](x, delta, b, c, g, a, hs, dy.contiguous(), dx, ddelta, db, dc, da, T, D, N, BLOCK_D, CHUNK,
                              num_warps=1)
        return dx, ddelta, db.sum(2).to(b.dtype), dc.sum(2).to(c.dtype), None, da.sum(0), None


def triton_scan(x, delta, b, c, g, a, h0):
    T, short = x.shape[1], -x.shape[1] % CHUNK
    if not short:
        return TritonScan.apply(x, delta, b, c, g, a, h0)
    x, delta, b, c = (F.pad(t, (0, 0, 0, short)) for t in (x, delta, b, c))  # steps of Δ = 0, which leave h as it is
    y, h = TritonScan.apply(x, delta, b, c, F.pad(g, (0, short)), a, h0)
    return y[:, :T], h


class LoopScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, delta, b, c, g, a, h0):
        S, T, D = x.shape
        hs = x.new_empty(S, T, D, a.shape[1]) if any(ctx.needs_input_grad) else None
        y = torch.empty_like(x)
        rate, inflow, h = delta * g[..., None], delta * x, h0
        for t in range(T):
            h = torch.exp(rate[:, t, :, None] * a) * h + inflow[:, t, :, None] * b[:, t, None, :]
            y[:, t] = (h * c[:, t, None, :]).sum(-1)
            if hs is not None:
                hs[:, t] = h
        ctx.save_for_backward(x, delta, b, c, g, a, h0, hs)
        return y, h.clone()

    @staticmethod
    def backward(ctx, dy, _):
        x, delta, b, c, g, a, h0, hs = ctx.saved_tensors
        dx, ddelta, db, dc = (torch.empty_like(t) for t in (x, delta, b, c))
        dh, da = torch.zeros_like(h0), torch.zeros_like(a)
        for t in range(x.shape[1] - 1, -1, -1):
            hp = hs[:, t - 1] if t > 0 else h0
            rate = (delta[:, t] * g[:, t, None])[..., None]
            dh = dh + dy[:, t, :, None] * c[:, t, None, :]
            dc[:, t] = (dy[:, t, :, None] * hs[:, t]).sum(1)
            db[:, t] = (dh * (delta[:, t] * x[:, t])[..., None]).sum(1)
            decay = torch.exp(rate * a)
            dlog = dh * decay * hp
            into = (dh * b[:, t, None, :]).sum(-1)
            dx[:, t] = into * delta[:, t]
            ddelta[:, t] = into * x[:, t] + (dlog * a).sum(-1) * g[:, t, None]
            da += (dlog * rate).sum(0)
            dh = dh * decay
        return dx, ddelta, db, dc, None, da, None


def _example(device, S=2, T=13, D=32, N=16):
    torch.manual_seed(1)
    r = lambda *shape: torch.randn(*shape, device=device)
    return [r(S, T, D), r(S, T, D).exp() * 0.1, r(S, T, N), r(S, T, N), r(S, T).exp(), -r(D, N).exp(), r(S, D, N)]


def agree(device, **size):
    """Largest relative difference of the Triton kernel's outputs and gradients from the loop's."""
    results = []
    for f in (LoopScan.apply, triton_scan):
        args = [t.requires_grad_(i < 6 and i != 4) for i, t in enumerate(_example(device, **size))]
        y, h = f(*args)
        (y * y).sum().backward()
        results.append([y, h] + [t.grad for t in args if t.requires_grad])
    return max(float((p - q).detach().norm() / p.detach().norm()) for p, q in zip(*results))


def choose(device, d_inner, d_state):
    """(scan function, name): the kernel where it works and is right, else the loop; the name says why."""
    if torch.device(device).type != "cuda":
        return LoopScan.apply, "loop (no GPU)"
    if not triton or d_inner % BLOCK_D or d_state & (d_state - 1):
        return LoopScan.apply, "loop (no Triton, or sizes that the kernel does not take)"
    try:
        error = agree(device)
    except Exception as e:  # a missing compiler, an unknown GPU: train slowly rather than not at all
        return LoopScan.apply, f"loop (Triton failed: {type(e).__name__}: {str(e)[:200]})"
    if not error < 1e-4:
        return LoopScan.apply, f"loop (Triton kernel off by {error:.1e})"
    return triton_scan, f"triton (agrees to {error:.1e})"
