#!/usr/bin/python3
"""Pushes monthly prices (matplotlib's sample data) to a mambad ZMQ input, one row at a time, as a live feed would."""
import argparse
import csv
import datetime
import time

import matplotlib
import numpy as np
import zmq

FILE = matplotlib.get_data_path() + "/sample_data/Stocks.csv"
SERIES = {"GSPC": "^GSPC", "IXIC": "^IXIC", "MSFT": "MSFT"}


def prices(column):
    """[(ns since the epoch, price)]; rows without one (dividend days) are left out."""
    with open(FILE, newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        day = lambda r: datetime.datetime.fromisoformat(r["Date"]).replace(tzinfo=datetime.timezone.utc)
        return [(int(day(r).timestamp()) * 10**9, float(r[column])) for r in rows if r[column]]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connect", default="tcp://127.0.0.1:5555")
    parser.add_argument("--seconds", type=float, default=25, help="how long the whole series takes")
    args = parser.parse_args()

    socket = zmq.Context().socket(zmq.PUSH)
    socket.linger = 2000
    socket.connect(args.connect)
    series = {name: prices(column) for name, column in SERIES.items()}
    longest = max(map(len, series.values()))
    start = time.monotonic()
    for i in range(longest):
        for name, rows in series.items():
            if i < len(rows):
                t_ns, price = rows[i]
                header = {"stream": name, "dtype": "float64", "shape": [1], "seq": i, "t_ns": str(t_ns),
                          "flags": ["end"] if i + 1 == len(rows) else []}
                socket.send_json(header, zmq.SNDMORE)
                socket.send(np.float64([price]))
        time.sleep(max(0, start + (i + 1) * args.seconds / longest - time.monotonic()))
    socket.close()


if __name__ == "__main__":
    main()
