#!/usr/bin/python3
"""A logger under remote control, for test_hdf5_follow.c: one command a line on stdin, one answer a line on stdout.

Row i of generation g holds x = (g·1e6 + i, −i) and t = g·1e15 + i·1000, so that a reader can tell what it reads."""
import random
import sys
import time

import h5py
import numpy as np

file = None


def rows(g, first, n):
    i = np.arange(first, first + n)
    return np.stack([g * 10**6 + i, -i], axis=1), g * 10**15 + i * 1000


def create(path, libver, chunk):
    global file
    file = h5py.File(path, "w", libver=libver)
    file.create_dataset("x", (0, 2), maxshape=(None, 2), chunks=(int(chunk), 2), dtype="f8", compression="gzip")
    file.create_dataset("t", (0,), maxshape=(None,), chunks=(int(chunk) * 2,), dtype="i8")


def append(g, n, what="xt"):
    g, n = int(g), int(n)
    for name, values in zip("xt", rows(g, 0, 0)):
        if name in what:
            data = file[name]
            first = data.shape[0]
            data.resize(first + n, axis=0)
            data[first:] = rows(g, first, n)["xt".index(name)]
            data.flush()


def shrink(n):
    for name in "xt":
        file[name].resize(int(n), axis=0)
        file[name].flush()


def stream(g, seconds, seed):
    """Appends at random sizes and times; sometimes only one of the two datasets is flushed."""
    rng, end = random.Random(int(seed)), time.monotonic() + float(seconds)
    while time.monotonic() < end:
        append(g, rng.choice([1, 2, 7, 31, 64, 300]))
        if rng.random() < 0.3:
            time.sleep(rng.random() * 0.02)
    return file["x"].shape[0]


def reopen(path, libver):
    global file
    file = h5py.File(path, "r+", libver=libver)


def swmr():
    file.swmr_mode = True


def sync():
    file.flush()


def close():
    file.close()


for line in sys.stdin:
    command, *args = line.split()
    try:
        print("ok", globals()[command](*args), flush=True)
    except Exception as e:
        print("failed", " ".join(str(e).split()), flush=True)
