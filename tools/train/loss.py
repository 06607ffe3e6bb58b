"""Pinball loss of the forecast head, in units in which every series counts alike.

Two units, half each. c: the series' own mean |move| over 1 … 128 samples, so that a term is the share of what "repeat the
last value" gets wrong (rare large moves count as in a weighted quantile loss). d·√h: what was known when the forecast was
made, which gives quiet stretches and near horizons their say; held above c/10, lest a burst after silence be all there is.
"""
import torch

LAGS = (1, 4, 16, 64, 128)


def typical_move(x):
    """c [S]: mean over lags of the mean absolute difference of present samples; 0 for a constant series."""
    moves = [(x[:, lag:] - x[:, :-lag]).abs() for lag in LAGS if lag < x.shape[1]]
    return torch.stack([m.nan_to_num(0.0).sum(-1) / m.isfinite().sum(-1).clamp(min=1) for m in moves]).mean(0)


def in_units(frames, truth, c):
    """Truth [S, K, H] and step size in the loss's units, and where the truth counts."""
    root = torch.arange(1, truth.shape[-1] + 1, device=truth.device, dtype=torch.float64).sqrt()
    step = frames["step"][..., None] * root
    c = c[:, None, None]
    counts = truth.isfinite() & (frames["n"] > 1)[..., None] & (c > 0)
    weight = torch.where(c > 0, 0.5 / c + 0.5 / torch.maximum(step, 0.1 * c), 0.0)
    target = torch.where(counts, (truth - frames["last"][..., None]) * weight, 0.0)
    return target.float(), (step * weight).float(), counts


def pinball(z, target, step, counts, levels):
    """Mean over what counts and over levels; z [S, K, H, Q] are raw head outputs."""
    miss = target[..., None] - step[..., None] * torch.sinh(z.float().clamp(-20.0, 20.0))
    loss = torch.maximum(levels * miss, (levels - 1.0) * miss).mean(-1)
    return 2.0 * (loss * counts).sum() / counts.sum().clamp(min=1)
