"""The text of a model folder's README.md."""

TEMPLATE = """# {name}

A streaming quantile forecaster for any scalar series: patches of {patch} samples, Mamba-1 backbone ({layers} layers × {width},
state {state}), {params:,} parameters, fp32. After every patch it gives quantiles {levels} of each of the next {horizon} samples, an
embedding of {width} numbers, and (with the daemon's calibrator) anomaly scores. What it computes: docs/signal-model.md.

## How it was made
`tools/train/train.py --config tools/train/{name}.json --minutes {minutes:g} --seed {seed}` on one {machine}: {steps:,} steps,
{billions:.2f} billion samples in {seconds} s. Synthetic series only, drawn by tools/train/priors.py (random walks with stochastic
volatility, seasonal and periodic processes, pulse trains, sound-like bursts, steps, counts …), some with values missing or
unevenly spaced. No recording of any kind was trained on. Licence: Apache-2.0, like the code.

## What it measures
On real series that it never saw, each streamed once from a fresh state; every forecast after the first patch, all {horizon}
horizons. WQL: weighted quantile loss over the model's levels. Naive: the last value, with Gaussian bands of σ·√h, σ from past
differences (all of them, or the last 256, whichever scores better on that series). MASE: error of the median over the mean
absolute one-step move. Below 1 in a ratio column is better than naive.

{table}

## What it is not
A first model of a few minutes' training. It knows no calendar, no other channel, and no series' own long history beyond what a
state of fixed size holds; on random-walk-like series (prices) there is little to gain over naive bands, and it gains little.
"""


def text(name, cfg, net, facts, machine, table):
    backbone, head = cfg["backbone"], cfg["heads"]["forecast"]
    return TEMPLATE.format(
        name=name, patch=cfg["input"]["patch"], layers=backbone["n_layer"], width=backbone["d_model"],
        state=backbone["d_state"], params=sum(p.numel() for p in net.parameters()), horizon=head["horizon"],
        levels=", ".join(f"{q:g}" for q in head["quantiles"]), minutes=facts["seconds"] / 60, seed=facts["seed"],
        machine=machine, steps=facts["steps"], billions=facts["samples_seen"] / 1e9, seconds=facts["seconds"],
        table=table or "(not measured yet: `tools/train/evaluate.py FOLDER --card`)")
