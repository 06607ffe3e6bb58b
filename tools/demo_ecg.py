#!/usr/bin/python3
"""Turns the ECG of Debian's python3-scipy (five minutes of MIT-BIH record 208, 360 Hz) into an HDF5 sensor log: /ecg in mV
and /t in ns. With --live it is written as a logger would, in SWMR mode, while others read it."""
import argparse
import io
import os
import time
import zipfile

import h5py
import numpy as np

SOURCE = "/usr/lib/python3/dist-packages/scipy/misc/ecg.dat"
RATE = 360
CHUNK = 1024
APPEND_S = 0.05


def load(path):
    """The record in mV; the file is a zip of one .npy of uint16."""
    with zipfile.ZipFile(path) as archive:
        raw = np.load(io.BytesIO(archive.read("ecg.npy")))
    return ((raw.astype(np.float64) - 1024) / 200).astype(np.float32)


def create(path):
    log = h5py.File(path, "w", libver=("v110", "v110"))
    options = {"maxshape": (None,), "chunks": (CHUNK,), "compression": "gzip", "shuffle": True}
    ecg = log.create_dataset("ecg", (0,), dtype="f4", **options)
    log.create_dataset("t", (0,), dtype="i8", **options)
    ecg.attrs["rate"] = float(RATE)
    ecg.attrs["unit"] = "mV"
    return log


def append(log, ecg, start_ns):
    """Samples first, times last: who reads both has whole rows."""
    first = log["ecg"].shape[0]
    times = start_ns + np.arange(first, first + len(ecg), dtype=np.int64) * 10**9 // RATE
    for name, rows in (("ecg", ecg), ("t", times)):
        log[name].resize(first + len(rows), axis=0)
        log[name][first:] = rows
        log[name].flush()


def write_live(log, ecg, speed, seconds):
    begin = time.monotonic()
    start_ns = time.time_ns()
    done = 0
    while done < len(ecg):
        elapsed = time.monotonic() - begin
        if seconds is not None and elapsed > seconds:
            break
        due = min(int(elapsed * speed * RATE), len(ecg))
        if due > done:
            append(log, ecg[done:due], start_ns)
        done = due
        time.sleep(APPEND_S)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="the HDF5 file to make; one that is there is replaced")
    parser.add_argument("--source", default=SOURCE, help="ecg.dat")
    parser.add_argument("--live", type=float, metavar="SPEED", help="write it live, at this multiple of its own speed")
    parser.add_argument("--seconds", type=float, help="with --live: for how long (default: to the end of the record)")
    args = parser.parse_args()

    ecg = load(args.source)
    folder, name = os.path.split(args.path)
    hidden = os.path.join(folder, f".{name}.new")  # under its name only when readers may open it
    with create(hidden) as log:
        if args.live:
            log.swmr_mode = True
            os.replace(hidden, args.path)
            write_live(log, ecg, args.live, args.seconds)
        else:
            append(log, ecg, time.time_ns() - len(ecg) * 10**9 // RATE)
    if not args.live:
        os.replace(hidden, args.path)


if __name__ == "__main__":
    main()
