#!/usr/bin/python3
"""The demo's configuration, offline: the same real input once on the CPU and once on the GPU, and how far what comes out
differs.

  gpu_demo.py prepare INPUTS                     makes the input: an ECG, speech, prices (of packages in tools/setup)
  gpu_demo.py run MAMBAD MAMBACTL INPUTS [DEVICE]
                                                 exit 0 if the outputs agree within tolerance, in fp32 and in bf16"""
import csv
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIG = os.path.join(ROOT, "configs", "demo.yaml")
QUIET_S, PATIENCE_S = 2, 180
# As in tests/ssm/tolerance.h: relative; of anomaly values, the share that may lie beyond ten times that of 1 + their size.
BOUNDS = {"fp32": 1e-4, "bf16": 1e-2}
BEYOND = 0.02


def prepare(inputs):
    import demo_market

    os.makedirs(os.path.join(inputs, "speech"), exist_ok=True)
    os.makedirs(os.path.join(inputs, "market"), exist_ok=True)
    subprocess.run([os.path.join(ROOT, "tools", "demo_ecg.py"), os.path.join(inputs, "ecg.h5")], check=True)
    with open(CONFIG, encoding="utf-8") as file:
        patterns = re.search(r"files: \[(/usr/.*)\]", file.read()).group(1).split(", ")
    for path in [p for pattern in patterns for p in glob.glob(pattern)]:
        shutil.copy(path, os.path.join(inputs, "speech"))
    for name, column in demo_market.SERIES.items():
        with open(os.path.join(inputs, "market", name + ".csv"), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["t", "price"])
            writer.writerows((time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(t // 10**9)), price)
                             for t, price in demo_market.prices(column))


# ---- one run --------------------------------------------------------------------------------------------------------


def listing(pattern):
    return "[" + ", ".join(json.dumps(p) for p in sorted(glob.glob(pattern))) + "]"


def settings(inputs, out, device, weights):
    return {
        "models.forecast.device": device,
        "models.forecast.weights": weights,
        "inputs.ecg.files": listing(os.path.join(inputs, "ecg.h5")),
        "inputs.ecg.follow": "false",
        "inputs.speech.files": listing(os.path.join(inputs, "speech", "*.wav")),
        "inputs.speech.pace": "fast",
        "inputs.market.bind": f"ipc://{out}/market",
        "outputs.pub.bind": f"ipc://{out}/pub",
        "outputs.lines.path": f"{out}/out.jsonl",
        "outputs.lines.families": "[prediction, embedding, anomaly, event]",
        "outputs.log.path": f"{out}/out",
        "server.control": f"ipc://{out}/control",
    }


def wait_until(done, daemon, what):
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        if daemon.poll() is not None:
            raise SystemExit(f"mambad ended with {daemon.returncode} before {what}")
        if time.monotonic() > deadline:
            raise SystemExit(f"mambad: no {what} within {PATIENCE_S} s")
        time.sleep(0.1)


def quiet(path):
    """Nothing was written for a while."""
    return os.path.exists(path) and os.path.getsize(path) > 0 and time.time() - os.path.getmtime(path) > QUIET_S


def run(mambad, mambactl, inputs, device, weights):
    """The lines that mambad wrote."""
    with tempfile.TemporaryDirectory(prefix="gpu-demo-") as out:
        command = [mambad, "-c", CONFIG]
        for key, value in settings(inputs, out, device, weights).items():
            command += ["--set", f"{key}={value}"]
        daemon = subprocess.Popen(command, cwd=ROOT)
        try:
            wait_until(lambda: os.path.exists(f"{out}/market"), daemon, "socket")
            subprocess.run([mambactl, "feed", "--quiet", "--connect", f"ipc://{out}/market", "--time", "t",
                            "--stream", "{stem}", os.path.join(inputs, "market", "*.csv")], check=True)
            wait_until(lambda: quiet(f"{out}/out.jsonl"), daemon, "end of its output")
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(30)
        finally:
            daemon.kill()
        if code:
            raise SystemExit(f"mambad on {device} ended with {code}")
        with open(f"{out}/out.jsonl", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


# ---- comparing ------------------------------------------------------------------------------------------------------


def flat(data):
    return [v for part in data for v in flat(part)] if isinstance(data, list) else [data]


def rows_of(lines):
    """(family, stream) → {(epoch, seq): values}, and the events that do not hang on a threshold."""
    rows, events = {}, []
    for line in lines:
        family = line["topic"].split("/")[0]
        if family == "event":
            if not line["event"].startswith("anomaly"):
                events.append((line["stream"], line["epoch"], line["seq"], line["event"]))
            continue
        for i, data in enumerate(line["data"]):
            rows.setdefault((family, line["stream"]), {})[line["epoch"], line["seq"] + i * line["stride"]] = flat(data)
    return rows, sorted(events)


def difference(got, want, bound):
    """‖got − want‖ over the spread of want, and the share of values far off; None must stand in the same places."""
    pairs = [(g, w) for key in want for g, w in zip(got[key], want[key])]
    if any((g is None) != (w is None) for g, w in pairs):
        return float("inf"), 1.0
    pairs = [(g, w) for g, w in pairs if w is not None]
    if not pairs:
        return 0.0, 0.0
    mean = sum(w for _, w in pairs) / len(pairs)
    size = sum((w - mean)**2 for _, w in pairs) or 1.0
    far = sum(abs(g - w) > 10 * bound * (1 + abs(w)) for g, w in pairs)
    return (sum((g - w)**2 for g, w in pairs) / size)**0.5, far / len(pairs)


def compare(weights, got, want):
    (got, got_events), (want, want_events) = rows_of(got), rows_of(want)
    agree = bool(want) and got_events == want_events
    if not agree:
        print(f"{weights}: {len(got_events)} events, want {len(want_events)}, or no rows")
    for key in sorted(set(got) | set(want)):
        name = f"{weights} {key[0]:<11} {key[1]:<24}"
        if set(got.get(key, {})) != set(want.get(key, {})):
            print(f"{name} {len(got.get(key, {}))} rows, want {len(want.get(key, {}))}: other rows FAIL")
            agree = False
            continue
        error, share = difference(got[key], want[key], BOUNDS[weights])
        good = share <= BEYOND if key[0] == "anomaly" else error <= BOUNDS[weights]
        print(f"{name} {len(want[key]):>6} rows, error {error:.2g}, beyond {share:.2g}{'' if good else ' FAIL'}")
        agree &= good
    return agree


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "prepare":
        prepare(os.path.abspath(sys.argv[2]))
        return 0
    if len(sys.argv) not in (5, 6) or sys.argv[1] != "run":
        print(__doc__, file=sys.stderr)
        return 64
    mambad, mambactl, inputs = map(os.path.abspath, sys.argv[2:5])
    device = sys.argv[5] if len(sys.argv) > 5 else "cuda"
    agree = True
    for weights in BOUNDS:
        want = run(mambad, mambactl, inputs, "cpu", weights)
        got = run(mambad, mambactl, inputs, device, weights)
        agree &= compare(weights, got, want)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
