#!/usr/bin/python3
"""Draws one picture for `mambactl eval --plot`:   eval_plot.py OUT.png < DOCUMENT

The document is JSON: `title`, `value` (samples, null where missing), and either `score`, `label` and `threshold`, or
`forecasts`, a list of [row of the first sample ahead, [10 %, …], [50 %, …], [90 %, …]]."""
import json
import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, BAND, MEDIAN, SCORE, LABEL = "#222222", "#9ecae1", "#2171b5", "#d94801", "#fdd0a2"
WIDEST = 4000  # rows of a forecast picture: the last ones


def numbers(values):
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def draw_scores(doc, figure):
    value, score, label = numbers(doc["value"]), numbers(doc["score"]), np.array(doc["label"])
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    top.plot(value, color=INK, linewidth=0.6)
    below.plot(score, color=SCORE, linewidth=0.6)
    below.axhline(doc["threshold"], color=INK, linewidth=0.6, linestyle=":")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], label, [0]])))
    for start, end in zip(edges[::2], edges[1::2]):
        for axes in (top, below):
            axes.axvspan(start - 0.5, end - 0.5, color=LABEL, linewidth=0)
    below.set_ylabel("−log10 p")
    below.set_xlabel("row")
    top.set_title(doc["title"])


def draw_forecasts(doc, figure):
    value = numbers(doc["value"])
    axes = figure.subplots()
    first = max(0, len(value) - WIDEST)
    axes.plot(np.arange(first, len(value)), value[first:], color=INK, linewidth=0.6)
    for row, low, middle, high in doc["forecasts"]:
        if row < first:
            continue
        x = np.arange(row, row + len(middle))
        axes.fill_between(x, numbers(low), numbers(high), color=BAND, linewidth=0)
        axes.plot(x, numbers(middle), color=MEDIAN, linewidth=0.8)
    axes.set_xlabel("row")
    axes.set_title(doc["title"] + ": forecasts laid edge to edge, 80 % band")


def main():
    doc = json.load(sys.stdin)
    figure = plt.figure(figsize=(14, 5), layout="constrained")
    (draw_scores if "score" in doc else draw_forecasts)(doc, figure)
    figure.savefig(sys.argv[1], dpi=100)


main()
