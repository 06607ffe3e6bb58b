#!/usr/bin/python3
"""The peer of tools/eval/returns.json: the pinball loss of GARCH(1,1) one step ahead.   garch.py DATA [--patch 4]

Needs the Python packages `arch` and numpy (arch is not in Debian: pip install arch). A constant mean and GARCH(1,1) are
fitted by maximum likelihood to all returns so far, anew every 250 rows, with normal and with Student's t innovations;
origins and quantiles are those of `mambactl eval forecast`, so that losses compare column for column."""
import argparse
import csv
import lzma
import os
import warnings

import numpy as np
from arch import arch_model

SERIES = [("arch_sp500_daily", ["Close"]), ("EuStockMarkets_daily", ["DAX", "SMI", "CAC", "FTSE"]),
          ("EURUSD_hourly_2017_2018", ["Close"]), ("GBPUSD_m1_bid_2012", ["close"])]
LEVELS = np.arange(1, 10) / 10
REFIT = 250


def returns(path, column):
    with lzma.open(path, "rt", encoding="utf-8") as f:
        values = np.array([float(row[column]) for row in csv.DictReader(f)])
    return np.diff(np.log(values))


def origins(n, patch):
    first = n // 2 if n < 1024 else max(n // 10, 512)
    return np.arange(-(-first // patch) * patch, n, patch)


def quantiles(r, at, law):
    """[origin][level], each from the rows before it."""
    scale = 1 / r[:at[0]].std()  # the optimiser's steps are made for values near one
    model = arch_model(r * scale, mean="Constant", vol="GARCH", p=1, q=1, dist=law, rescale=False)
    out = np.full((len(at), 9), np.nan)
    for start in range(at[0], len(r), REFIT):
        mine = (at >= start) & (at < start + REFIT)
        fit = model.fit(last_obs=start, disp="off", show_warning=False)
        ahead = fit.forecast(start=start - 1, horizon=1, reindex=False)
        mean, variance = ahead.mean.to_numpy()[:, 0], ahead.variance.to_numpy()[:, 0]
        shape = fit.params[model.volatility.num_params + 1:]
        z = model.distribution.ppf(LEVELS, shape.to_numpy())
        rows = at[mine] - start  # row k of the forecasts is for the return after row start − 1 + k
        out[mine] = (mean[rows, None] + np.sqrt(variance[rows, None]) * z) / scale
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("data")
    parser.add_argument("--patch", type=int, default=4)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"{'series':32} {'points':>8} {'normal':>11} {'in 80 %':>8} {'Student t':>11} {'in 80 %':>8}")
    for name, columns in SERIES:
        losses, covered = {"normal": [], "t": []}, {"normal": [], "t": []}
        for column in columns:
            r = returns(os.path.join(args.data, "market", name + ".csv.xz"), column)
            at = origins(len(r), args.patch)
            for law, loss in losses.items():
                q = quantiles(r, at, law)
                e = r[at, None] - q
                loss.append(np.where(e >= 0, LEVELS * e, (LEVELS - 1) * e).mean())
                covered[law].append(((r[at] >= q[:, 0]) & (r[at] <= q[:, 8])).mean())
        print(f"{name:32} {len(at) * len(columns):8} {np.mean(losses['normal']):11.5g} {np.mean(covered['normal']):8.3f}"
              f" {np.mean(losses['t']):11.5g} {np.mean(covered['t']):8.3f}", flush=True)


main()
