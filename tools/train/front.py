"""The streaming normaliser and features of docs/signal-model.md (sec. 1 and 2), for many series at once.

The recurrences are linear with coefficients that are known ahead, so they are computed by doubling (log2 T passes over
the whole array) instead of sample by sample; in float64, like the C code, from which they differ by rounding only.
"""
import torch

SAMPLE_MAX, SCALE_REL, SCALE_ABS, LOG_RATIO_MAX = 1e150, 1e-12, 1e-30, 10.0


def linear_scan(a, b, start=None):
    """y[t] = a[t]·y[t−1] + b[t] along the last axis; y[−1] = start (0 if None). Real or complex; a is [..., 1] where it is constant."""
    if start is not None:
        b = torch.cat([b[..., :1] + a[..., :1] * start[..., None], b[..., 1:]], -1)
    constant, shift = a.shape[-1] == 1, 1
    a, b = a if constant else a.clone(), b.clone()
    while shift < b.shape[-1]:
        b[..., shift:] = torch.addcmul(b[..., shift:], a if constant else a[..., shift:], b[..., :-shift])
        if constant:
            a = a * a
        else:
            a[..., shift:] = a[..., shift:] * a[..., :-shift]
        shift *= 2
    return b


def start_state(series, device):
    zeros = torch.zeros(series, dtype=torch.float64, device=device)
    return {k: zeros.clone() for k in ("n", "mean", "var", "diff2", "last")}


def fill_forward(x, present, start):
    """Last present value up to and with each place; `start` before the first one."""
    where = torch.arange(x.shape[-1], device=x.device).expand(x.shape)
    index = torch.where(present, where, -1).cummax(-1).values
    return torch.where(index >= 0, x.gather(-1, index.clamp(min=0)), start[..., None])


def run(cfg, x, state):
    """cfg: the model's `input`. x [S, L] float64, NaN = missing, L a multiple of the patch. Returns features [S, L/P, F] float32, frames (dict of
    [S, L/P] float64: mean, scale, step, last, n) and the state after the last sample."""
    patch, memory, diff_memory = cfg["patch"], *(float(cfg["normaliser"][k]) for k in ("memory", "diff_memory"))
    present = torch.isfinite(x)
    x = torch.where(present, x, 0.0).clamp(-SAMPLE_MAX, SAMPLE_MAX)
    on = present.double()
    n = state["n"][:, None] + on.cumsum(-1)
    shift = lambda y, first: torch.cat([first[:, None], y[:, :-1]], -1)

    alpha = on / n.clamp(1.0, memory)
    first = x.gather(-1, present.int().argmax(-1, keepdim=True))
    origin = torch.where(state["n"][:, None] > 0, state["last"][:, None], first)  # sums start near 0: a constant stays one
    start = torch.where(state["n"] > 0, state["mean"] - origin[:, 0], 0.0)
    mean = linear_scan(1.0 - alpha, alpha * (x - origin), start)
    delta = x - origin - shift(mean, start)
    mean = torch.where(n > 0, mean + origin, 0.0)
    var = linear_scan(1.0 - alpha, (1.0 - alpha) * alpha * delta**2, state["var"])
    last = fill_forward(x, present, state["last"])
    before = shift(last, state["last"])
    differs = present & (n > 1)
    beta = differs / (n - 1.0).clamp(1.0, diff_memory)
    diff2 = linear_scan(1.0 - beta, beta * (x - before) ** 2, state["diff2"])

    at = slice(patch - 1, None, patch)
    floor = SCALE_REL * mean[:, at].abs() + SCALE_ABS
    frames = {"mean": mean[:, at], "last": last[:, at], "n": n[:, at],
              "scale": torch.maximum(var[:, at].clamp(min=0).sqrt(), floor),
              "step": torch.maximum(diff2[:, at].clamp(min=0).sqrt(), floor)}
    per_patch = lambda y: y.unflatten(-1, (-1, patch))
    zero = torch.zeros((), dtype=torch.float64, device=x.device)
    u = torch.where(per_patch(present), per_patch(x) - frames["mean"][..., None], zero) / frames["scale"][..., None]
    w = torch.where(per_patch(differs), per_patch(x - before), zero) / frames["step"][..., None]
    ratio = (frames["step"] / frames["scale"]).log().clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX)
    parts = [u.asinh(), w.asinh()] + ([per_patch(on)] if cfg["mask"] else [])
    parts += [ratio[..., None], (frames["n"].clamp(max=memory).log1p() / 10.0)[..., None]]
    state = {"n": n[:, -1], "mean": mean[:, -1], "var": var[:, -1], "diff2": diff2[:, -1], "last": last[:, -1]}
    return torch.cat(parts, -1).float(), frames, state


def features(cfg):
    return cfg["patch"] * (3 if cfg["mask"] else 2) + 2


def quantiles(frames, z):
    """z [S, T, H, Q] → quantiles in the series' unit, ascending, float64 (docs/signal-model.md, sec. 4)."""
    root = torch.arange(1, z.shape[-2] + 1, device=z.device, dtype=torch.float64).sqrt()
    step = frames["step"][..., None] * root
    y = frames["last"][..., None, None] + step[..., None] * z.double().clamp(-20.0, 20.0).sinh()
    return y.clamp(-3.4028234663852886e38, 3.4028234663852886e38).sort(-1).values
