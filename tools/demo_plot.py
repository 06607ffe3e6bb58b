#!/usr/bin/python3
"""Draws one picture of a run from its outputs: for each stream the signal, the forecast band and the anomaly score.

OUTPUTS is an HDF5 segment or JSON lines file of mambad, or a folder with one. Signals are read from the inputs:
ID=FILE, where FILE is an HDF5 file (ID=log.h5:/dataset) or a sound file; what tools/demo feeds is found by itself."""
import argparse
import glob
import json
import math
import os
import wave

import h5py
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.dates as mdates
import matplotlib.pyplot as plt

import demo_market

INK, BAND, MEDIAN, SCORE, WARMUP = "#222222", "#9ecae1", "#2171b5", "#d94801", "#cccccc"
SOUNDS = ("/usr/share/sounds/alsa/{}.wav", "/usr/share/codec2/wav/{}.wav")
UNKNOWN = np.iinfo(np.int64).min


class Stream:
    """What a run said of one stream: its last epoch, first channel."""

    def __init__(self, name, rate):
        self.name, self.rate = name, rate
        self.forecasts = []  # (seq of the first sample ahead, [horizon][quantiles], levels)
        self.seq, self.score = np.empty(0, np.int64), np.empty(0)
        self.times = {}  # seq → ns, where rows have times of their own


# ---- outputs --------------------------------------------------------------------------------------------------------


def from_hdf5(path):
    streams = []
    with h5py.File(path, "r", swmr=True) as f:
        names = [s.rstrip(b"\0").decode() for s in f["streams"][:]]
        info, levels = f["stream_info"][:], f["quantiles"][:]
        anomaly, prediction = f["anomaly"][:], f["prediction"][:]
        values = f["prediction_values"]
        for i, name in enumerate(names):
            s = Stream(name, float(info["rate"][i]))
            mine = anomaly[anomaly["stream"] == i]
            if not len(mine):
                continue
            epoch = mine["epoch"].max()
            mine = mine[mine["epoch"] == epoch]
            s.seq, s.score = mine["seq"], mine["score"]
            s.times = {int(r["seq"]): int(r["t_ns"]) for r in mine if r["t_ns"] != UNKNOWN}
            which = np.flatnonzero((prediction["stream"] == i) & (prediction["epoch"] == epoch) & (prediction["channel"] == 0))
            for k in which:
                h, q = prediction["horizon"][k], prediction["quantiles"][k]
                s.forecasts.append((int(prediction["seq"][k]), values[k, :h, :q], levels[prediction["levels"][k], :q]))
            streams.append(s)
    return streams


def from_lines(path):
    streams, scores, epochs = {}, {}, {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            m = json.loads(line)
            family, name = m["topic"].split("/", 1)[0], m.get("stream")
            if family not in ("anomaly", "prediction"):
                continue
            if name not in streams or m["epoch"] > epochs[name]:
                streams[name], scores[name], epochs[name] = Stream(name, m.get("rate") or 0), [], m["epoch"]
            data = np.array(m["data"], dtype=float)
            for i, row in enumerate(data):
                seq = m["seq"] + i * m["stride"]
                if family == "anomaly":
                    scores[name].append((seq, row[0]))
                    if m["t_ns"] is not None and i == 0:
                        streams[name].times[seq] = int(m["t_ns"])
                else:
                    streams[name].forecasts.append((seq, row[0], np.array(m["quantiles"])))
    for name, s in streams.items():
        if scores[name]:
            s.seq, s.score = np.array([x[0] for x in scores[name]], np.int64), np.array([x[1] for x in scores[name]])
    return [s for s in streams.values() if len(s.seq)]


def load_outputs(path):
    if os.path.isdir(path):
        found = sorted(glob.glob(os.path.join(path, "*-[0-9]*.h5"))) or sorted(glob.glob(os.path.join(path, "*.jsonl")))
        if not found:
            raise SystemExit(f"demo_plot: {path}: no outputs of mambad in it")
        path = found[-1]
    return from_hdf5(path) if path.endswith(".h5") else from_lines(path)


# ---- inputs ---------------------------------------------------------------------------------------------------------


def read_sound(path):
    """The mean of the channels at the file's own rate, ±1."""
    with wave.open(path) as w:
        width, channels, rate = w.getsampwidth(), w.getnchannels(), w.getframerate()
        raw = np.frombuffer(w.readframes(w.getnframes()), dtype={1: "u1", 2: "<i2", 4: "<i4"}[width])
    x = (raw.astype(float) - (128 if width == 1 else 0)) / 2 ** (8 * width - 1)
    return x.reshape(-1, channels).mean(axis=1), rate


def read_table(path, dataset):
    with h5py.File(path, "r", swmr=True) as f:
        x = f[dataset][:]
        return (x if x.ndim == 1 else x[:, 0]).astype(float), float(f[dataset].attrs.get("rate", 0))


def read_market(name):
    """What demo_market.py sends under this name."""
    if name not in demo_market.SERIES:
        return None
    return np.array([price for _, price in demo_market.prices(demo_market.SERIES[name])]), 0


def find_signal(stream, given, folder):
    """(samples, their rate), or None."""
    name = stream.name
    if name in given:
        path, _, dataset = given[name].partition(".h5:")
        return read_table(path + ".h5", dataset) if dataset else read_sound(path)
    log = os.path.join(folder, name + ".h5")
    if os.path.exists(log):
        return read_table(log, "/" + name)
    for pattern in SOUNDS:
        path = pattern.format(os.path.basename(name))
        if name.startswith("speech/") and os.path.exists(path):
            return read_sound(path)
    return read_market(name)


# ---- drawing --------------------------------------------------------------------------------------------------------


def tile(stream, ahead):
    """Each sample as it was forecast at least `ahead` samples before: forecasts laid edge to edge.
    → seq, the values at 10 %, 50 % and 90 % (or the nearest quantiles there are), and how far ahead the last ones are."""
    seqs, rows, furthest = [], [], ahead
    forecasts = sorted(stream.forecasts, key=lambda f: f[0])
    for i, (seq, values, levels) in enumerate(forecasts):
        stride = forecasts[i + 1][0] - seq if i + 1 < len(forecasts) else len(values)
        pick = [int(np.argmin(abs(levels - p))) for p in (0.1, 0.5, 0.9)]
        first, last = ahead - 1, min(ahead - 1 + stride, len(values))
        seqs += range(seq + first, seq + last)
        rows += list(values[first:last, pick])
        if last < first + stride:  # the forecasts do not reach each other: a hole, not a line
            seqs.append(seq + last)
            rows.append(np.full(3, np.nan))
        furthest = max(furthest, last if i + 1 < len(forecasts) else 0)
    return np.array(seqs, np.int64), np.array(rows).reshape(-1, 3), furthest


def choose_window(stream, n):
    """About n samples around the strangest one, preferably not among the first."""
    if len(stream.seq) <= n:
        return stream.seq[0], stream.seq[-1]
    score = np.where(np.isfinite(stream.score), stream.score, -1)
    middle = stream.seq[n // 2 + int(np.argmax(score[n // 2:]))]
    first = min(max(middle - n // 2, stream.seq[0]), stream.seq[-1] - n)
    return first, first + n


def choose(streams, n):
    """Those with a signal first, kinds in turn: of each first part of a name, and of the dated ones, one after the other."""
    seen, order = {}, []
    for k, (stream, signal) in enumerate(streams):
        kind = "dated" if not stream.rate else stream.name.split("/")[0]
        seen[kind] = seen.get(kind, 0) + 1
        order.append((signal is None, seen[kind], "/" in stream.name, k))
    return [streams[o[-1]] for o in sorted(order)[:n]]


class Axis:
    """From sample numbers to the numbers and words of the time axis."""

    def __init__(self, stream):
        self.rate, self.label = stream.rate, "sample"
        self.known = np.array(sorted(stream.times)), None
        if self.rate > 0:
            self.label = "seconds"
        elif len(self.known[0]) > 1:
            self.known = self.known[0], np.array([stream.times[s] for s in self.known[0]], float)
            self.label = "date"

    def __call__(self, seq):
        seq = np.asarray(seq, float)
        if self.label == "seconds":
            return seq / self.rate
        if self.label == "date":
            return mdates.date2num(np.datetime64(0, "ns")) + np.interp(seq, *self.known) / 86400e9
        return seq

    def finish(self, axes):
        if self.label == "date":
            axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(mdates.AutoDateLocator()))
            axes.xaxis.set_major_locator(mdates.AutoDateLocator())
        axes.set_xlabel(self.label)


def draw(stream, signal, ahead, n, top, bottom):
    first, last = choose_window(stream, n)
    axis = Axis(stream)
    seq, bands, furthest = tile(stream, ahead)
    shown = (seq >= first) & (seq <= last)
    if shown.any():
        x = axis(seq[shown])
        top.fill_between(x, bands[shown, 0], bands[shown, 2], color=BAND, lw=0, label="forecast, 10 % to 90 %")
        top.plot(x, bands[shown, 1], color=MEDIAN, lw=1, label=f"median, {ahead} to {furthest} samples ahead")
    if signal is not None:
        samples, rate = signal
        ratio = rate / stream.rate if rate and stream.rate else 1  # the daemon may have resampled it
        k = np.arange(int(first * ratio), min(math.ceil(last * ratio) + 1, len(samples)))
        top.plot(axis(k / ratio), samples[k], color=INK, lw=0.9, label="signal")
        seen = samples[k]
        if len(seen):  # a forecast far off the mark must not flatten the signal
            room = max(1.0 * np.ptp(seen), 1e-9)
            low, high = top.get_ylim()
            top.set_ylim(max(low, seen.min() - room), min(high, seen.max() + room))
    inside = (stream.seq >= first) & (stream.seq <= last)
    x, score = axis(stream.seq[inside]), stream.score[inside]
    bottom.fill_between(x, 0, 1, where=~np.isfinite(score), color=WARMUP, lw=0, alpha=0.5, label="warming up")
    bottom.plot(x, score, color=SCORE, lw=0.9, label="anomaly score")
    bottom.set_ylim(0, 1.02)
    top.set_title(stream.name, loc="left", fontsize=10, fontweight="bold")
    top.legend(loc="upper left", fontsize=7, ncols=3, framealpha=0.8)
    bottom.legend(loc="upper left", fontsize=7, ncols=2, framealpha=0.8)
    top.set_xlim(axis(first), axis(last))
    axis.finish(bottom)
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs")
    parser.add_argument("inputs", nargs="*", metavar="ID=FILE", help="where a stream's signal is")
    parser.add_argument("--out", required=True, help="the PNG to write")
    parser.add_argument("--ahead", type=int, default=1, help="how many samples before a sample its forecast was made, at least")
    parser.add_argument("--window", type=int, default=1500, help="samples shown of each stream, around the strangest one")
    parser.add_argument("--streams", type=int, default=6, help="most streams drawn")
    args = parser.parse_args()

    given = dict(item.split("=", 1) for item in args.inputs)
    folder = args.outputs if os.path.isdir(args.outputs) else os.path.dirname(args.outputs) or "."
    streams = [(s, find_signal(s, given, folder)) for s in load_outputs(args.outputs)]
    streams = choose(streams, args.streams)
    if not streams:
        raise SystemExit(f"demo_plot: {args.outputs}: no stream with anomaly scores in it")

    columns = 2 if len(streams) > 1 else 1
    rows = math.ceil(len(streams) / columns)
    figure = plt.figure(figsize=(8 * columns, 4.2 * rows), layout="constrained")
    cells = np.atleast_1d(figure.subfigures(rows, columns)).ravel()
    for cell, (stream, signal) in zip(cells, streams):
        top, bottom = cell.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        draw(stream, signal, args.ahead, args.window, top, bottom)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
