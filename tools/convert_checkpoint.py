#!/usr/bin/env python3
"""Turns a Mamba checkpoint saved by torch.save (pytorch_model.bin, one file or shards) into a folder that mambad reads:
config.json as it is, weights as model.safetensors. Names and values stay; nothing is executed from the file
(weights_only). Needs safetensors and torch, 2.6 or later: earlier ones can be made to execute it (CVE-2025-32434).

    tools/convert_checkpoint.py FOLDER_OR_BIN OUT [--dtype keep|fp32|bf16|fp16] [--config CONFIG.json]
"""
import argparse
import json
import os
import pathlib
import pickle
import shutil
import sys


def fail(text, code=os.EX_DATAERR):
    print(f"convert_checkpoint: {text}", file=sys.stderr)
    sys.exit(code)


try:
    import torch
    from safetensors.torch import save_file
except ImportError as missing:
    fail(f"needs torch 2.6 or later and safetensors: {missing}", os.EX_UNAVAILABLE)
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
    fail(f"torch {torch.__version__} can be made to execute a file: 2.6 or later is needed", os.EX_UNAVAILABLE)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FLOATS = tuple(DTYPES.values())


def read_json(file):
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        fail(f"{file}: {error}")


def weight_files(source):
    """The pickled files of a checkpoint: the one named, pytorch_model.bin, or what its index lists."""
    if source.is_file():
        return [source]
    index = source / "pytorch_model.bin.index.json"
    if index.exists():
        return sorted({source / name for name in read_json(index).get("weight_map", {}).values()})
    return [source / "pytorch_model.bin"]


def read_pickle(file):
    if not file.exists():
        fail(f"{file}: no such file", os.EX_NOINPUT)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError) as error:
        fail(f"{file}: no checkpoint of tensors alone: {str(error).splitlines()[0] if str(error) else 'it ends too early'}")
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        fail(f"{file}: no table of tensors")
    return state


def load(files):
    tensors = {}
    for file in files:
        state = read_pickle(file)
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
        fail(f"{config}: no such file (--config names it)", os.EX_NOINPUT)
    tensors = load(weight_files(args.source))
    keep_one_of_tied(tensors, read_json(config))
    check(tensors)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({n: convert(t, args.dtype) for n, t in tensors.items()}, args.out / "model.safetensors",
              metadata={"format": "pt"})
    shutil.copyfile(config, args.out / "config.json")
    print(f"{args.out}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} values")


if __name__ == "__main__":
    main()
