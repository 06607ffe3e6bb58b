"""The front end in C against a plain numpy transcription of docs/signal-model.md and, where PyTorch is installed, against
the trainer's own (tools/train/front.py), on random and hostile series. Usage: test_trainer_agrees.py FRONT_DUMP"""
import math
import os
import struct
import subprocess
import sys

try:
    import numpy as np
except ImportError:
    print("numpy is not installed")
    sys.exit(77)

MASK, SKIP, HOLD = range(3)
Z = np.array([-3.0, -1.0, -0.2, 0.0, 0.1, 0.05, 2.0, 25.0], np.float32)
HORIZON_STEP = 7


def from_c(program, cfg, x, dt, nan):
    head = struct.pack("<5i2d", cfg["patch"], cfg["mask"], nan, len(Z), len(x), *cfg["normaliser"].values())
    data = head + x.astype("<f8").tobytes() + dt.astype("<i8").tobytes() + Z.tobytes()
    out = np.frombuffer(subprocess.run([program], input=data, stdout=subprocess.PIPE, check=True).stdout, "<f8")
    F = (3 if cfg["mask"] else 2) * cfg["patch"] + 2
    out = out.reshape(-1, F + 7 + len(Z))
    return {"features": out[:, :F], "g": out[:, F], "frame": out[:, F + 1:F + 5], "taken": out[:, F + 5] > 0,
            "quantiles": out[:, F + 7:]}


def reference(cfg, x, dt, nan):
    """docs/signal-model.md, sec. 1, 2 and 4, line by line."""
    P, memory, diff_memory = cfg["patch"], *cfg["normaliser"].values()
    n, m, v, e, last, elapsed, begun = 0, 0.0, 0.0, 0.0, 0.0, 0, False
    rows = {"features": [], "g": [], "frame": [], "taken": [], "quantiles": []}
    for k in range(len(x) // P):
        patch, before, whole = x[k * P:(k + 1) * P].copy(), last if n else None, True
        elapsed += int(dt[k * P:(k + 1) * P].sum())
        for i in range(P):
            if not math.isfinite(patch[i]):
                patch[i] = last if nan == HOLD and n else math.nan
            if math.isnan(patch[i]):
                whole = False
                continue
            patch[i] = min(max(patch[i], -1e150), 1e150)
            n += 1
            alpha, delta = 1 / min(n, memory), patch[i] - m
            m += alpha * delta
            v = (1 - alpha) * (v + alpha * delta**2)
            if n > 1:
                e += ((patch[i] - last) ** 2 - e) / min(n - 1, diff_memory)
            last = patch[i]
        floor = 1e-12 * abs(m) + 1e-30
        s, d = max(math.sqrt(v), floor), max(math.sqrt(e), floor)
        taken = whole or nan == MASK
        rows["frame"].append([m, s, last, d])
        rows["taken"].append(taken)
        rows["g"].append(elapsed / (P * 1000) if begun else 1.0)
        u, w, b = np.zeros(P), np.zeros(P), np.zeros(P)
        for i in range(P):
            if not math.isnan(patch[i]):
                before = patch[i] if before is None else before
                u[i], w[i], b[i] = math.asinh((patch[i] - m) / s), math.asinh((patch[i] - before) / d), 1
                before = patch[i]
        scalars = [min(max(math.log(d / s), -10), 10), math.log(1 + min(n, memory)) / 10]
        features = np.concatenate([u, w, b, scalars] if cfg["mask"] else [u, w, scalars])
        rows["features"].append(features if taken else np.zeros_like(features))
        y = last + d * math.sqrt(HORIZON_STEP) * np.sinh(np.clip(Z.astype(float), -20, 20))
        rows["quantiles"].append(np.sort(np.clip(y, -np.finfo("f4").max, np.finfo("f4").max)))
        if taken:
            elapsed, begun = 0, True
    return {key: np.array(value) for key, value in rows.items()}


def trainer(cfg, x):
    """tools/train/front.py, policy mask, in two uneven pieces with carried state."""
    import torch
    import front
    P, L = cfg["patch"], len(x) // cfg["patch"] * cfg["patch"]
    cut = L // 3 // P * P
    state, rows = front.start_state(1, "cpu"), {"features": [], "frame": [], "quantiles": []}
    for a, b in ((0, cut), (cut, L)):
        features, frames, state = front.run(cfg, torch.tensor(x[a:b])[None], state)
        z = torch.tensor(Z).expand(1, features.shape[1], HORIZON_STEP, len(Z))
        rows["features"].append(features[0].double().numpy())
        rows["frame"].append(torch.stack([frames[k][0] for k in ("mean", "scale", "last", "step")], -1).numpy())
        rows["quantiles"].append(front.quantiles(frames, z)[0, :, -1].numpy())
    return {key: np.concatenate(value) for key, value in rows.items()}


def series(rng, n):
    t = np.arange(n, dtype=float)
    holes = np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n))
    runs = np.where(np.sin(t / 20) > 0.5, np.nan, np.cumsum(rng.normal(size=n)))
    yield "random walk", np.cumsum(rng.normal(size=n))
    yield "counter near 1e9", 1e9 + np.cumsum(rng.integers(0, 3, n)) * 0.25
    yield "offset 1e9", 1e9 + np.sin(t / 7) + 0.1 * rng.normal(size=n)
    yield "constant", np.full(n, 0.1)
    yield "zeros", np.zeros(n)
    yield "denormals", 5e-324 * rng.integers(0, 9, n)
    yield "one spike", np.where(t == n // 2, 1e12, rng.normal(size=n))
    yield "huge", 1e140 * rng.normal(size=n)
    yield "heavy tails", rng.standard_cauchy(n) ** 3
    yield "holes", holes
    yield "runs of NaN", runs
    yield "infinities", np.where(rng.random(n) < 0.1, np.inf, t)
    yield "nothing", np.full(n, np.nan)
    yield "late start", np.where(t < n // 2, np.nan, rng.normal(size=n))
    yield "one sample", np.where(t == 5, 3.0, np.nan)


def worst(a, b, kind):
    """Largest error; of g relative, of frames and quantiles relative to scale or level."""
    scale = 1.0 + np.abs(b["g"]) if kind == "g" else 1.0
    if kind in ("frame", "quantiles"):
        level = np.abs(b["frame"][:, :1]) + np.abs(b["frame"][:, 2:3])
        scale = b["frame"][:, 1:2] + b["frame"][:, 3:4] + 1e-6 * level
        if kind == "quantiles":  # z of 25 is clipped at 20: 2.4e8 steps
            scale = scale + np.abs(b["quantiles"])
    return float(np.max(np.abs(a[kind] - b[kind]) / scale))


def check(name, got, want, kinds, limit):
    bad = 0
    for kind in kinds:
        error = worst(got, want, kind)
        if not error <= limit:
            print(f"FAIL {name}: {kind} off by {error:.3g}")
            bad += 1
    return bad


def main():
    program = sys.argv[1]
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "train"))
    try:
        import torch  # noqa: F401
        have_torch = True
    except ImportError:
        have_torch = False
    rng, bad, checks = np.random.default_rng(7), 0, 0
    np.seterr(over="ignore", invalid="ignore")
    for patch, mask in ((4, True), (1, True), (7, True), (4, False)):
        cfg = {"patch": patch, "mask": mask, "normaliser": {"memory": 300.0, "diff_memory": 64.0}}
        for name, x in series(rng, 1403):
            dt = np.where(rng.random(len(x)) < 0.1, rng.integers(0, 90000, len(x)), 1000)
            for nan in ((MASK, SKIP, HOLD) if mask else (SKIP, HOLD)):
                got, want = from_c(program, cfg, x, dt, nan), reference(cfg, x, dt, nan)
                where = f"{name}, patch {patch}, policy {nan}"
                bad += check(where, got, want, ("features", "g", "frame", "quantiles"), 1e-5)
                if (got["taken"] != want["taken"]).any():
                    print(f"FAIL {where}: taken")
                    bad += 1
                checks += 5
            if have_torch and mask:
                bad += check(f"trainer: {name}, patch {patch}", trainer(cfg, x), from_c(program, cfg, x, dt, MASK),
                             ("features", "frame", "quantiles"), 1e-4)
                checks += 3
    print(f"{checks} comparisons, {bad} failed; PyTorch {'compared too' if have_torch else 'not installed'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
