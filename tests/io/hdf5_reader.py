#!/usr/bin/python3
"""Reads what test_hdf5_sink.c wrote, as a user would: `check FILE` after it was closed, `along FILE LOOKS` while it is written.

Row i of stream s: seq = 10·i, t = 10¹⁸ + i·10⁷ ns, out_seq = i; see the C side for the numbers."""
import sys
import time

import h5py
import numpy as np

STREAMS, HORIZON, QUANTILES, DIM = 3, 5, 4, 6


def check_rows(rows, every):
    """The stamps of rows that come `every` samples, per stream."""
    for s in np.unique(rows["stream"]):
        mine = rows[rows["stream"] == s]
        channels = 1 + (mine["channel"].max() if "channel" in rows.dtype.names else 0)
        i = np.arange(len(mine)) // channels
        assert (mine["out_seq"] == i).all(), mine["out_seq"]
        assert (mine["seq"] == every * i).all()
        want = 10**18 + i * every * 10**6 if s != 2 else np.full(len(mine), np.iinfo(np.int64).min)
        assert (mine["t_ns"] == want).all(), (s, mine["t_ns"], want)
        assert (mine["epoch"] == s).all()


def check(path):
    f = h5py.File(path, "r")
    assert f.attrs["format"] == "mambad output" and f.attrs["run"] == 42 and len(f.attrs["version"]) > 0
    names = [x.decode() for x in f["streams"][:]]
    assert names == ["plant/a", "plänt-" + "b" * 193, "c"], names
    assert f["stream_info"]["model"].tolist() == [b"m"] * 3 and f["stream_info"]["rate"].tolist() == [1000, 1000, 0]

    p, values = f["prediction"][:], f["prediction_values"][:]
    assert len(p) == len(values) == 3 * 200 * 2
    check_rows(p, 10)
    assert values.shape[1:] == (HORIZON, QUANTILES)
    for row, v in zip(p, values):
        h, q = row["horizon"], row["quantiles"]
        assert (h, q) == ((5, 4) if row["stream"] == 0 else (3, 2))
        base = row["out_seq"] + 1000 * row["channel"]
        assert (v[:h, :q] == base + 10 * np.arange(h)[:, None] + np.arange(q)).all()
        assert np.isnan(v[h:]).all() and np.isnan(v[:, q:]).all()
        levels = f["quantiles"][row["levels"]][:q]
        assert np.allclose(levels, [0.1, 0.25, 0.5, 0.9] if q == 4 else [0.25, 0.75])

    e, values = f["embedding"][:], f["embedding_values"][:]
    check_rows(e, 10)
    assert values.shape == (len(e), DIM) and (e["span"] == 10).all()
    assert (values[e["stream"] == 0][:, -1] == 5).all() and np.isnan(values[e["stream"] == 1][:, 4:]).all()

    a = f["anomaly"][:]
    assert len(a) == 3 * 2000 and "channel" not in a.dtype.names
    check_rows(a, 1)
    assert np.isnan(a["p_value"][a["warmup"] == 1]).all() and (a["score"][a["warmup"] == 0] == 0.5).all()
    check_rows(f["channel_anomaly"][:], 1)
    check_rows(f["surprise"][:], 1)

    ev = f["event"][:]
    assert ev["event"].tolist() == [b"start", b"gap", b"drop"] and ev["reason"].tolist() == [b"", b"rotation", b"queue_full"]
    assert ev["from_seq"].tolist() == [-(2**63), 5, 7] and ev["count"].tolist() == [-1, -1, 12] and ev["bridged"][1] == 1
    assert f["sys"]["uptime_s"].tolist() == [1.5] and f["sys"]["anomaly"].tolist() == [2]

    # tables have plain columns only, so that pandas takes them as they are
    for table in ("prediction", "embedding", "anomaly", "event"):
        assert all(f[table].dtype[n].shape == () for n in f[table].dtype.names)
    try:
        import pandas
    except ImportError:
        return "pandas not there"
    frame = pandas.DataFrame(f["anomaly"][:])
    frame["time"] = pandas.to_datetime(frame["t_ns"])
    assert frame["time"].isna().sum() == 2000 and frame.groupby("stream").size().tolist() == [2000] * 3
    return "pandas too"


def along(path, looks_min):
    """SWMR: tables only grow, every row is complete when it shows, and what it refers to is there."""
    f = h5py.File(path, "r", swmr=True)
    print("open", flush=True)
    seen, looks, end = 0, 0, time.monotonic() + 30
    while seen < 3 * 2000 and time.monotonic() < end:
        for name in ("anomaly", "prediction", "prediction_values", "streams"):
            f[name].refresh()
        rows = f["anomaly"][:]
        assert len(rows) >= seen
        looks += len(rows) > seen
        seen = len(rows)
        check_rows(rows, 1)
        p = f["prediction"][:]
        f["prediction_values"].refresh()
        f["streams"].refresh()
        values = f["prediction_values"][:len(p)]
        assert (values[:, 0, 0] == p["out_seq"] + 1000 * p["channel"]).all()
        assert rows["stream"].max(initial=0) <= len(f["streams"])
    assert seen == 3 * 2000, seen
    assert looks >= int(looks_min), looks
    return f"{looks} looks"


print(globals()[sys.argv[1]](*sys.argv[2:]))
