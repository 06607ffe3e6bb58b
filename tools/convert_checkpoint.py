#!/usr/bin/env python3
"""Turns a Mamba checkpoint saved by torch.save (pytorch_model.bin, one file or shards) into a folder that mambad reads:
config.json as it is, weights as model.safetensors. Names and values stay; nothing is executed from the file
(weights_only). Needs torch and safetensors.

    tools/convert_checkpoint.py FOLDER_OR_BIN OUT [--dtype keep|fp32|bf16|fp16] [--config CONFIG.json]
"""
import argparse
import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FLOATS = tuple(DTYPES.values())


def fail(text):
    sys.exit(f"convert_checkpoint: {text}")


def weight_files(source):
    """The pickled files of a checkpoint: the one named, pytorch_model.bin, or what its index lists."""
    if source.is_file():
        return [source]
    index = source / "pytorch_model.bin.index.json"
    if index.exists():
        return sorted({source / name for name in json.loads(index.read_text())["weight_map"].values()})
    return [source / "pytorch_model.bin"]


def load(files):
    tensors = {}
    for file in files:
        if not file.exists():
            fail(f"{file}: no such file")
        state = torch.load(file, map_location="cpu", weights_only=True)
        for wrapper in ("state_dict", "model"):
            if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
                state = state[wrapper]
        for name, value in state.items():
            if not torch.is_tensor(value):
                fail(f"{file}: '{name}' is no tensor")
            if name in tensors:
                fail(f"{file}: tensor '{name}' is in two files")
            tensors[name] = value
    return tensors


def keep_one_of_tied(tensors, config):
    """A head that the config ties to the embedding is not read; most files carry it all the same."""
    if not config.get("tie_word_embeddings", config.get("tie_embeddings", True)):
        return
    embedding = tensors.get("backbone.embedding.weight", tensors.get("backbone.embeddings.weight"))
    head = tensors.get("lm_head.weight")
    if embedding is not None and head is not None and torch.equal(embedding, head):
        del tensors["lm_head.weight"]


def check(tensors):
    if not any(name.endswith("mixer.A_log") for name in tensors):
        fail("no tensor ends in 'mixer.A_log': is this a Mamba checkpoint?")
    for name, value in tensors.items():
        if value.dtype in FLOATS and not torch.isfinite(value).all():
            fail(f"tensor '{name}' holds values that are not finite")


def convert(value, dtype):
    if dtype != "keep" and value.dtype in FLOATS + (torch.float64,):
        value = value.to(DTYPES[dtype])
    return value.contiguous().clone()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path, metavar="FOLDER_OR_BIN")
    parser.add_argument("out", type=pathlib.Path, metavar="OUT")
    parser.add_argument("--dtype", choices=["keep", *DTYPES], default="keep")
    parser.add_argument("--config", type=pathlib.Path, help="where config.json is not beside the weights")
    args = parser.parse_args()
    folder = args.source if args.source.is_dir() else args.source.parent
    config = args.config or folder / "config.json"
    if not config.exists():
        fail(f"{config}: no such file (--config names it)")
    tensors = load(weight_files(args.source))
    keep_one_of_tied(tensors, json.loads(config.read_text()))
    check(tensors)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({n: convert(t, args.dtype) for n, t in tensors.items()}, args.out / "model.safetensors",
              metadata={"format": "pt"})
    shutil.copyfile(config, args.out / "config.json")
    print(f"{args.out}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} values")


if __name__ == "__main__":
    main()
