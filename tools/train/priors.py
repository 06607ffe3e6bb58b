"""Synthetic series: one function per family, prior(r, S, L) → [S, L] float32. Every row draws its own parameters, so
one call gives S different processes. Units do not matter (the normaliser is equivariant to shift and scale).

Times and periods are in samples. Nothing here is fitted to any real series.
"""
import math

import torch

from front import linear_scan

TAU = 2.0 * math.pi


class Draw:
    """Random numbers of one generator on one device."""

    def __init__(self, device, seed):
        self.device = torch.device(device)
        self.g = torch.Generator(device=self.device)
        self.g.manual_seed(seed)

    def uniform(self, lo, hi, *shape):
        return lo + (hi - lo) * torch.rand(*shape, device=self.device, generator=self.g)

    def log_uniform(self, lo, hi, *shape):
        return self.uniform(math.log(lo), math.log(hi), *shape).exp()

    def normal(self, *shape):
        return torch.randn(*shape, device=self.device, generator=self.g)

    def chance(self, p, *shape):
        return torch.rand(*shape, device=self.device, generator=self.g) < p

    def integer(self, lo, hi, *shape):
        return torch.randint(lo, hi, shape, device=self.device, generator=self.g)

    def heavy(self, *shape):
        """Normals whose scale is itself log-normal, from Gaussian to very heavy tails by row."""
        spread = self.uniform(0.0, 1.2, shape[0], *[1] * (len(shape) - 1))
        return self.normal(*shape) * (spread * self.normal(*shape) - spread**2).exp()

    def poisson(self, rate):
        return torch.poisson(rate, generator=self.g)

    def clock(self, L):
        return torch.arange(L, device=self.device, dtype=torch.float32)


def ar1(a, noise):
    """y[t] = a·y[t−1] + noise[t], rows with their own a [S, 1]."""
    return linear_scan(a, noise)


def smooth(r, S, L, time):
    """Unit-variance AR(1) with time constants [S, 1]: a slowly wandering quantity."""
    a = torch.exp(-1.0 / time)
    first = r.normal(S, 1)
    noise = torch.cat([first, (1.0 - a**2).sqrt() * r.normal(S, L - 1)], 1)
    return ar1(a, noise)


def unit(x):
    return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True).clamp(min=1e-6)


def phase(r, S, L, lo, hi, wander=0.3):
    """Cumulative cycles of an oscillation whose period [S] wanders around its mean (by up to `wander`)."""
    period = r.log_uniform(lo, hi, S, 1)
    drift = r.uniform(0.0, 1.0, S, 1) ** 3 * wander
    rate = (drift * smooth(r, S, L, period * r.log_uniform(1.0, 30.0, S, 1))).exp() / period
    return r.uniform(0.0, 1.0, S, 1) + rate.cumsum(-1), period


# ---- smooth random functions and coloured noise ---------------------------------------------------------------

def gaussian_process(r, S, L, terms=24):
    """Random Fourier features; spectra from squared-exponential to rough (Student-like frequencies)."""
    length = r.log_uniform(3.0, L / 2, S, 1)
    rough = r.uniform(0.0, 1.2, S, 1)
    frequency = r.normal(S, terms) * (rough * r.normal(S, terms)).exp() / length
    angle = r.uniform(0.0, TAU, S, terms)
    t, y = r.clock(L), 0.0
    for k in range(terms):
        y = y + torch.cos(frequency[:, k, None] * t + angle[:, k, None])
    return y


def kernels(r, S, L):
    """Gaussian processes of composed kernels: up to three of linear, smooth, rough, locally periodic and white, added
    or multiplied."""
    y = 0.0
    for k in range(3):
        kind = r.integer(0, 5, S, 1)
        line = r.normal(S, 1) + r.normal(S, 1) * 3.0 * r.clock(L) / L
        smooth_part = unit(gaussian_process(r, S, L, terms=8))
        rough = smooth(r, S, L, r.log_uniform(5.0, L, S, 1))
        part = torch.where(kind == 2, rough, locally_periodic(r, S, L))
        part = torch.where(kind == 0, line, torch.where(kind == 1, smooth_part, part))
        if k == 0:
            y = part
        else:
            both = torch.where(r.chance(0.4, S, 1), unit(y) * part, unit(y) + r.log_uniform(0.1, 2.0, S, 1) * part)
            y = torch.where(r.chance(0.6, S, 1), both, y)
    return unit(y) + r.log_uniform(1e-3, 1.0, S, 1) * r.normal(S, L)


def locally_periodic(r, S, L, terms=4):
    """A periodic kernel times a smooth one: harmonics whose amplitudes and phases wander independently."""
    cycles, period = phase(r, S, L, 4.0, min(L / 3, 2500.0), wander=0.0)
    time = (period * r.log_uniform(1.0, 300.0, S, 1)).repeat(2 * terms, 1)
    wander = smooth(r, 2 * terms * S, L, time).unflatten(0, (2 * terms, S))
    slope, y = r.uniform(0.3, 2.5, S, 1), 0.0
    for j in range(terms):
        angle = TAU * (j + 1) * cycles
        y = y + (j + 1) ** -slope * (wander[2 * j] * angle.cos() + wander[2 * j + 1] * angle.sin())
    return y


def power_law(r, S, L):
    """Noise with spectrum 1/f^β, β from −0.3 (blue) to 3, sometimes with resonant bands."""
    F = L // 2 + 1
    f = (torch.arange(F, device=r.device) + 0.5) / L
    gain = -0.5 * r.uniform(-0.3, 3.0, S, 1) * f.log()
    for _ in range(2):
        centre, width = r.log_uniform(0.002, 0.4, S, 1), r.uniform(0.03, 0.5, S, 1)
        band = torch.exp(-0.5 * ((f.log() - centre.log()) / width) ** 2)
        gain = gain + r.chance(0.4, S, 1) * r.uniform(0.5, 3.0, S, 1) * band
    spectrum = torch.complex(r.normal(S, F), r.normal(S, F)) * gain.exp()
    return unit(torch.fft.irfft(spectrum, n=L))


def resonators(r, S, L):
    """Noise through one to three damped oscillators: AR(2) and the like."""
    noise, y = r.heavy(S, L), 0.0
    for k in range(3):
        omega = r.log_uniform(0.004, 2.5, S, 1)
        decay = 1.0 / r.log_uniform(3.0, 600.0, S, 1)
        pole = torch.polar((-decay).exp(), omega)
        ring = unit(linear_scan(pole, noise.to(pole.dtype)).real)
        y = y + ring * (1.0 if k == 0 else r.chance(0.5, S, 1) * r.log_uniform(0.1, 1.0, S, 1))
    return y + r.log_uniform(0.001, 1.0, S, 1) * r.normal(S, L)


# ---- random walks, finance-like -------------------------------------------------------------------------------

def volatility(r, S, L):
    """Log-normal stochastic volatility with a slow and a fast part and occasional jumps of regime."""
    slow = r.uniform(0.0, 1.0, S, 1) * smooth(r, S, L, r.log_uniform(50.0, 2000.0, S, 1))
    fast = r.uniform(0.0, 0.7, S, 1) * smooth(r, S, L, r.log_uniform(3.0, 50.0, S, 1))
    return (slow + fast + r.chance(0.3, S, 1) * r.uniform(0.5, 2.0, S, 1) * regimes(r, S, L)).exp()


def regimes(r, S, L):
    """A two-state telegraph signal."""
    flips = r.chance(1.0 / r.log_uniform(20.0, 2000.0, S, 1), S, L)
    return (flips.cumsum(-1) % 2).float()


def random_walk(r, S, L):
    steps = r.heavy(S, L) * volatility(r, S, L)
    drift = r.chance(0.4, S, 1) * r.normal(S, 1) * 0.1
    momentum = ar1(r.chance(0.3, S, 1) * r.uniform(-0.5, 0.8, S, 1), steps)
    return (momentum + drift * steps.std(-1, keepdim=True)).cumsum(-1)


def price(r, S, L):
    """A positive walk: log-returns with stochastic volatility, drift, and now and then rounding to ticks."""
    returns = r.log_uniform(0.002, 0.06, S, 1) * r.heavy(S, L) * volatility(r, S, L)
    y = (8.0 * ((returns + r.normal(S, 1) * 0.002).clamp(-0.4, 0.4).cumsum(-1) / 8.0).tanh()).exp()
    tick = y[:, :1] * r.log_uniform(1e-5, 1e-2, S, 1)
    return torch.where(r.chance(0.5, S, 1), (y / tick).round() * tick, y)


def garch(r, S, L):
    """Returns whose variance answers to them, to falls often more than to rises (GARCH with leverage), heavy-tailed, now
    and then summed up to a price."""
    z = r.heavy(S, L)
    z = z / z.square().mean(-1, keepdim=True).sqrt()
    answer, lasting = r.log_uniform(0.02, 0.3, S, 1), 1.0 - r.log_uniform(0.002, 0.2, S, 1)
    leverage = r.chance(0.5, S, 1) * r.uniform(0.0, 1.0, S, 1)
    felt = z.square() * (1.0 - leverage * z.sign())
    growth = (answer * felt + (1.0 - answer)) * lasting
    variance = linear_scan(torch.cat([torch.ones_like(z[:, :1]), growth[:, :-1]], 1), (1.0 - lasting).expand(S, L),
                           torch.ones_like(z[:, 0]))
    returns = z * variance.clamp(max=1e4).sqrt() + r.uniform(-0.05, 0.1, S, 1)
    price = (8.0 * (r.log_uniform(0.001, 0.03, S, 1) * returns.cumsum(-1) / 8.0).tanh()).exp()
    return torch.where(r.chance(0.5, S, 1), price, ar1(r.uniform(-0.1, 0.1, S, 1), returns))


def mean_reverting(r, S, L):
    """Ornstein-Uhlenbeck around a level that wanders or jumps."""
    a = torch.exp(-1.0 / r.log_uniform(1.0, 500.0, S, 1))
    level = torch.where(r.chance(0.5, S, 1), regimes(r, S, L), smooth(r, S, L, r.log_uniform(100.0, 5000.0, S, 1)))
    noise = r.heavy(S, L) * torch.where(r.chance(0.5, S, 1), volatility(r, S, L), 1.0)
    return unit(ar1(a, noise)) + r.chance(0.5, S, 1) * r.uniform(0.5, 5.0, S, 1) * level


def growth(r, S, L):
    """Compound growth that lasts to the end, with a season in proportion and steps from smooth to as wild as
    prices'."""
    rate = r.uniform(0.0, 10.0, S, 1) / L
    wild = rate.clamp(min=0.5 / L) * r.log_uniform(0.3, 30.0, S, 1)
    walk = (rate + wild * r.heavy(S, L).clamp(-8.0, 8.0) * volatility(r, S, L).clamp(max=5.0)).cumsum(-1)
    cycles, _ = phase(r, S, L, 4.0, 60.0, wander=0.0)
    cycles = torch.where(r.chance(0.6, S, 1), r.clock(L) / 12.0, cycles)
    wave = sum(r.normal(S, 1) / j * torch.cos(TAU * (j * cycles + r.uniform(0.0, 1.0, S, 1))) for j in range(1, 4))
    log = walk + r.chance(0.5, S, 1) * r.log_uniform(0.01, 0.3, S, 1) * wave
    return log.clamp(-20.0, 20.0).exp() * (r.log_uniform(1e-4, 0.1, S, 1) * r.normal(S, L)).exp()


def switching(r, S, L):
    """Ornstein-Uhlenbeck whose speed, level and noise change between two regimes."""
    on = regimes(r, S, L) > 0
    pick = lambda a, b: torch.where(on, a, b)
    a = torch.exp(-1.0 / pick(r.log_uniform(1.0, 300.0, S, 1), r.log_uniform(1.0, 300.0, S, 1)))
    level = r.chance(0.7, S, 1) * pick(r.normal(S, 1), r.normal(S, 1)) * r.log_uniform(0.3, 10.0, S, 1)
    sigma = pick(r.log_uniform(0.1, 3.0, S, 1), r.log_uniform(0.1, 3.0, S, 1))
    return linear_scan(a, (1.0 - a) * level + (1.0 - a**2).sqrt() * sigma * r.heavy(S, L))


def noise(r, S, L):
    """Independent draws around a constant: nothing to predict but the distribution."""
    skewed = (r.uniform(0.1, 1.2, S, 1) * r.normal(S, L)).exp()
    return torch.where(r.chance(0.3, S, 1), skewed, r.heavy(S, L))


# ---- periodic ---------------------------------------------------------------------------------------------------

def seasonal(r, S, L):
    """Trend, up to two seasonalities of harmonics, slowly modulated, plus autocorrelated noise."""
    t, y = r.clock(L) / L, 0.0
    for k in range(2):
        cycles, _ = phase(r, S, L, 3.0, 1500.0, wander=0.02)
        whole = torch.tensor([4.0, 7.0, 12.0, 24.0, 30.0, 48.0, 52.0, 60.0, 96.0, 168.0, 288.0, 365.0], device=r.device)
        exact = r.clock(L) / whole[r.integer(0, len(whole), S, 1)]
        cycles = torch.where(r.chance(0.5, S, 1), exact, cycles)
        slope = r.uniform(0.3, 2.0, S, 1)
        wave = sum(r.normal(S, 1) * j**-slope * torch.cos(TAU * (j * cycles + r.uniform(0.0, 1.0, S, 1)))
                   for j in range(1, 7))
        swing = 1.0 + r.uniform(0.0, 0.5, S, 1) * smooth(r, S, L, r.log_uniform(200.0, 5000.0, S, 1))
        y = y + unit(wave) * swing * (1.0 if k == 0 else r.chance(0.5, S, 1) * r.uniform(0.1, 1.0, S, 1))
    trend = r.normal(S, 1) * t + r.normal(S, 1) * t**2
    trend = trend + r.uniform(0.0, 0.5, S, 1) * smooth(r, S, L, torch.full_like(y[:, :1], L / 2))
    y = y + r.chance(0.6, S, 1) * r.log_uniform(0.3, 10.0, S, 1) * trend
    y = torch.where(r.chance(0.2, S, 1), (0.5 * y).clamp(max=6.0).exp(), y)
    return y + r.log_uniform(0.003, 1.5, S, 1) * unit(ar1(r.uniform(0.0, 0.95, S, 1), r.heavy(S, L)))


DAYS = (7.0, 12.0, 24.0, 24.0, 24.0, 30.0, 48.0, 52.0, 60.0, 96.0, 96.0, 144.0, 288.0, 288.0, 365.0, 1440.0)


def calendar(r, S, L):
    """Load, traffic, temperature: a day's shape within a week's, days of another kind (weekends, holidays), each day a
    little different, slow drift, noise that may grow with the level."""
    whole = torch.tensor(DAYS, device=r.device)
    day = torch.where(r.chance(0.75, S, 1), whole[r.integer(0, len(whole), S, 1)], r.log_uniform(4.0, 700.0, S, 1))
    week = torch.where(r.chance(0.7, S, 1), 7, r.integer(3, 13, S, 1))
    cycles = (r.clock(L) + (r.uniform(0.0, 1.0, S, 1) * day * week).floor()) / day
    p, index = cycles % 1.0, cycles.floor().long() % week

    def shape():
        slope = r.uniform(0.5, 2.0, S, 1)
        wave = sum(r.normal(S, 1) * j**-slope * torch.cos(TAU * (j * p + r.uniform(0.0, 1.0, S, 1)))
                   for j in range(1, 7))
        return unit(wave + r.chance(0.5, S, 1) * r.uniform(0.0, 2.0, S, 1) * bumps(r, p, 3, 0.01))

    usual = shape()
    other = r.uniform(0.2, 1.0, S, 1) * usual + r.uniform(0.0, 0.7, S, 1) * shape() - r.uniform(0.0, 1.5, S, 1)
    off = (index < r.integer(0, 3, S, 1)) | (per_cycle(r, cycles) > r.uniform(2.0, 4.0, S, 1))
    y = torch.where(off & r.chance(0.7, S, 1), other, usual)
    levels = r.normal(S, 13).gather(-1, index)
    y = y + r.chance(0.4, S, 1) * r.uniform(0.0, 0.6, S, 1) * levels
    y = y * (1.0 + r.uniform(0.0, 0.4, S, 1) * per_cycle(r, cycles)) + r.uniform(0.0, 0.4, S, 1) * per_cycle(r, cycles)
    slow = smooth(r, S, L, day * r.log_uniform(1.0, 60.0, S, 1))
    y = torch.where(r.chance(0.4, S, 1), y * (0.4 * slow).exp(), y)
    y = y + r.chance(0.7, S, 1) * r.log_uniform(0.05, 2.0, S, 1) * slow
    y = torch.where(r.chance(0.15, S, 1), y.clamp(min=r.uniform(-1.0, 0.5, S, 1)), y)
    y = torch.where(r.chance(0.25, S, 1), (0.7 * y).clamp(max=6.0).exp(), y)
    spread = y.std(-1, keepdim=True)
    noise = unit(ar1(r.uniform(0.0, 0.97, S, 1), r.heavy(S, L))) * r.log_uniform(0.01, 0.7, S, 1) * spread
    louder = (y - y.amin(-1, keepdim=True)) / spread.clamp(min=1e-6)
    return y + noise * torch.where(r.chance(0.4, S, 1), 0.3 + 0.5 * louder, 1.0)


def chirp(r, S, L):
    """An oscillation that sweeps through frequencies, with harmonics and an envelope."""
    t = r.clock(L) / L
    low, high = r.log_uniform(0.001, 0.3, S, 1), r.log_uniform(0.001, 0.3, S, 1)
    sweep = low * (high / low) ** (0.5 - 0.5 * torch.cos(TAU * r.uniform(0.3, 3.0, S, 1) * t))
    cycles = sweep.cumsum(-1)
    y = sum(r.normal(S, 1) / j**1.5 * torch.sin(TAU * (j * cycles + r.uniform(0.0, 1.0, S, 1))) for j in range(1, 4))
    envelope = (r.uniform(0.0, 1.0, S, 1) * smooth(r, S, L, r.log_uniform(50.0, 2000.0, S, 1))).exp()
    return unit(y) * envelope + r.log_uniform(1e-3, 0.5, S, 1) * r.normal(S, L)


def waveform(r, S, L):
    """Saw, triangle and square waves, sines with sharp turns."""
    cycles, _ = phase(r, S, L, 6.0, 800.0)
    p = cycles % 1.0
    duty = r.uniform(0.1, 0.9, S, 1)
    saw = torch.where(p < duty, p / duty, (1.0 - p) / (1.0 - duty))
    kind = r.integer(0, 4, S, 1)
    y = torch.where(kind == 0, saw, torch.where(kind == 1, (p < duty).float(), torch.where(kind == 2, p, saw**3)))
    return y + r.log_uniform(1e-3, 0.3, S, 1) * r.normal(S, L)


# ---- pulse trains -----------------------------------------------------------------------------------------------

def per_cycle(r, cycles, *, cap=2048):
    """Standard normals that are constant within each cycle."""
    index = cycles.floor().long()
    index = (index - index[:, :1]) % cap
    return r.normal(cycles.shape[0], cap).gather(-1, index)


def bumps(r, p, count, narrow):
    """A sum of bumps at random places of the cycle p in [0, 1), signs and widths random."""
    S, y = p.shape[0], 0.0
    for _ in range(count):
        at, width = r.uniform(0.1, 0.9, S, 1), r.log_uniform(narrow, 0.12, S, 1)
        y = y + r.heavy(S, 1) * torch.exp(-0.5 * ((p - at) / width) ** 2)
    return y


def heartbeat(r, S, L):
    """ECG-like: P, Q, R, S, T waves on a wandering period, now and then a beat of another shape, baseline wander."""
    cycles, period = phase(r, S, L, 40.0, 900.0, wander=0.15)
    p = cycles % 1.0
    y = 0.0
    for at, height, width in ((0.22, 0.12, 0.025), (0.375, -0.12, 0.01), (0.40, 1.0, 0.012), (0.425, -0.25, 0.011),
                              (0.62, 0.28, 0.045)):
        place = at + 0.03 * r.normal(S, 1)
        size = height * (0.5 * r.normal(S, 1)).exp() * torch.where(r.chance(0.15, S, 1), -1.0, 1.0)
        y = y + size * torch.exp(-0.5 * ((p - place) / (width * r.log_uniform(0.6, 2.0, S, 1))) ** 2)
    other = per_cycle(r, cycles) < r.uniform(-4.0, 0.0, S, 1)
    ectopic = bumps(r, p, 3, 0.03)
    y = torch.where(other & r.chance(0.6, S, 1), ectopic, y) * (1.0 + r.uniform(0.0, 0.2, S, 1) * per_cycle(r, cycles))
    wander = r.uniform(0.0, 0.5, S, 1) * smooth(r, S, L, period * r.log_uniform(1.0, 8.0, S, 1))
    return y + wander + r.log_uniform(2e-3, 0.1, S, 1) * ar1(r.uniform(0.0, 0.9, S, 1), r.normal(S, L))


def pulses(r, S, L):
    """A random template repeated on a wandering period; some repetitions missing or scaled."""
    cycles, period = phase(r, S, L, 12.0, 1200.0)
    y = bumps(r, cycles % 1.0, 6, 0.01)
    y = y * (1.0 + r.uniform(0.0, 0.5, S, 1) * per_cycle(r, cycles))
    y = torch.where((per_cycle(r, cycles) < -1.3) & r.chance(0.3, S, 1), 0.0, y)
    return y + r.log_uniform(1e-3, 0.5, S, 1) * smooth(r, S, L, period * r.log_uniform(0.05, 5.0, S, 1))


def voice(r, S, L):
    """Sound-like: glottal pulses and noise through resonances, in bursts with envelopes between near-silences."""
    cycles, period = phase(r, S, L, 20.0, 180.0, wander=0.15)
    p = cycles % 1.0
    open_part = r.uniform(0.3, 0.7, S, 1)
    glottal = torch.where(p < open_part, torch.sin(math.pi * p / open_part) ** 2, 0.0)
    voiced = torch.sigmoid(6.0 * smooth(r, S, L, r.log_uniform(200.0, 3000.0, S, 1)) + 2.0 * r.normal(S, 1))
    source = voiced * glottal.diff(dim=-1, prepend=glottal[:, :1]) * period + (1.0 - voiced) * 0.3 * r.normal(S, L)
    source = source + 0.02 * r.normal(S, L)
    y = 0.0
    for low, high in ((0.15, 0.7), (0.6, 1.8), (1.6, 2.8)):  # radians per sample
        centre = r.uniform(low, high, S, 1) * (0.15 * smooth(r, S, L, r.log_uniform(300.0, 3000.0, S, 1))).exp()
        pole = torch.polar((-1.0 / r.log_uniform(8.0, 60.0, S, 1)).exp().expand(S, L).contiguous(), centre)
        y = y + r.log_uniform(0.2, 1.0, S, 1) * unit(linear_scan(pole, source.to(pole.dtype)).real)
    loud = r.uniform(1.0, 3.0, S, 1) * smooth(r, S, L, r.log_uniform(100.0, 2000.0, S, 1))
    envelope = (loud - r.uniform(0.0, 4.0, S, 1) * regimes(r, S, L)).clamp(-8.0, 2.0).exp()
    floor = r.chance(0.7, S, 1) * r.log_uniform(1e-4, 3e-2, S, 1)
    return y * envelope + floor * r.normal(S, L)


# ---- steps, events, counts --------------------------------------------------------------------------------------

def steps(r, S, L):
    """Piecewise constant or piecewise linear, with a little noise or none."""
    change = r.chance(1.0 / r.log_uniform(8.0, 1000.0, S, 1), S, L)
    index = change.cumsum(-1)
    level = r.heavy(S, L).gather(-1, index.clamp(max=L - 1))
    y = torch.where(r.chance(0.3, S, 1), level.cumsum(-1) / 50.0, level)
    a = torch.exp(-1.0 / r.log_uniform(0.2, 60.0, S, 1))
    y = torch.where(r.chance(0.4, S, 1), ar1(a, (1.0 - a) * y), y)
    return y + r.chance(0.7, S, 1) * r.log_uniform(1e-3, 0.5, S, 1) * r.normal(S, L)


def events(r, S, L):
    """Intermittent: decaying shots at random times over a quiet floor."""
    rate = 1.0 / r.log_uniform(5.0, 500.0, S, 1)
    rate = rate * (r.uniform(0.0, 1.0, S, 1) * smooth(r, S, L, r.log_uniform(50.0, 2000.0, S, 1))).exp()
    shots = r.chance(rate, S, L) * r.heavy(S, L).abs()
    y = ar1(torch.exp(-1.0 / r.log_uniform(0.1, 80.0, S, 1)), shots)
    return y + r.chance(0.7, S, 1) * r.log_uniform(1e-3, 0.1, S, 1) * r.normal(S, L)


def counts(r, S, L):
    """Poisson counts with a varying, partly seasonal rate."""
    cycles, _ = phase(r, S, L, 6.0, 500.0, wander=0.02)
    log_rate = r.uniform(-2.5, 5.0, S, 1) + r.uniform(0.0, 1.5, S, 1) * torch.cos(TAU * cycles)
    log_rate = log_rate + r.uniform(0.0, 0.8, S, 1) * smooth(r, S, L, r.log_uniform(5.0, 1000.0, S, 1))
    return r.poisson(log_rate.clamp(max=8.0).exp())


def intermittent(r, S, L):
    """Demand: zero at most times, now and then whole or skewed amounts; the odds drift and may know a season."""
    cycles, _ = phase(r, S, L, 5.0, 400.0, wander=0.02)
    odds = r.uniform(-4.0, 1.0, S, 1) + r.uniform(0.0, 2.0, S, 1) * torch.cos(TAU * cycles)
    odds = odds + r.uniform(0.0, 1.0, S, 1) * smooth(r, S, L, r.log_uniform(20.0, 2000.0, S, 1))
    size = (r.uniform(0.1, 1.0, S, 1) * r.normal(S, L) + r.uniform(0.0, 4.0, S, 1)).exp()
    size = torch.where(r.chance(0.6, S, 1), size.ceil(), size)
    return torch.where(torch.rand(S, L, device=r.device, generator=r.g) < torch.sigmoid(odds), size, 0.0)


def jobs(r, S, L):
    """A machine's metric: a skewed noisy base, work at fixed intervals, bursts with a level of their own, rare
    spikes."""
    base = (r.uniform(0.02, 0.6, S, 1) * ar1(r.uniform(0.0, 0.97, S, 1), r.heavy(S, L)).clamp(-8.0, 8.0)).exp()
    every = torch.tensor([6.0, 12.0, 24.0, 60.0, 72.0, 144.0, 288.0, 288.0, 1440.0], device=r.device)
    any_period = r.log_uniform(5.0, 1500.0, S, 1).round()
    period = torch.where(r.chance(0.6, S, 1), every[r.integer(0, len(every), S, 1)], any_period)
    cycles = r.clock(L) / period + r.uniform(0.0, 1.0, S, 1)
    size = r.log_uniform(0.3, 20.0, S, 1) * (r.uniform(0.0, 0.4, S, 1) * per_cycle(r, cycles)).exp()
    late = r.chance(0.4, S, 1) * 0.02 * per_cycle(r, cycles).abs()
    busy = (cycles % 1.0 - late) % 1.0 < r.log_uniform(0.003, 0.3, S, 1)
    busy = busy & (per_cycle(r, cycles) > r.uniform(-4.0, -1.0, S, 1))
    burst = regimes(r, S, L) * r.chance(0.4, S, 1) * r.log_uniform(0.3, 10.0, S, 1)
    spike = r.chance(r.log_uniform(1e-4, 1e-2, S, 1), S, L) * r.log_uniform(1.0, 30.0, S, L)
    y = base * (1.0 + burst) + r.chance(0.7, S, 1) * size * busy + r.chance(0.5, S, 1) * spike
    return torch.where(r.chance(0.3, S, 1), y.clamp(max=r.log_uniform(1.5, 20.0, S, 1)), y)


FAMILIES = {  # weights of drawing
    gaussian_process: 0.8, kernels: 1.5, power_law: 1.2, resonators: 1.2,
    random_walk: 1.5, price: 1.5, growth: 1.0, garch: 1.5, mean_reverting: 1.2, switching: 1.0, noise: 0.5,
    seasonal: 2.0, calendar: 5.0, chirp: 0.4, waveform: 0.6,
    heartbeat: 1.8, pulses: 0.8, voice: 1.5,
    steps: 0.7, events: 0.6, counts: 0.6, intermittent: 0.5, jobs: 1.5,
}
