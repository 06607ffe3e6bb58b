"""What the trainer reads: pools of series on the training device, synthetic (priors.py) and real (a file of pack.py), mixed,
and damaged as real ones are.

A pool is S lanes of the same number of segments. A lane is a run of whole series, 1, 2, 4 … segments long with an equal share of
samples each; every step of training takes the next segment of all lanes, and a lane that comes to a new series starts from a fresh state. So
any step sees starts, middles and ends of short and long series.
"""
import collections
import concurrent.futures

import numpy as np
import torch

import loss as losses
import priors

SETTLE = 256    # samples cut from the start: filters in the families begin at rest, streams do not
POOL = 2**25    # samples drawn at once on a GPU: drawing costs launches rather than arithmetic


# ---- synthetic ---------------------------------------------------------------------------------------------------

def blend(r, S, L):
    """S rows drawn from the families by weight, in random order."""
    weights = torch.tensor(list(priors.FAMILIES.values()), device="cpu")
    share = torch.multinomial(weights, S, replacement=True, generator=r.cpu)
    counts = torch.bincount(share, minlength=len(weights)).tolist()
    rows = torch.cat([f(r, n, L).float() for f, n in zip(priors.FAMILIES, counts) if n])
    rows = torch.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    return rows[torch.randperm(S, device=rows.device, generator=r.g)]


def synthetic(r, S, L):
    """Some rows get a second family added, multiplied or switched in, are summed up or differenced, turned over in value
    or time."""
    k = max(1, S // 4)
    y = blend(r, S + k, L)
    y = torch.cat([together(r, y[:k], y[S:]), y[k:S]])
    y = torch.where(r.chance(0.04, S, 1), priors.unit(y).cumsum(-1), y)
    y = torch.where(r.chance(0.04, S, 1), y.diff(dim=-1, prepend=y[:, :1]), y)
    y = torch.where(r.chance(0.25, S, 1), -y, y)
    return torch.where(r.chance(0.1, S, 1), y.flip(-1), y)


def together(r, a, b):
    k, L = a.shape
    a, b, kind = priors.unit(a), priors.unit(b), r.uniform(0.0, 1.0, k, 1)
    added = a + r.log_uniform(0.02, 1.0, k, 1) * b
    product = a * (0.5 * b.clamp(-4.0, 4.0)).exp()
    switched = torch.where(priors.regimes(r, k, L) > 0, a, r.uniform(-3.0, 3.0, k, 1) + r.log_uniform(0.1, 3.0, k, 1) * b)
    return torch.where(kind < 0.55, added, torch.where(kind < 0.75, product, switched))


# ---- real --------------------------------------------------------------------------------------------------------

class Pack:
    """The series of pack.py on the training device; `held` ones are never drawn, they are for validation."""

    def __init__(self, path, device):
        with np.load(path) as f:
            self.names, share, source, held, length = (f[k] for k in ("names", "share", "source", "held", "length"))
            values = f["values"]
        start = np.concatenate([[0], length.cumsum()[:-1]])
        self.values, self.start, self.length = (torch.as_tensor(v, device=device) for v in (values, start, length.astype("<i8")))
        weight = np.where(held, 0.0, length**0.5)
        total = np.bincount(source, weight, len(share))
        self.weight = torch.as_tensor(weight * (share / np.maximum(total, 1e-9))[source])
        self.held = {str(name): np.flatnonzero(held & (source == i)) for i, name in enumerate(self.names)}
        self.counts = {str(name): int((~held & (source == i)).sum()) for i, name in enumerate(self.names)}

    def window(self, i, L):
        """The first L samples of series i [n, L], NaN past its end."""
        i = torch.as_tensor(i, device=self.values.device)
        return self.at(i, torch.arange(L, device=self.values.device).expand(len(i), L))

    def at(self, i, place):
        inside = place < self.length[i][:, None]
        values = self.values[(self.start[i][:, None] + place.minimum(self.length[i][:, None] - 1))]
        return torch.where(inside, values, torch.nan)

    def draw(self, r, S, L):
        """Random stretches, some of them read faster or slower than recorded, turned over, or two of them added."""
        y = self.stretch(r, S, L)
        k = max(1, S // 5)
        y = torch.cat([y[:k] + r.log_uniform(0.1, 1.0, k, 1) * self.stretch(r, k, L).nan_to_num(0.0), y[k:]])
        y = torch.where(r.chance(0.25, S, 1), -y, y)
        return y + r.chance(0.2, S, 1) * r.log_uniform(1e-3, 0.1, S, 1) * r.normal(S, L)

    def stretch(self, r, S, L):
        i = torch.multinomial(self.weight, S, replacement=True, generator=r.cpu).to(self.values.device)
        rate = torch.where(r.chance(0.5, S, 1), r.log_uniform(0.4, 6.0, S, 1), torch.ones(S, 1, device=r.device)).double()
        room = (self.length[i][:, None] - rate * L).clamp(min=0.0)
        first = (room * torch.rand(S, 1, device=r.device, generator=r.g)).floor()
        place = first + rate * torch.arange(L, device=r.device)
        low, part = place.long(), (place - place.floor()).float()
        y = self.at(i, low)
        y = torch.where(part > 0, y + part * (self.at(i, low + 1) - y), y)
        return torch.where(r.chance(0.05, S, 1) & (room > 0), y.flip(-1), y)


# ---- damage ------------------------------------------------------------------------------------------------------

def runs(r, S, L, between, length):
    """Boolean runs of random length, `between` apart on average (varying by row)."""
    on = r.chance(1.0 / (between * r.log_uniform(0.1, 10.0, S, 1)), S, L)
    stop = r.chance(1.0 / (length * r.log_uniform(0.05, 1.0, S, 1)).clamp(min=1.0), S, L)
    clock = torch.arange(1, L + 1, device=on.device)
    return torch.where(on, clock, 0).cummax(-1).values > torch.where(stop & ~on, clock, 0).cummax(-1).values


def damaged(r, y):
    """Shifted for good, hit by spikes, quantised, clipped or interrupted by constant stretches."""
    S, L = y.shape
    there = y.isfinite()
    mean = torch.where(there, y, 0.0).sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp(min=1)
    spread = (torch.where(there, y - mean, 0.0).square().sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp(min=1)).sqrt().clamp(min=1e-12)
    shift = r.chance(r.log_uniform(1e-4, 2e-3, S, 1), S, L) * r.normal(S, L)
    y = torch.where(r.chance(0.08, S, 1), y + 2.0 * spread * shift.cumsum(-1), y)
    spikes = r.chance(r.log_uniform(3e-4, 1e-2, S, 1), S, L) * r.normal(S, L) * r.log_uniform(1.0, 10.0, S, 1)
    y = torch.where(r.chance(0.08, S, 1), y + spread * spikes, y)
    grid = spread * r.log_uniform(3e-4, 1.0, S, 1)
    y = torch.where(r.chance(0.25, S, 1), (y / grid).round() * grid, y)
    low, high = mean - r.uniform(0.5, 3.0, S, 1) * spread, mean + r.uniform(0.5, 3.0, S, 1) * spread
    y = torch.where(r.chance(0.05, S, 1), y.clamp(low, high), y)
    stuck = runs(r, S, L, 400.0, 60.0) & r.chance(0.04, S, 1)
    index = torch.where(stuck, 0, torch.arange(L, device=y.device)).cummax(-1).values
    return y.gather(-1, index)


def irregular(r, y):
    """Rows read at uneven places, with holes or jitter, NaN past their end: (y, dt in units of the typical step)."""
    S, L = y.shape
    holes = 1.0 + (runs(r, S, L, 100.0, 3.0) * r.log_uniform(1.0, 40.0, S, L)).floor()
    jitter = 1.0 + r.integer(0, 3, S, L)
    uneven = r.chance(0.6, S, 1)
    dt = torch.where(uneven, holes, jitter)
    place = dt.double().cumsum(-1).long() - 1
    y = torch.where(place < L, y.gather(-1, place.clamp(max=L - 1)), torch.nan)
    return y, torch.where(uneven, dt, dt / 2.0)


def batch(r, S, L, pack=None, real=0.0):
    """x [S, L] float32 with NaN for missing, dt [S, L] float32 in units of the interval (1 where regular)."""
    k = max(1, S // 12)
    from_pack = round(real * (S - k)) if pack else 0
    y = synthetic(r, S - from_pack, SETTLE + L)[:, SETTLE:]
    uneven, gaps = irregular(r, y[:k])
    rows = [uneven, y[k:]] + ([pack.draw(r, from_pack, L)] if from_pack else [])
    y = damaged(r, torch.cat(rows))
    missing = runs(r, S, L, 200.0, 40.0) & r.chance(0.12, S, 1)
    missing |= r.chance(r.uniform(0.0, 0.5, S, 1), S, L) & r.chance(0.04, S, 1)
    dt = torch.cat([gaps, torch.ones(S - k, L, device=y.device)])
    order = torch.randperm(S, device=y.device, generator=r.g)
    return torch.where(missing, torch.nan, y)[order], dt[order]


# ---- pools -------------------------------------------------------------------------------------------------------

def source(device, seed):
    r = priors.Draw(device, seed)
    r.cpu = torch.Generator()
    r.cpu.manual_seed(seed)
    return r


def lane(segments, rng):
    """Lengths of a lane's series: halved again and again, kept whole so often that all lengths have the same share."""
    lengths, halvings = [], segments.bit_length()
    def split(n, kinds):
        if kinds == 1 or rng.random() < 1.0 / kinds:
            lengths.append(n)
        else:
            split(n // 2, kinds - 1)
            split(n // 2, kinds - 1)
    split(segments, halvings)
    rng.shuffle(lengths)
    return lengths


class Feed:
    """Endless segments for S lanes: next() → x [S, L + ahead], dt [S, L], c [S] (loss.py), first [S] (a series starts). Once
    `ahead_of_time`, a thread draws the next pool (on a stream of its own) while one is being read; nobody else may use `r`."""

    def __init__(self, r, S, L, ahead, segments, pack=None, real=0.0):
        self.r, self.S, self.L, self.ahead, self.segments, self.pack, self.real = r, S, L, ahead, segments, pack, real
        self.gpu = r.device.type == "cuda"
        self.repeat = max(1, POOL // (S * L * segments)) if self.gpu else 1
        self.reach = torch.arange(L + ahead, device=r.device)
        self.rng = np.random.default_rng(r.cpu.initial_seed())
        self.thread, self.coming, self.pool, self.before, self.at = None, None, None, None, 0

    def ahead_of_time(self):
        self.thread = concurrent.futures.ThreadPoolExecutor(1)
        self.stream = torch.cuda.Stream() if self.gpu else None

    def draw(self):
        """A pool: samples, their dt and series' units, flat; for each step and lane where its segment starts, which series it is of,
        and whether that starts there."""
        S, L = self.S, self.L
        lanes = [[n for _ in range(self.repeat) for n in lane(self.segments, self.rng)] for _ in range(S)]
        counts = collections.Counter(n for l in lanes for n in l)
        xs, dts, cs, free, begin, rows = [], [], [], {}, 0, 0
        for n in sorted(counts):
            count, size = counts[n], n * L + self.ahead
            x, dt = batch(self.r, count, size, self.pack, self.real)
            cs.append(losses.unit_of(x))
            xs.append(x.flatten())
            dts.append(dt.flatten())
            at = np.arange(count)[:, None] * size + np.arange(n) * L + begin
            free[n] = iter(np.stack([at, np.broadcast_to(np.arange(count)[:, None] + rows, at.shape),
                                     np.broadcast_to(np.arange(n) == 0, at.shape)], -1))
            begin, rows = begin + count * size, rows + count
        cells = np.stack([np.concatenate([next(free[n]) for n in l]) for l in lanes], 1)  # [steps, S, 3]
        start, series, first = (torch.as_tensor(np.ascontiguousarray(cells[..., j]), device=self.r.device) for j in range(3))
        return torch.cat(xs), torch.cat(dts), torch.cat(cs), start, series, first > 0

    def draw_apart(self):
        if not self.gpu:
            return self.draw()
        with torch.cuda.stream(self.stream):
            pool = self.draw()
            self.stream.synchronize()
        return pool

    def turn(self):
        """To the next pool. The one before is kept until then: updates under way may still read it."""
        self.before = self.pool
        self.pool = self.coming.result() if self.coming else self.draw()
        self.coming = self.thread.submit(self.draw_apart) if self.thread else None
        self.at = 0

    def next(self):
        if not self.pool or self.at == len(self.pool[3]):
            self.turn()
        x, dt, c, start, series, first = self.pool
        where = start[self.at][:, None] + self.reach
        out = x[where], dt[where[:, :self.L]], c[series[self.at]], first[self.at]
        self.at += 1
        return out
