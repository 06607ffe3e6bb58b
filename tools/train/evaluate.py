#!/usr/bin/env python3
"""Scores an exported folder on real series of Debian packages, streamed as the daemon would: evaluate.py FOLDER [--card]

Series: ECG (python3-scipy; the part of ecg.dat that pack.py leaves), speech (alsa-utils, codec2-examples), markets
(python-matplotlib-data). What is not installed is left out and said so. Nothing here is used in training or in choosing anything per series.
"""
import argparse
import csv
import io
import math
import os
import re
import wave
import zipfile

import numpy as np
import torch

import data
import export
import front
import loss as losses
import pack
import priors
import scan as scans

ALSA = "/usr/share/sounds/alsa"
CODEC2 = "/usr/share/codec2/raw"
SAMPLES = "/usr/share/matplotlib/mpl-data/sample_data"


# ---- real series ------------------------------------------------------------------------------------------------

def ecg():
    with zipfile.ZipFile(pack.ECG) as z:
        yield "ECG 360 Hz, last 2 minutes", np.load(io.BytesIO(z.read("ecg.npy"))).astype(float)[pack.ECG_TRAINED:]


def wav(path, decimate):
    """Mono 16-bit WAV, low-passed (windowed sinc) and decimated."""
    with wave.open(path) as w:
        x = np.frombuffer(w.readframes(w.getnframes()), "<i2").astype(float).reshape(-1, w.getnchannels())[:, 0] / 32768
    k = np.arange(-32 * decimate, 32 * decimate + 1)
    taps = np.sinc(0.9 * k / decimate) * np.kaiser(len(k), 9.0)
    return np.convolve(x, taps / taps.sum(), "same")[::decimate]


def speech():
    for name in sorted(os.listdir(ALSA)):
        if name.endswith(".wav") and name != "Noise.wav":
            yield f"alsa {name[:-4]} 8 kHz", wav(os.path.join(ALSA, name), 6)


def vocoder():
    for name in ("hts1a", "hts2a", "forig", "morig", "cq_ref", "ve9qrp_10s", "vk5qi"):
        yield f"codec2 {name} 8 kHz", np.fromfile(os.path.join(CODEC2, name + ".raw"), "<i2").astype(float)


def columns(name):
    with open(os.path.join(SAMPLES, name), encoding="utf-8") as f:
        rows = [r for r in csv.reader(f) if r and not r[0].startswith("#")]
    head, body = rows[0], rows[1:]
    number = lambda s: float(s) if re.fullmatch(r"[-+.\deE]+", s.strip()) else math.nan
    return {h.strip(): np.array([number(r[i]) if i < len(r) else math.nan for r in body])
            for i, h in enumerate(head) if i > 0}


def markets():
    for name, x in columns("Stocks.csv").items():  # monthly; rows without a price are dividend days
        yield f"Stocks.csv {name}", x[np.isfinite(x)]
    prices = np.load(os.path.join(SAMPLES, "goog.npz"))["price_data"]
    yield "goog.npz adj_close", prices["adj_close"].astype(float)
    for name, x in columns("msft.csv").items():
        if name.startswith("Adj"):
            yield f"msft.csv {name}", x[::-1]  # the file is newest first


# ---- scores -----------------------------------------------------------------------------------------------------

@torch.no_grad()
def forecasts(net, cfg, x, scan, chunk=1024):
    """Streams one series: yields (frames, z) over runs of steps."""
    patch, device = cfg["input"]["patch"], net.input.weight.device
    x = torch.as_tensor(np.ascontiguousarray(x[:len(x) // patch * patch]), device=device)[None]
    features, frames, _ = front.run(cfg["input"], x, front.start_state(1, device))
    state = net.start_state(1)
    for at in range(0, features.shape[1], chunk):
        part = features[:, at:at + chunk]
        f, state = net.embed(part, torch.ones(part.shape[:2], device=device), state, scan)
        yield {k: v[:, at:at + chunk] for k, v in frames.items()}, net.forecast(f)


def pinball_sum(y, truth, levels):
    miss = truth[..., None] - y
    return (2 * torch.maximum(levels * miss, (levels - 1) * miss)).nansum(dim=(0, 1, 2)).mean().item()


def naive_sigmas(x):
    """σ of first differences up to and with each sample: of all, and of the last 256. Holes are stepped over."""
    d = np.diff(x, prepend=np.nan) ** 2
    out = []
    for window in (len(d), 256):
        total, n = np.nancumsum(d), np.cumsum(np.isfinite(d))
        lag = lambda v: v - np.concatenate([np.zeros(min(window, len(v)), v.dtype), v[:-window]])[:len(v)]
        out.append(np.sqrt(np.maximum(lag(total), 0) / np.maximum(lag(n), 1)))
    return out


def score(net, cfg, x, scan):
    there = np.flatnonzero(np.isfinite(x))
    x = x[there[0]:there[-1] + 1]
    patch, H, device = cfg["input"]["patch"], net.horizon, net.input.weight.device
    levels = torch.tensor(net.levels, dtype=torch.float64, device=device)
    gauss = (levels * 2 - 1).erfinv() * math.sqrt(2)
    padded = torch.as_tensor(np.concatenate([x, np.full(H, np.nan)]), device=device)
    sigmas = [torch.as_tensor(s, device=device) for s in naive_sigmas(x)]
    root = torch.arange(1, H + 1, device=device, dtype=torch.float64).sqrt()
    totals = dict(model=0.0, naive=[0.0, 0.0], error=0.0, naive_error=0.0, inside=0.0, n=0.0, size=0.0, step=0)
    for frames, z in forecasts(net, cfg, x, scan):
        T = z.shape[1]
        end = patch * (totals["step"] + torch.arange(1, T + 1, device=device))
        truth = padded[end[:, None] + torch.arange(H, device=device)][None]
        y = front.quantiles(frames, z)
        totals["model"] += pinball_sum(y, truth, levels)
        for i, s in enumerate(sigmas):
            band = frames["last"][..., None, None] + (s[end - 1][None, :, None] * root)[..., None] * gauss
            totals["naive"][i] += pinball_sum(band, truth, levels)
        totals["error"] += (y[..., len(levels) // 2] - truth).abs().nansum().item()
        totals["naive_error"] += (frames["last"][..., None] - truth).abs().nansum().item()
        totals["inside"] += ((truth >= y[..., 0]) & (truth <= y[..., -1])).sum().item()
        totals["n"] += truth.isfinite().sum().item()
        totals["size"] += truth.abs().nansum().item()
        totals["step"] += T
    move = np.nanmean(np.abs(np.diff(x)))
    naive = min(totals["naive"])
    return {"rows": len(x), "wql": totals["model"] / totals["size"], "naive_wql": naive / totals["size"],
            "wql_ratio": totals["model"] / naive, "mase": totals["error"] / totals["n"] / move,
            "naive_mase": totals["naive_error"] / totals["n"] / move, "coverage": totals["inside"] / totals["n"]}


def real(net, cfg, device, scan):
    """[(name, scores or None)]; None: not installed here."""
    out = []
    for source in (ecg, speech, vocoder, markets):
        try:
            out += [(name, score(net, cfg, x, scan)) for name, x in source()]
        except OSError:
            out.append((f"({source.__name__}: not installed)", None))
    return out


def table(results):
    lines = ["| series | rows | WQL | naive WQL | ratio | MASE | naive MASE | ratio | 80 % band holds |",
             "|---|---|---|---|---|---|---|---|---|"]
    for name, s in results:
        lines.append(f"| {name} | – |" if s is None else
                     f"| {name} | {s['rows']} | {s['wql']:.4g} | {s['naive_wql']:.4g} | {s['wql_ratio']:.3f} | {s['mase']:.3f} | "
                     f"{s['naive_mase']:.3f} | {s['mase'] / s['naive_mase']:.3f} | {100 * s['coverage']:.1f} % |")
    return "\n".join(lines)


# ---- series held back, of the same kinds as those of training --------------------------------------------------------

@torch.no_grad()
def ratio(net, cfg, scan, x):
    """Loss over that of naive bands, of series x [S, L + horizon] in the units of training."""
    levels = torch.tensor(net.levels, device=x.device)
    gauss = (levels * 2 - 1).erfinv().mul(math.sqrt(2)).asinh()
    patch, H = cfg["input"]["patch"], net.horizon
    L = (x.shape[1] - H) // patch * patch
    features, frames, _ = front.run(cfg["input"], x[:, :L].double(), front.start_state(len(x), x.device))
    f, _ = net.embed(features, torch.ones(features.shape[:2], device=x.device), net.start_state(len(x)), scan)
    chosen = torch.arange(2, L // patch, 16, device=x.device)
    ahead = patch * (chosen + 1)[:, None] + torch.arange(H, device=x.device)
    units = losses.in_units({k: v[:, chosen] for k, v in frames.items()}, x[:, ahead].double(), losses.unit_of(x))
    naive = losses.pinball(gauss.expand(*units[0].shape, -1), *units, levels)
    return (losses.pinball(net.forecast(f[:, chosen]), *units, levels) / naive).item()


def held_back(net, cfg, packed, device, scan, S=64, L=4096):
    """{"synthetic": {family: ratio}, "real": {source: ratio}}: seeds apart from training's, and series that pack.py holds back."""
    draw = data.source(device, 2**40 + 17)
    synthetic = {f.__name__: ratio(net, cfg, scan, f(draw, S, L + net.horizon)) for f in priors.FAMILIES}
    real = {}
    for name, series in (packed.held if packed else {}).items():
        if len(series):
            at = np.linspace(0, len(series) - 1, min(S, len(series))).astype(int)
            real[name] = ratio(net, cfg, scan, packed.window(series[at], L + net.horizon))
    return {"synthetic": synthetic, "real": real}


def mean(ratios):
    return math.exp(sum(map(math.log, ratios.values())) / len(ratios)) if ratios else math.nan


def lines(scores):
    return "\n".join(f"  {kind}, geometric mean {mean(ratios):.4f}: " + ", ".join(f"{k} {v:.3f}" for k, v in ratios.items())
                     for kind, ratios in scores.items())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("--card", action="store_true", help="write the table into the folder's README.md")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    cfg, net = export.load(args.folder, args.device)
    scan, _ = scans.choose(args.device, cfg["backbone"]["expand"] * cfg["backbone"]["d_model"], cfg["backbone"]["d_state"])
    text = table(real(net, cfg, args.device, scan))
    print(text)
    if args.card:
        path = os.path.join(args.folder, "README.md")
        with open(path, encoding="utf-8") as f:
            card = f.read()
        card = re.sub(r"\n\n(\(not measured yet|\| series)[^\0]*?\n\n", lambda _: f"\n\n{text}\n\n", card, count=1)
        with open(path, "w", encoding="utf-8") as f:
            f.write(card)


if __name__ == "__main__":
    main()
