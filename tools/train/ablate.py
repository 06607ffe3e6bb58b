#!/usr/bin/env python3
"""Trains variants of a config for the same time and prints what each scores on series held back: ablate.py VARIANT …

    tools/train/ablate.py --config tools/train/forecast-s.json --pack PACK.npz --minutes 2 --out DIR base patch8 real0

Variants run side by side on the one GPU, which shares its time out evenly among them: --minutes is the clock's, of
which each gets a part. What is best for so short a run need not be best for a long one, and small differences are
chance (--seed). Figures: loss over that of naive bands (evaluate.py), geometric means over families and sources;
"long": families with a season or a memory of hundreds of samples. Each variant's log and scores stay in DIR/VARIANT.
"""
import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

VARIANTS = {
    "base": [],
    "patch8": ["model.input.patch=8"],
    "patch8-long": ["model.input.patch=8", "training.segment=2048"],  # as many steps a segment as base
    "patch16": ["model.input.patch=16"],
    "state32": ["model.backbone.d_state=32"],
    "deep": ["model.backbone.d_model=96", "model.backbone.n_layer=7"],       # weights as base
    "wide": ["model.backbone.d_model=192", "model.backbone.n_layer=2"],
    "memory512": ["model.input.normaliser.memory=512"],
    "memory8192": ["model.input.normaliser.memory=8192"],
    "real0": ["training.real=0"],
    "real50": ["training.real=0.5"],
    "short": ["training.segments=4"],
    "even": ["training.nearness=0"],                                        # far horizons weigh as near ones
    "horizon128": ["model.heads.forecast.horizon=128"],
    "lr4": ["training.lr=0.004"],
    "lr1": ["training.lr=0.001"],
}
LONG = ("seasonal", "calendar", "kernels", "pulses", "jobs", "waveform")


def start(name, args):
    out = os.path.join(args.out, name)
    os.makedirs(out, exist_ok=True)
    command = [sys.executable, os.path.join(HERE, "train.py"), "--config", args.config, "--out", out, "--brief",
               "--seed", str(args.seed), "--minutes", str(args.minutes), "--steps", str(args.steps)]
    for option in ("pack", "device"):
        if getattr(args, option):
            command += ["--" + option, getattr(args, option)]
    for override in VARIANTS[name] + args.set:
        command += ["--set", override]
    with open(os.path.join(out, "log"), "w", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def table(args):
    import evaluate
    print("| variant | updates | Msamples | synthetic | long | real | each |\n|---|---|---|---|---|---|---|")
    for name in args.variant:
        try:
            with open(os.path.join(args.out, name, "scores.json"), encoding="utf-8") as f:
                s = json.load(f)
        except FileNotFoundError:
            print(f"| {name} | failed: see its log |")
            continue
        synthetic, real = s["scores"]["synthetic"], s["scores"]["real"]
        print(f"| {name} | {s['steps']} | {s['samples_seen'] / 1e6:.0f} | {evaluate.mean(synthetic):.4f} | "
              f"{evaluate.mean({k: synthetic[k] for k in LONG}):.4f} | {evaluate.mean(real):.4f} | "
              + " ".join(f"{k} {v:.3f}" for k, v in {**real, **synthetic}.items()) + " |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("variant", nargs="+", choices=VARIANTS)
    p.add_argument("--config", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--pack")
    p.add_argument("--minutes", type=float, default=2.0)
    p.add_argument("--steps", type=int, default=0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--together", type=int, default=4, help="how many at once")
    p.add_argument("--device")
    p.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="for all variants")
    args = p.parse_args()
    for i in range(0, len(args.variant), args.together):
        for process in [start(name, args) for name in args.variant[i:i + args.together]]:
            process.wait()
    table(args)


if __name__ == "__main__":
    main()
