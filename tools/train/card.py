"""The text of a model folder's README.md."""
import textwrap

DATA = ("synthetic series only (tools/train/priors.py)",
        "synthetic series (tools/train/priors.py) and real ones (tools/train/pack.py)")

TEMPLATE = """# {name}

A streaming quantile forecaster for any scalar series: patches of {patch} samples, Mamba-1 backbone ({layers} layers ×
{width}, state {state}), {params:,} parameters, fp32. After every patch it gives quantiles {levels} of each of the next
{horizon} samples, an embedding of {width} numbers, and (with the daemon's calibrator) anomaly scores. What it computes:
docs/signal-model.md.

## How it was made
`tools/train/train.py --config tools/train/{name}.json{pack} --minutes {minutes:g} --seed {seed}` on one {machine}:
{steps:,} updates, {billions:.2f} billion samples in {seconds} s, averaged weights. Synthetic series drawn by
tools/train/priors.py (random walks with stochastic volatility, compound growth, seasons within seasons, composed
kernels, pulse trains, sound-like bursts, steps, counts …), some with values missing or unevenly spaced. {real}

Licence: Apache-2.0, like the code.

## What it measures
On real series that training did not see (of the ECG, only an earlier part), each streamed once from a fresh state;
every forecast after the first patch, all {horizon} horizons. WQL: weighted quantile loss over the model's levels.
Naive: the last value, with Gaussian bands of σ·√h, σ from past differences (all of them, or the last 256, whichever
scores better on that series). MASE: error of the median over the mean absolute one-step move. Below 1 in a ratio column
is better than naive.

{table}

## What it is not
It knows no calendar and no other channel, and of a series' own long history it holds what a state of fixed size can.
Where little can be known, as of prices, it gains little over naive bands.
"""

BYTES = """# {name}

A byte-level language model: Mamba-1 ({layers} layers × {width}, state {state}), vocab 256, tied head, {params:,} parameters, matrices in
bf16, Hugging Face's names. `mambactl generate` and `eval bytes` read it, and byte streams of the daemon.

## How it was made
`tools/train/bytes.py --config tools/train/{name}.json --text TEXT --steps {steps} --seed {seed}`: {seen:.0f} million bytes read, of a text of {size:.1f} million, in
{seconds} s on one {machine}; averaged weights. {text}

Licence: Apache-2.0, like the code.

## What it measures
Bits per byte of text that it was not trained on, one state from the first byte to the last (`mambactl eval bytes`):

{table}

## What it is not
It is small: it spells, keeps a style, a format and names that it has read, and knows little of the world. What it writes is not advice.
"""

TEXTS = {"bytes-s": "With the text before it: `tools/train/bytes-s.sh FOLDER`. The text: public-domain books, commentaries and documentation of Debian packages and logs written by tools/train/logs.py; "
                    "tools/train/text.py lists each with its licence, leaves out what shares 64 bytes with the files that the model is judged "
                    "by, and repeats novels in other layouts (line widths and ends, indents, quotation marks).",
         "shakespeare": "The text: the first 90 % of tinyshakespeare (public domain), nothing else."}


def bytes_text(name, cfg, net, facts):
    """README.md of a byte model's folder."""
    rows = "".join(f"\n| {file} | {bits:.3f} |" for file, bits in facts["held_back_bits_per_byte"].items())
    filled = BYTES.format(
        name=name, layers=cfg["num_hidden_layers"], width=cfg["hidden_size"], state=cfg["state_size"],
        params=sum(p.numel() for p in net.parameters()), seed=facts["seed"], machine=facts["machine"],
        steps=facts["steps"], seen=facts["bytes_seen"] / 1e6, size=facts["text_bytes"] / 1e6, seconds=facts["seconds"],
        text=TEXTS.get(name, ""), table="{table}")
    body = "\n\n".join(wrapped(p) for p in filled.strip().split("\n\n")) + "\n"
    return body.replace("{table}", f"| file | bits per byte |\n|---|---|{rows}" if rows else "(not measured yet)")


def real_part(facts):
    if not facts["real_series"]:
        return "No recording of any kind was trained on."
    sources = ", ".join(f"{name} {count}" for name, count in facts["real_series"].items())
    return (f"{100 * facts['real_share']:g} % of the series are stretches of real ones, packed by tools/train/pack.py, which lists "
            f"origins and licences (source and number of series: {sources}).")


def wrapped(paragraph):
    head, _, rest = paragraph.partition("\n") if paragraph.startswith("#") else ("", "", paragraph)
    return "\n".join(filter(None, [head, textwrap.fill(rest, 120, break_long_words=False, break_on_hyphens=False)]))


def text(name, cfg, net, facts, machine, table):
    backbone, head = cfg["backbone"], cfg["heads"]["forecast"]
    filled = TEMPLATE.format(
        name=name, patch=cfg["input"]["patch"], layers=backbone["n_layer"], width=backbone["d_model"],
        state=backbone["d_state"], params=sum(p.numel() for p in net.parameters()), horizon=head["horizon"],
        levels=", ".join(f"{q:g}" for q in head["quantiles"]), minutes=facts["seconds"] / 60, seed=facts["seed"],
        machine=machine, pack=" --pack PACK.npz" if facts["real_series"] else "", real=real_part(facts),
        steps=facts["steps"], billions=facts["samples_seen"] / 1e9, seconds=facts["seconds"],
        table="{table}")
    body = "\n\n".join(wrapped(p) for p in filled.strip().split("\n\n")) + "\n"
    return body.replace("{table}", table or "(not measured yet: `tools/train/evaluate.py FOLDER --card`)")
