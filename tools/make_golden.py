#!/usr/bin/env python3
"""Makes tests/ssm/golden: tiny models of random weights with the logits and final states that Hugging Face's
MambaForCausalLM computes for them. Needs torch, transformers, safetensors; run once, the results are committed.

    tools/make_golden.py [OUT [NAME…]]

Each folder is a model folder as a user would have it, plus expected.safetensors:
    tokens            [T]           logits, logits.bf16, logits.f16   [T, vocab]  (fp32 arithmetic; the latter two with
    conv              [L, K-1, D]                                                 all matrices rounded to that type)
    ssm               [L, N, D]     states after the last token, as a saved slot holds them
"""
import copy
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import MambaConfig, MambaForCausalLM

STEPS = 33
GREEDY_STEPS = 1000
MATRICES = ("in_proj.weight", "x_proj.weight", "dt_proj.weight", "out_proj.weight", "embeddings.weight", "lm_head.weight")
CONFIGS = {
    "plain": dict(hidden_size=24, state_size=16, conv_kernel=4, use_bias=False, vocab_size=40),
    "bias-untied": dict(hidden_size=20, state_size=8, conv_kernel=3, time_step_rank=5, use_bias=True, vocab_size=33,
                        tie_word_embeddings=False),
    "no-conv-bias": dict(hidden_size=18, state_size=5, conv_kernel=2, time_step_rank=3, use_bias=False, expand=3,
                         use_conv_bias=False, num_hidden_layers=3, vocab_size=17),
    "stored-bf16": dict(hidden_size=32, state_size=17, conv_kernel=4, time_step_rank=1, use_bias=False, vocab_size=64,
                        expand=1, num_hidden_layers=4),
    "original-names": dict(hidden_size=22, state_size=16, conv_kernel=4, use_bias=False, vocab_size=48),
    "sharded-f16": dict(hidden_size=16, state_size=4, conv_kernel=3, use_bias=True, vocab_size=30),
    "bytes": dict(hidden_size=32, state_size=16, conv_kernel=4, use_bias=False, vocab_size=256,
                  tie_word_embeddings=False),
}
STORED = {"stored-bf16": torch.bfloat16, "sharded-f16": torch.float16}


def randomise(model, seed):
    """Every parameter away from the values (0, 1, log n) at which an error in its use could hide."""
    rng = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=rng)
        if name.endswith("A_log"):
            p.data = torch.log(torch.arange(1, p.shape[1] + 1.0)).expand_as(p) + 0.3 * noise
        elif name.endswith(("norm.weight", "norm_f.weight", "mixer.D")):
            p.data = 1.0 + 0.3 * noise
        elif name.endswith("dt_proj.bias"):
            p.data = noise - 2.0
        elif name.endswith("bias"):
            p.data = 0.2 * noise
        elif name.endswith("embeddings.weight"):
            p.data = noise
        else:
            p.data = noise * 1.2 / p.shape[-1] ** 0.5


def round_to(model, dtype, names):
    for name, p in model.named_parameters():
        if name.endswith(names):
            p.data = p.data.to(dtype).float()


def rounded(model, dtype):
    twin = copy.deepcopy(model)
    round_to(twin, dtype, MATRICES)
    return twin


@torch.no_grad()
def run(model, tokens):
    """Logits of the whole sequence, and the states after it."""
    out = model(tokens[None], use_cache=True)
    conv, ssm = [], []
    for i in range(model.config.num_hidden_layers):
        window = out.cache_params.get_conv_state(i, state_idx=0)[0]  # [D, K], the current input last
        conv.append(window[:, window.shape[1] - model.config.conv_kernel + 1 :].T)
        ssm.append(out.cache_params.get_recurrent_state(i, state_idx=0)[0].T)
    return out.logits[0].float(), torch.stack(conv).float(), torch.stack(ssm).float()


def original_config(config):
    return {"d_model": config.hidden_size, "n_layer": config.num_hidden_layers, "vocab_size": config.vocab_size - 3,
            "ssm_cfg": {"d_state": config.state_size}, "rms_norm": True, "residual_in_fp32": True,
            "fused_add_norm": True, "pad_vocab_size_multiple": 8}


def weights_of(model, config, dtype, keep_tied):
    tensors = {n: p.detach().to(dtype).clone() for n, p in model.state_dict().items()}
    if config.tie_word_embeddings and not keep_tied:
        del tensors["lm_head.weight"]
    return tensors


def save_sharded(tensors, folder):
    """Two files and an index, as Hugging Face cuts what is too large for one."""
    names = sorted(tensors)
    weight_map = {}
    for i in range(2):
        part = names[i::2]
        file = f"model-{i + 1:05}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file)
        weight_map.update({n: file for n in part})
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def make(name, settings, out, seed):
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    config = MambaConfig(**{"num_hidden_layers": 2, **settings})
    model = MambaForCausalLM(config).eval()
    randomise(model, seed)
    dtype = STORED.get(name, torch.float32)
    round_to(model, dtype, tuple(n for n, _ in model.named_parameters()))
    tokens = torch.randint(config.vocab_size, (STEPS,), generator=torch.Generator().manual_seed(seed))
    logits, conv, ssm = run(model, tokens)
    expected = {"tokens": tokens.to(torch.int32), "logits": logits, "conv": conv, "ssm": ssm,
                "logits.bf16": run(rounded(model, torch.bfloat16), tokens)[0],
                "logits.f16": run(rounded(model, torch.float16), tokens)[0]}
    if name == "bytes":
        out = model.generate(tokens[None], max_new_tokens=GREEDY_STEPS, do_sample=False, eos_token_id=None, pad_token_id=0)
        expected["greedy"] = out[0, STEPS:].to(torch.int32)
        top = model(out).logits[0, STEPS - 1 : -1].topk(2).values
        print(f"{name}: the likeliest byte leads by {(top[:, 0] - top[:, 1]).min():.2g} at least")
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")

    tensors = weights_of(model, config, dtype, keep_tied=name == "original-names")
    document = json.loads(config.to_json_string(use_diff=False))
    for key in ("transformers_version", "_name_or_path", "id2label", "label2id"):
        document.pop(key, None)
    if name == "original-names":
        document = original_config(config)
        tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    if name.startswith("sharded"):
        save_sharded(tensors, folder)
    else:
        save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(document, indent=1) + "\n")


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "tests" / "ssm" / "golden"
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for seed, (name, settings) in enumerate(CONFIGS.items()):
        if name in sys.argv[2:] or len(sys.argv) <= 2:
            make(name, settings, out, 100 + seed)


if __name__ == "__main__":
    main()
