"""Writes and reads a `mambad` model folder: config.json, model.safetensors (fp32) and the card, README.md."""
import json
import os
import struct

import torch

import card
import model as models


def write_safetensors(path, tensors, half=lambda name, t: False):
    """In fp32, but in bf16 what `half` says. Older transformers read no file without the format."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        size = t.numel() * (2 if half(name, t) else 4)
        header[name] = {"dtype": "BF16" if half(name, t) else "F32", "shape": list(t.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # tensors start aligned
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, t in tensors.items():
            t = t.detach().cpu().contiguous()
            f.write(t.bfloat16().view(torch.int16).numpy().tobytes() if half(name, t) else t.float().numpy().astype("<f4").tobytes())


def read_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    size = struct.unpack("<Q", data[:8])[0]
    out = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + o for o in entry["data_offsets"])
            assert entry["dtype"] == "F32", f"{name}: {entry['dtype']}"
            out[name] = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).reshape(entry["shape"])
    return out


def replace(folder, file, write):
    """A file of the folder is replaced whole, by what `write` writes to the path given to it."""
    os.makedirs(folder, exist_ok=True)
    write(os.path.join(folder, file + ".part"))
    os.replace(os.path.join(folder, file + ".part"), os.path.join(folder, file))


def text(content):
    def write(path):
        with open(path, "w", encoding="utf-8") as f:
            f.write(content)
    return write


def save(folder, name, cfg, net, facts, readme):
    """`facts`: what config.json records of the training; `readme`: text of README.md."""
    cfg = dict(cfg, card=dict(name=name, license="Apache-2.0", data=card.DATA[bool(facts["real_series"])], **facts))
    replace(folder, "config.json", text(json.dumps(cfg, indent=2) + "\n"))
    replace(folder, "model.safetensors", lambda path: write_safetensors(path, net.state_dict()))
    replace(folder, "README.md", text(readme))


def load(folder, device="cpu"):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        cfg = json.load(f)
    net = models.SignalModel(cfg)
    net.load_state_dict(read_safetensors(os.path.join(folder, "model.safetensors")))
    return cfg, net.to(device).eval()
