"""The selective scan (arXiv 2312.00752, eq. 2) with carried state, forward and backward over time.

    h[t] = exp(Δ[t]·g[t]·A)·h[t−1] + Δ[t]·B[t]·x[t]        y[t] = Σ_n h[t]·C[t]

Shapes: x, Δ, y [S, T, D]; B, C [S, T, N]; g [S, T]; A [D, N]; h [S, D, N]. x, y, B and C may be bf16, all else is fp32. Two implementations of the same formulas:
a Triton kernel for GPUs and a plain loop over T. All h[t] are kept (hs[:, 0] = h0 in the kernel's) for the backward pass (memory is cheap at these
sizes); no gradient flows into h0 (truncated back-propagation through time).
"""
import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK_D = 16


if triton:
    @triton.jit
    def _forward(x, delta, b, c, g, a, h0, y, hs, T, D, N: tl.constexpr, BD: tl.constexpr):
        s = tl.program_id(0).to(tl.int64)
        d = tl.program_id(1) * BD + tl.arange(0, BD)
        n = tl.arange(0, N)
        dn = d[:, None] * N + n[None, :]
        av = tl.load(a + dn)
        h = tl.load(h0 + s * D * N + dn)
        tl.store(hs + s * (T + 1) * D * N + dn, h)
        for t in range(T):
            row = s * T + t
            xv = tl.load(x + row * D + d).to(tl.float32)
            dv = tl.load(delta + row * D + d).to(tl.float32)
            bv = tl.load(b + row * N + n).to(tl.float32)
            cv = tl.load(c + row * N + n).to(tl.float32)
            gv = tl.load(g + row)
            h = tl.exp((dv * gv)[:, None] * av) * h + (dv * xv)[:, None] * bv[None, :]
            tl.store(hs + (row + s + 1) * D * N + dn, h)
            tl.store(y + row * D + d, tl.sum(h * cv[None, :], axis=1))

    @triton.jit
    def _backward(x, delta, b, c, g, a, hs, dy, dx, ddelta, db, dc, da, T, D, N: tl.constexpr, BD: tl.constexpr):
        s = tl.program_id(0).to(tl.int64)
        j = tl.program_id(1)
        d = j * BD + tl.arange(0, BD)
        n = tl.arange(0, N)
        dn = d[:, None] * N + n[None, :]
        av = tl.load(a + dn)
        dh = tl.zeros((BD, N), dtype=tl.float32)
        dav = tl.zeros((BD, N), dtype=tl.float32)
        parts = tl.num_programs(1)
        h = tl.load(hs + (s * (T + 1) + T) * D * N + dn)
        for i in range(T):
            t = T - 1 - i
            row = s * T + t
            xv = tl.load(x + row * D + d).to(tl.float32)
            dv = tl.load(delta + row * D + d).to(tl.float32)
            bv = tl.load(b + row * N + n).to(tl.float32)
            cv = tl.load(c + row * N + n).to(tl.float32)
            gv = tl.load(g + row)
            dyv = tl.load(dy + row * D + d).to(tl.float32)
            hp = tl.load(hs + (row + s) * D * N + dn)
            dh += dyv[:, None] * cv[None, :]
            part = (row * parts + j) * N + n
            tl.store(dc + part, tl.sum(dyv[:, None] * h, axis=0))
            tl.store(db + part, tl.sum(dh * (dv * xv)[:, None], axis=0))
            decay = tl.exp((dv * gv)[:, None] * av)
            dlog = dh * decay * hp
            into = tl.sum(dh * bv[None, :], axis=1)
            tl.store(dx + row * D + d, into * dv)
            tl.store(ddelta + row * D + d, into * xv + tl.sum(dlog * av, axis=1) * gv)
            dav += dlog * (dv * gv)[:, None]
            dh = dh * decay
            h = hp
        tl.store(da + s * D * N + dn, dav)


class TritonScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, delta, b, c, g, a, h0):
        x, delta, b, c, g, a, h0 = (t.contiguous() for t in (x, delta, b, c, g, a, h0))
        S, T, D = x.shape
        N = a.shape[1]
        y = torch.empty_like(x)
        hs = torch.empty(S, T + 1, D, N, device=x.device)
        _forward[(S, D // BLOCK_D)](x, delta, b, c, g, a, h0, y, hs, T, D, N, BLOCK_D, num_warps=1)
        ctx.save_for_backward(x, delta, b, c, g, a, hs)
        return y, hs[:, -1].clone()

    @staticmethod
    def backward(ctx, dy, _):
        x, delta, b, c, g, a, hs = ctx.saved_tensors
        S, T, D = x.shape
        N = a.shape[1]
        parts = D // BLOCK_D
        dx, ddelta = torch.empty_like(x), torch.empty_like(x)
        db = torch.empty(S, T, parts, N, device=x.device)
        dc = torch.empty_like(db)
        da = torch.empty(S, D, N, device=x.device)
        _backward[(S, parts)](x, delta, b, c, g, a, hs, dy.contiguous(), dx, ddelta, db, dc, da, T, D, N, BLOCK_D,
                              num_warps=1)
        return dx, ddelta, db.sum(2).to(b.dtype), dc.sum(2).to(c.dtype), None, da.sum(0), None


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


def _example(device, S=2, T=5, D=32, N=16):
    torch.manual_seed(1)
    r = lambda *shape: torch.randn(*shape, device=device)
    return [r(S, T, D), r(S, T, D).exp() * 0.1, r(S, T, N), r(S, T, N), r(S, T).exp(), -r(D, N).exp(), r(S, D, N)]


def agree(device, **size):
    """Largest relative difference of the Triton kernel's outputs and gradients from the loop's."""
    results = []
    for f in (LoopScan, TritonScan):
        args = [t.requires_grad_(i < 6 and i != 4) for i, t in enumerate(_example(device, **size))]
        y, h = f.apply(*args)
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
    return TritonScan.apply, f"triton (agrees to {error:.1e})"
