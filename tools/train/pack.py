#!/usr/bin/env python3
"""Packs real series whose licence permits a derived model into one file for the trainer: pack.py OUT.npz [--data DIR]

DIR is the folder of MANIFEST.md (default ../shared/data beside the repository); the rest are files of Debian packages,
read in place. Needs numpy, xz, ffmpeg and (for r-cran-modeldata) Rscript. SOURCES below is all that goes in, with its
licence; a source that is not here is left out and said so. No series by which a model is judged is among them: nothing
of ltsf, energy-env, physio, market, nab, smd, asd, skab, nothing that evaluate.py scores (of ecg.dat it scores the part
after ECG_TRAINED). No ND, SA, GPL or unstated licence.

The file: `values` float32 (one series after another, z-scored, NaN = missing), `length` [n], `source` [n] (index into
`names`), `held` [n] (True: for validation only; whole groups, such as a run or a clip, never part of one), `names`,
`share` (weight of drawing each source).
"""
import argparse
import csv
import glob
import io
import os
import re
import subprocess
import zipfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/lib/python3/dist-packages"
ECG = PYTHON + "/scipy/misc/ecg.dat"
ECG_TRAINED = 64800  # samples: the first three minutes of five
SNIPPET = 8192       # samples of a sound
RATES = (2000, 4000, 8000, 16000)
HELD_EVERY = 8       # groups


def rows(path, header=True):
    with open(path, encoding="utf-8-sig") as f:
        lines = list(csv.reader(f))
    return (lines[0], lines[1:]) if header else (None, lines)


def number(text):
    try:
        return float(text)
    except ValueError:
        return np.nan


def column(body, i):
    return np.array([number(r[i]) if i < len(r) else np.nan for r in body])


def table(path, first=1):
    """All columns from `first` on, as one group."""
    head, body = rows(path)
    return [(os.path.basename(path), column(body, i)) for i in range(first, len(head))]


def matrix(path):
    text = subprocess.run(["xz", "-dc", path], stdout=subprocess.PIPE, check=True).stdout
    return np.loadtxt(io.BytesIO(text), delimiter=",", ndmin=2)


def sound(path, rate):
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-ac", "1", "-ar", str(rate), "-f", "f32le", "-"],
                         stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(raw, "<f4").astype(float)


def sounds(paths, pieces=1):
    """Of each file up to `pieces` snippets, each at the next rate, and the file's loudness a hundred times a second."""
    for k, path in enumerate(sorted(paths)):
        for j in range(pieces):
            x = sound(path, RATES[(k + j) % len(RATES)])
            at = j * (len(x) - SNIPPET) // max(pieces - 1, 1) if len(x) > SNIPPET else 0
            yield path, x[at:at + SNIPPET]
            if len(x) <= SNIPPET:
                break
        x = sound(path, 8000)
        yield path, np.log(1e-4 + np.sqrt((x[:len(x) // 80 * 80].reshape(-1, 80) ** 2).mean(-1)))


# ---- sources: each yields (group, series) ------------------------------------------------------------------------

def tep(data):
    """All runs but d00_te, on which rates of false alarms are measured."""
    for path in sorted(set(glob.glob(data + "/tep/*.csv.xz")) - {data + "/tep/d00_te.csv.xz"}):
        for x in matrix(path).T:
            yield re.sub(r"_te|\.csv\.xz", "", os.path.basename(path)), x


def telemetry(data):
    for path in sorted(glob.glob(data + "/smap-msl/*.csv.xz")):
        yield os.path.basename(path).split(".")[0], matrix(path)[:, 0]


def environment(data):
    """Clips whose own licence the README gives as CC0 or CC BY, as it does for all but two."""
    with open(data + "/esc10/ESC-10-README-with-licences.md", encoding="utf-8") as f:
        free = {m[1] for m in re.finditer(r"^- \*\*\[([^]]+)\.ogg\].*\(\[CC(?:0|-BY)\]", f.read(), re.M)}
    yield from sounds(p for p in glob.glob(data + "/esc10/audio/*/*.ogg") if os.path.basename(p)[:-4] in free)


def meetings(data):
    yield from sounds(glob.glob(data + "/speech-vad/ami/*.flac"), pieces=6)


def readings(data):
    paths = glob.glob(data + "/speech-vad/librivox/*.flac") + glob.glob(data + "/music-misc/198-209-*.ogg")
    yield from sounds(paths, pieces=4)


def music(data):
    yield from sounds((p for p in glob.glob(data + "/music-misc/*.ogg") if "198-209" not in p), pieces=12)


def samples(_):
    """Those that the package's copyright file lists as CC0."""
    with open("/usr/share/doc/sonic-pi-samples/copyright", encoding="utf-8") as f:
        parts = f.read().split("\n\n")
    free = {m[1] for p in parts if re.search(r"^License: CC0", p, re.M) for m in re.finditer(r"samples/(\S+\.flac)", p)}
    yield from sounds(p for p in glob.glob("/usr/share/sonic-pi/samples/*.flac") if os.path.basename(p) in free)


def vega(_):
    folder = PYTHON + "/vega_datasets/_data/"
    yield "sf", column(rows(folder + "sf-temps.csv")[1], 0)
    yield "seattle", column(rows(folder + "seattle-temps.csv")[1], 1)
    for i in range(1, 5):
        yield "weather", column(rows(folder + "seattle-weather.csv")[1], i)
    yield from table(folder + "us-employment.csv")


def modeldata(_):
    """Daily passengers of 20 stations and the weather of Chicago, 2001-2016; retail sales of drinks, monthly."""
    script = """e <- new.env(); invisible(lazyLoad("/usr/lib/R/site-library/modeldata/data/Rdata", e))
                drinks <- c(e$drinks[[2]], rep(NA, nrow(e$Chicago) - nrow(e$drinks)))
                write.csv(cbind(e$Chicago[, 1:36], drinks), row.names = FALSE)"""
    text = subprocess.run(["Rscript", "-e", script], stdout=subprocess.PIPE, check=True, text=True).stdout
    lines = list(csv.reader(io.StringIO(text)))
    for i, name in enumerate(lines[0]):
        if not name.startswith("weather_"):
            yield name, column(lines[1:], i)


def economy(_):
    folder = PYTHON + "/statsmodels/datasets/"
    for name, first in (("macrodata/macrodata.csv", 2), ("nile/nile.csv", 1), ("elec_equip/elec_equip.csv", 1),
                        ("danish_data/data.csv", 1)):
        yield from table(folder + name, first)


def heart(_):
    with zipfile.ZipFile(ECG) as z:
        x = np.load(io.BytesIO(z.read("ecg.npy"))).astype(float)[:ECG_TRAINED]
    for at in range(0, len(x), 16200):
        yield "ecg", x[at:at + 16200]


def nerves(_):
    folder = "/usr/share/matplotlib/mpl-data/sample_data/"
    for x in np.fromfile(folder + "eeg.dat", "<f8").reshape(-1, 4).T:
        yield "eeg", x
    x = np.fromfile(folder + "membrane.dat", "<f4").astype(float)
    yield "membrane", x


SOURCES = [  # reader, weight of drawing, where from, licence
    (tep, 1.0, "tep", "UIUC/NCSA"),
    (telemetry, 2.0, "smap-msl", "Caltech BSD-3"),
    (environment, 1.0, "esc10, clips CC0 or CC BY by its README", "CC BY 3.0, CC0"),
    (meetings, 0.7, "speech-vad/ami", "CC BY 4.0"),
    (readings, 0.4, "speech-vad/librivox, LibriSpeech of music-misc", "public domain, CC BY 4.0"),
    (music, 0.4, "music-misc", "public domain, CC BY 3.0"),
    (samples, 0.5, "sonic-pi-samples, those that are CC0", "CC0"),
    (vega, 1.0, "python3-vega-datasets: sf-temps, seattle-*, us-employment", "public domain"),
    (modeldata, 2.0, "r-cran-modeldata: Chicago, drinks", "MIT"),
    (economy, 0.4, "python3-statsmodels: macrodata, nile, elec_equip, danish_data", "public domain"),
    (heart, 1.0, "python3-scipy: ecg.dat, its first part", "ODC-BY 1.0 (MIT-BIH record 208)"),
    (nerves, 0.3, "python-matplotlib-data: eeg.dat, membrane.dat", "matplotlib (PSF-like)"),
]


def usable(x):
    """Trimmed to its first and last present values, z-scored; None where nothing moves."""
    x = np.asarray(x, float)
    there = np.flatnonzero(np.isfinite(x))
    if len(there) < 40:
        return None
    x = x[there[0]:there[-1] + 1]
    spread = np.nanstd(x)
    return ((x - np.nanmean(x)) / spread).astype("<f4") if spread > 1e-9 * (1 + np.nanmax(np.abs(x))) else None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--data", default=os.path.join(HERE, "../../../shared/data"))
    args = p.parse_args()
    values, source, held, names, share = [], [], [], [], []
    print("| source | from | licence | series | held back | points |\n|---|---|---|---|---|---|")
    for read, weight, where, licence in SOURCES:
        try:
            found = [(g, y) for g, x in read(args.data) for y in [usable(x)] if y is not None]
        except (OSError, subprocess.CalledProcessError) as e:
            found = []
            print(f"{read.__name__} left out: {e}")
        if not found:
            continue
        groups = {g: i for i, g in enumerate(dict.fromkeys(g for g, _ in found))}
        back = [groups[g] % HELD_EVERY == HELD_EVERY // 2 for g, _ in found]
        points = sum(len(y) for _, y in found)
        print(f"| {read.__name__} | {where} | {licence} | {len(found)} | {sum(back)} | {points:,} |", flush=True)
        values += [y for _, y in found]
        source += [len(names)] * len(found)
        held += back
        names.append(read.__name__)
        share.append(weight)
    length = np.array([len(v) for v in values], "<i4")
    np.savez_compressed(args.out, values=np.concatenate(values), length=length, source=np.array(source, "<i2"),
                        held=np.array(held), names=np.array(names), share=np.array(share, "<f4"))
    print(f"{len(values)} series, {length.sum():,} points, {os.path.getsize(args.out) / 2**20:.1f} MiB: {args.out}")


if __name__ == "__main__":
    main()
