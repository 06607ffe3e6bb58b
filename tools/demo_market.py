#!/usr/bin/python3
"""Pushes daily closing prices (matplotlib's sample data) to a mambad ZMQ input, one row at a time, as a live feed would."""
import argparse
import csv
import datetime
import time

import matplotlib
import numpy as np
import zmq

SAMPLES = matplotlib.get_data_path() + "/sample_data/"


def goog():
    rows = np.load(SAMPLES + "goog.npz")["price_data"]
    return [(int(day.astype("datetime64[ns]").astype(np.int64)), float(close)) for day, close in zip(rows["date"], rows["adj_close"])]


def msft():
    with open(SAMPLES + "msft.csv", newline="") as file:
        rows = [(datetime.datetime.strptime(r["Date"], "%d-%b-%y"), float(r["Close"])) for r in csv.DictReader(file)]
    return sorted((int(day.replace(tzinfo=datetime.timezone.utc).timestamp()) * 10**9, close) for day, close in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connect", default="tcp://127.0.0.1:5555")
    parser.add_argument("--seconds", type=float, default=25, help="how long the whole series takes")
    args = parser.parse_args()

    socket = zmq.Context().socket(zmq.PUSH)
    socket.linger = 2000
    socket.connect(args.connect)
    series = {"goog": goog(), "msft": msft()}
    longest = max(map(len, series.values()))
    start = time.monotonic()
    for i in range(longest):
        for name, rows in series.items():
            if i < len(rows):
                t_ns, close = rows[i]
                header = {"stream": name, "dtype": "float64", "shape": [1], "seq": i, "t_ns": str(t_ns),
                          "flags": ["end"] if i + 1 == len(rows) else []}
                socket.send_json(header, zmq.SNDMORE)
                socket.send(np.float64([close]))
        time.sleep(max(0, start + (i + 1) * args.seconds / longest - time.monotonic()))
    socket.close()


if __name__ == "__main__":
    main()
