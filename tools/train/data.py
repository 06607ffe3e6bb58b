"""Batches of synthetic series on the training device: families mixed, combined, and damaged as real ones are."""
import torch

import priors

SETTLE = 256  # samples cut from the start: filters in the families begin at rest, streams do not


def blend(r, S, L):
    """S rows drawn from the families by weight, in random order."""
    weights = torch.tensor(list(priors.FAMILIES.values()), device="cpu")
    share = torch.multinomial(weights, S, replacement=True, generator=r.cpu)
    counts = torch.bincount(share, minlength=len(weights)).tolist()
    rows = torch.cat([f(r, n, L).float() for f, n in zip(priors.FAMILIES, counts) if n])
    rows = torch.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    return rows[torch.randperm(S, device=rows.device, generator=r.g)]


def mixed(r, S, L):
    """Some rows get a second family added or multiplied in, some are turned over in value or time."""
    y = blend(r, S, L)
    k = max(1, S // 5)
    a, b = priors.unit(y[:k]), priors.unit(blend(r, k, L))
    added = a + r.log_uniform(0.02, 1.0, k, 1) * b
    y = torch.cat([torch.where(r.chance(0.75, k, 1), added, a * (0.5 * b.clamp(-4.0, 4.0)).exp()), y[k:]])
    y = torch.where(r.chance(0.25, S, 1), -y, y)
    return torch.where(r.chance(0.1, S, 1), y.flip(-1), y)


def damaged(r, y):
    """Quantised, clipped or interrupted by constant stretches."""
    S, L = y.shape
    spread = y.std(-1, keepdim=True).clamp(min=1e-12)
    grid = spread * r.log_uniform(3e-4, 1.0, S, 1)
    y = torch.where(r.chance(0.3, S, 1), (y / grid).round() * grid, y)
    mean = y.mean(-1, keepdim=True)
    low, high = mean - r.uniform(0.5, 3.0, S, 1) * spread, mean + r.uniform(0.5, 3.0, S, 1) * spread
    y = torch.where(r.chance(0.05, S, 1), y.clamp(low, high), y)
    stuck = runs(r, S, L, 400.0, 60.0) & r.chance(0.04, S, 1)
    index = torch.where(stuck, 0, torch.arange(L, device=y.device)).cummax(-1).values
    return y.gather(-1, index)


def runs(r, S, L, between, length):
    """Boolean runs of random length, `between` apart on average (varying by row)."""
    on = r.chance(1.0 / (between * r.log_uniform(0.1, 10.0, S, 1)), S, L)
    stop = r.chance(1.0 / (length * r.log_uniform(0.05, 1.0, S, 1)).clamp(min=1.0), S, L)
    clock = torch.arange(1, L + 1, device=on.device)
    return torch.where(on, clock, 0).cummax(-1).values > torch.where(stop & ~on, clock, 0).cummax(-1).values


def irregular(r, S, L, draw):
    """Rows sampled at uneven places of a denser series: (y, dt in reference steps). Holes or jitter."""
    holes = 1.0 + (runs(r, S, L, 100.0, 3.0) * r.log_uniform(1.0, 40.0, S, L)).floor()
    jitter = 1.0 + r.integer(0, 3, S, L)
    dt = torch.where(r.chance(0.6, S, 1), holes, jitter)
    place = dt.cumsum(-1)
    dense = draw(r, S, 4 * L)
    fits = place < 4 * L
    y = dense.gather(-1, place.clamp(max=4 * L - 1).long())
    typical = torch.where(dt.max(-1, keepdim=True).values <= 3.0, 2.0, 1.0)
    return y, fits, dt / typical


def batch(r, S, L):
    """x [S, L] float64 with NaN for missing, dt [S, L] float32 in units of the interval (1 where regular)."""
    k = max(1, S // 10)
    y = mixed(r, S - k, SETTLE + L)[:, SETTLE:]
    uneven, fits, gaps = irregular(r, k, L, mixed)
    y = damaged(r, torch.cat([y, uneven])).double()
    missing = runs(r, S, L, 200.0, 40.0) & r.chance(0.15, S, 1)
    missing |= r.chance(r.uniform(0.0, 0.5, S, 1), S, L) & r.chance(0.05, S, 1)
    missing[S - k:] |= ~fits
    dt = torch.cat([torch.ones(S - k, L, device=y.device), gaps])
    order = torch.randperm(S, device=y.device, generator=r.g)
    return torch.where(missing, torch.nan, y)[order], dt[order]


def source(device, seed):
    r = priors.Draw(device, seed)
    r.cpu = torch.Generator()
    r.cpu.manual_seed(seed)
    return r
