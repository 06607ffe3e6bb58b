"""Pinball loss of the forecast head, in units in which every series counts alike.

Two units, half each. c: what naive forecasts get wrong on this series, mean |x[t + lag] − x[t]| over short lags or of
the one long lag (a season, perhaps) that serves better, so that a term is about the share of a seasonal naive error.
d·√h: what was known when the forecast was made, which gives quiet stretches and near horizons their say; held above
c/10, lest a burst after silence be all there is.

Horizon h weighs h^−nearness: whoever looks far ahead looks at the near as well, and anomalies are scored on the next patch.
"""
import torch

SHORT = (1, 4, 16, 64)
SEASONS = (7, 12, 24, 48, 52, 96, 144, 168, 288, 336, 365, 672)
LEAST = 0.3  # of the short lags' mean: what is periodic to the last digit does not take over


def moves(x, lag):
    """Mean |x[t + lag] − x[t]| of present pairs, over the first 8192 samples [S]."""
    d = (x[:, lag:8192 + lag] - x[:, :-lag][:, :8192]).abs()
    return d.nan_to_num(0.0).sum(-1) / d.isfinite().sum(-1).clamp(min=1)


def unit_of(x):
    """c [S] of series x [S, L]; 0 for a constant series."""
    mean = torch.stack([moves(x, lag) for lag in SHORT]).mean(0)
    best = mean
    for lag in SEASONS:
        if 3 * lag < x.shape[1]:
            m = moves(x, lag)
            best = torch.where(m > 0, torch.minimum(best, m), best)
    return torch.maximum(best, LEAST * mean)


def in_units(frames, truth, c, nearness=0.5):
    """Truth [S, K, H] and step size in the loss's units, and how much each counts."""
    root = torch.arange(1, truth.shape[-1] + 1, device=truth.device, dtype=torch.float64).sqrt()
    step = frames["step"][..., None] * root
    c = c[:, None, None]
    counts = truth.isfinite() & (frames["n"] > 1)[..., None] & (c > 0)
    weight = torch.where(c > 0, 0.5 / c + 0.5 / torch.maximum(step, 0.1 * c), 0.0)
    target = torch.where(counts, (truth - frames["last"][..., None]) * weight, 0.0)
    return target.float(), (step * weight).float(), (counts / root ** (2 * nearness)).float()


def pinball(z, target, step, counts, levels):
    """Weighted mean over what counts and over levels; z [S, K, H, Q] are raw head outputs."""
    miss = target[..., None] - step[..., None] * torch.sinh(z.float().clamp(-20.0, 20.0))
    loss = torch.maximum(levels * miss, (levels - 1.0) * miss).mean(-1)
    return 2.0 * (loss * counts).sum() / counts.sum().clamp(min=1)
