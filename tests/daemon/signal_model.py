"""Writes a small `mambad` model folder with random weights (fixed seed), for tests that run the binaries."""
import json
import os
import random
import struct

E, D, N, K, R, PATCH, HORIZON, QUANTILES = 8, 16, 4, 4, 1, 4, 72, [0.1, 0.5, 0.9]


def config(n_state=N, horizon=HORIZON):
    return {
        "model_type": "mambad", "version": 1,
        "input": {"kind": "samples", "patch": PATCH, "mask": True, "normaliser": {"memory": 1000, "diff_memory": 1000}},
        "backbone": {"arch": "mamba", "d_model": E, "n_layer": 1, "d_state": n_state, "d_conv": K, "expand": D / E, "dt_rank": R},
        "heads": {"forecast": {"horizon": horizon, "quantiles": QUANTILES}, "embedding": {}, "anomaly": {}},
        "calibration": {"warmup": 64, "memory": 1000}, "card": {"made": "by a test"},
    }


def tensors(seed=7, n_state=N, horizon=HORIZON):
    layer, features, outputs = "backbone.layers.0.", 3 * PATCH + 2, horizon * len(QUANTILES)
    shapes = {
        "input.weight": [E, features], "input.bias": [E], layer + "norm.weight": [E],
        layer + "mixer.in_proj.weight": [2 * D, E], layer + "mixer.conv1d.weight": [D, 1, K], layer + "mixer.conv1d.bias": [D],
        layer + "mixer.x_proj.weight": [R + 2 * n_state, D], layer + "mixer.dt_proj.weight": [D, R],
        layer + "mixer.dt_proj.bias": [D], layer + "mixer.A_log": [D, n_state], layer + "mixer.D": [D],
        layer + "mixer.out_proj.weight": [E, D], "backbone.norm_f.weight": [E],
        "heads.forecast.weight": [outputs, E], "heads.forecast.bias": [outputs],
    }
    rng = random.Random(seed)
    for name, shape in shapes.items():
        n = 1
        for size in shape:
            n *= size
        yield name, shape, [rng.gauss(0, 0.3) for _ in range(n)]


def safetensors(skip=(), reshape=None, **shape_and_seed):
    """The bytes of model.safetensors; `skip` leaves tensors out, `reshape` maps names to other shapes."""
    header, data = {}, b""
    for name, shape, values in tensors(**shape_and_seed):
        if name in skip:
            continue
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": (reshape or {}).get(name, shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write(folder, conf=None, weights=None):
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as out:
        out.write(conf if isinstance(conf, str) else json.dumps(conf or config()))
    with open(os.path.join(folder, "model.safetensors"), "wb") as out:
        out.write(safetensors() if weights is None else weights)
    return folder
