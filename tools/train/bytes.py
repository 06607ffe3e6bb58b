#!/usr/bin/env python3
"""Trains a byte model (Mamba-1, vocab 256, tied head; after MambaByte, arXiv 2401.13660) and exports its folder in Hugging Face's
names:

    tools/train/text.py FOLDER --unseen ../shared/data/text/*.xz
    tools/train/bytes.py --config tools/train/bytes-s.json --text FOLDER/train.bin --held FOLDER/held-*.bin --minutes 8 --out DIR

Lanes of text run through the model in segments with carried state (truncated back-propagation); after `segments` of them a lane
begins anew elsewhere. DIR receives checkpoint.pt and NAME/ (config.json, training.json, model.safetensors in bf16, README.md), every
minute and at the end, when the files of --held are scored as `mambactl eval bytes` scores them. Weights are averaged for export.

The learning rate's course is that of --minutes; --until MINUTES ends early, --resume CHECKPOINT goes on, and --within SECONDS trains
for what start-up leaves of so many. SIGTERM ends a run as --until does. A checkpoint holds weights alone, matrices in bf16: Adam's
moments are gathered anew while the rate rises again. On a GPU a whole update is one CUDA graph. A run on a CPU, to see that all is
there: --steps 5 --set training.lanes=2 --set training.segment=64 --set model.hidden_size=32
"""
import argparse
import json
import lzma
import math
import os
import signal
import time

import torch
from torch import nn
from torch.nn import functional as F

import card
import export
import model as models
import scan as scans
import train

EMA = 0.998
REWARM = 200      # updates after a resume
PIECE = 4096      # bytes that are scored at a time


class ByteModel(nn.Module):
    def __init__(self, cfg, dropout=0.0):
        super().__init__()
        E, L = cfg["hidden_size"], cfg["num_hidden_layers"]
        self.backbone = models.Backbone(d_model=E, n_layer=L, d_state=cfg["state_size"], d_conv=cfg["conv_kernel"], expand=cfg["expand"])
        self.backbone.embeddings = nn.Embedding(cfg["vocab_size"], E)
        nn.init.normal_(self.backbone.embeddings.weight, std=0.02)
        self.dropout = dropout

    def start_state(self, lanes):
        """Conv window and SSM state of every layer, all zero."""
        def one(m):
            D, K = m.conv1d.weight.shape[0], m.conv1d.weight.shape[2]
            return m.D.new_zeros(lanes, K - 1, D), m.D.new_zeros(lanes, D, m.A_log.shape[1])
        return [one(layer.mixer) for layer in self.backbone.layers]

    def forward(self, tokens, state, scan):
        """tokens [S, T] → logits [S, T, vocab] and the state after them."""
        dtype, drop = models.Layer.dtype, lambda x: F.dropout(x, self.dropout, self.training)
        table, after = self.backbone.embeddings.weight.to(dtype), []
        chosen = (tokens[..., None] == torch.arange(len(table), device=tokens.device)).to(dtype)
        r = drop(chosen @ table).float()  # a product: the gradient of a look-up, many of one row, is slow
        g = torch.ones(tokens.shape, device=tokens.device)
        for layer, s in zip(self.backbone.layers, state):
            out, s = layer.mixer(layer.norm(r, dtype), g, s, scan)
            r = r + drop(out)
            after.append(s)
        return F.linear(self.backbone.norm_f(r, dtype), table).float(), after


def read(path):
    """Bytes of a plain file or an .xz."""
    with (lzma.open if path.endswith(".xz") else open)(path, "rb") as f:
        return torch.frombuffer(bytearray(f.read()), dtype=torch.uint8)


@torch.no_grad()
def bits_per_byte(net, text, scan):
    """With one state from the first byte, which counts 8, to the last."""
    device = net.backbone.embeddings.weight.device
    text, state, nats = text.to(device).long(), net.start_state(1), torch.zeros((), device=device, dtype=torch.double)
    for at in range(0, len(text) - 1, PIECE):
        part = text[at:at + PIECE + 1]
        logits, state = net(part[None, :-1], state, scan)
        nats += F.cross_entropy(logits[0], part[1:], reduction="sum")
    return (nats.item() / math.log(2) + 8) / len(text)


class Lanes:
    """Stretches of the text side by side, on the training device."""

    def __init__(self, text, hp, generator):
        self.text, self.hp, self.g = text, hp, generator
        lanes, device = hp["lanes"], text.device
        self.reach = torch.arange(hp["segment"] + 1, device=device)
        self.at = self.somewhere(lanes)
        self.left = torch.randint(1, hp["segments"] + 1, (lanes,), device=device, generator=generator)
        self.begun = torch.zeros(lanes, dtype=torch.bool, device=device)

    def somewhere(self, n):
        return torch.randint(len(self.text) - self.hp["segment"] - 1, (n,), device=self.text.device, generator=self.g)

    def next(self):
        """Bytes [S, T + 1] as indices, and which lanes begin anew."""
        anew = (self.left <= 0) | (self.at + self.hp["segment"] + 1 >= len(self.text))
        self.at = torch.where(anew, self.somewhere(len(self.at)), self.at)
        self.left = torch.where(anew, self.hp["segments"], self.left) - 1
        bytes_ = self.text[self.at[:, None] + self.reach].long()
        self.at = self.at + self.hp["segment"]
        anew, self.begun = anew | ~self.begun, torch.ones_like(anew)
        return bytes_, anew


class Update:
    """One optimiser step in fixed memory, so that a GPU can replay it as one graph."""

    def __init__(self, net, hp, scan, optimizer):
        self.net, self.hp, self.scan, self.optimizer = net, hp, scan, optimizer
        device, S = net.backbone.embeddings.weight.device, hp["lanes"]
        self.bytes = torch.zeros(S, hp["segment"] + 1, dtype=torch.long, device=device)
        self.anew = torch.ones(S, dtype=torch.bool, device=device)
        self.state = net.start_state(S)
        self.ema = [p.detach().clone() for p in net.parameters()]
        self.loss = torch.zeros((), device=device)
        self.graph = None

    def load(self, bytes_, anew):
        self.bytes.copy_(bytes_)
        self.anew.copy_(anew)

    def damaged(self, bytes_):
        """A share of the bytes that are read is random: a model that has seen a small text often comes to know it by heart."""
        wrong = torch.rand(bytes_.shape, device=bytes_.device) < self.hp["noise"]
        return torch.where(wrong, torch.randint_like(bytes_, 256), bytes_)

    def compute(self):
        keep, read = ~self.anew[:, None, None], self.bytes[:, :-1]
        read = self.damaged(read) if self.hp["noise"] else read
        logits, after = self.net(read, [(w * keep, h * keep) for w, h in self.state], self.scan)
        for (w, h), (w1, h1) in zip(self.state, after):
            w.copy_(w1)
            h.copy_(h1)
        loss = F.cross_entropy(logits.flatten(0, 1), self.bytes[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.hp["clip"])
        self.optimizer.step()
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.net.parameters()], 1.0 - EMA)
        self.loss += loss.detach()

    def eager(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.compute()

    def capture(self):
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.compute()
        self.graph = graph

    def run(self):
        self.graph.replay() if self.graph else self.eager()


class Trainer:
    def __init__(self, args):
        config = train.configure(args.config, args.set)
        self.args, self.name, self.cfg, self.hp = args, config["name"], config["model"], config["training"]
        torch.manual_seed(args.seed)
        self.device, self.gpu = torch.device(args.device), args.device.startswith("cuda")
        self.net = ByteModel(self.cfg, self.hp["dropout"]).to(self.device).train()
        self.scan, how = scans.choose(self.device, self.cfg["expand"] * self.cfg["hidden_size"], self.cfg["state_size"])
        models.Layer.dtype = torch.bfloat16 if how.startswith("triton") else torch.float32
        print(f"scan: {how}; {sum(p.numel() for p in self.net.parameters())} parameters on {args.device}", flush=True)
        groups = train.parameter_groups(self.net, self.hp["weight_decay"], self.device)
        self.optimizer = torch.optim.AdamW(groups, lr=groups[0]["lr"], betas=(0.9, 0.95), fused=self.gpu, capturable=self.gpu)
        self.step, self.elapsed, self.resumed = 0, 0.0, -REWARM
        if args.resume:
            self.restore(args.resume)
        self.text = torch.cat([read(path) for path in args.text]).to(self.device)
        self.held = {os.path.basename(path).removesuffix(".xz"): read(path) for path in args.held}
        generator = torch.Generator(device=self.device).manual_seed(args.seed * 1_000_003 + self.step)
        self.lanes = Lanes(self.text, self.hp, generator)
        self.update = Update(self.net, self.hp, self.scan, self.optimizer)
        self.compiled = train.Compiled()
        self.told_to_end = False
        signal.signal(signal.SIGTERM, self.end)

    def end(self, *_):
        self.told_to_end = True

    def learning_rate(self):
        done = self.step / self.args.steps if self.args.steps else self.elapsed / (60 * self.args.minutes)
        warm = self.hp["warmup_fraction"]
        shape = done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm) / (1 - warm))))
        return self.hp["lr"] * shape * min(1.0, (self.step - self.resumed) / REWARM) + 1e-6

    def advance(self):
        self.update.load(*self.lanes.next())
        for group in self.optimizer.param_groups:
            if self.gpu:
                group["lr"].fill_(self.learning_rate())
            else:
                group["lr"] = self.learning_rate()
        self.update.run()
        self.step += 1

    def finished(self):
        if self.told_to_end:
            return True
        if self.args.steps:
            return self.step >= self.args.steps
        return self.elapsed >= 60 * min(self.args.minutes, self.args.until or self.args.minutes)

    def run(self):
        if self.gpu:
            train.warm_up(self.advance, self.update, self.compiled)
        begun = time.monotonic() - self.elapsed
        if self.args.within:
            self.args.minutes = (self.elapsed + self.args.within - (time.monotonic() - train.STARTED)) / 60
        said = saved = time.monotonic()
        said_step, saves = self.step, 0
        self.update.loss.zero_()
        while not self.finished():
            self.advance()
            if self.gpu and self.step % 8 == 0:
                torch.cuda.synchronize()  # the host stays near the GPU, so that the clock is true
            now = time.monotonic()
            self.elapsed = now - begun
            if now - said >= self.args.progress or self.finished():
                self.progress(self.step - said_step, now - said)
                said, said_step = now, self.step
            if now - saved >= (60 if saves else 5):  # the first soon: what cannot be saved need not be trained
                self.save(self.score())
                saved, saves = time.monotonic(), saves + 1
                begun += saved - now
                said += saved - now
        self.save(self.score(exported=True))

    def progress(self, steps, seconds):
        steps, memory = max(steps, 1), torch.cuda.max_memory_reserved() / 2**30 if self.gpu else 0.0
        bits = self.update.loss.item() / steps / math.log(2)
        self.update.loss.zero_()
        print(f"{self.elapsed:7.1f} s  step {self.step:6d}  {steps * self.update.bytes[:, 1:].numel() / max(seconds, 1e-9) / 1e6:7.3f} MB/s  "
              f"lr {self.learning_rate():.2e}  {bits:.4f} bits per byte  {memory:.1f} GiB", flush=True)

    def averaged(self):
        """A copy of the model with the averaged weights, as exported."""
        net = ByteModel(self.cfg).to(self.device).eval()
        with torch.no_grad():
            for (name, p), q in zip(net.named_parameters(), self.update.ema):
                p.copy_(q.bfloat16() if half(name, q) else q)
        return net

    def score(self, exported=False):
        """Bits per byte of the held-back files; `exported`: in fp32, as `mambactl eval bytes` computes them."""
        if not self.held:
            return {}
        dtype, precision = models.Layer.dtype, torch.get_float32_matmul_precision()
        if exported:
            models.Layer.dtype = torch.float32
            torch.set_float32_matmul_precision("highest")
        self.compiled.off()
        net = self.averaged()
        scores = {name: bits_per_byte(net, text, self.scan) for name, text in self.held.items()}
        if self.gpu and not self.update.graph:
            self.compiled.on()
        models.Layer.dtype = dtype
        torch.set_float32_matmul_precision(precision)
        print("held back: " + ", ".join(f"{name} {bits:.4f}" for name, bits in scores.items()) + " bits per byte", flush=True)
        return scores

    def save(self, scores):
        os.makedirs(self.args.out, exist_ok=True)
        weights = {n: (p.bfloat16() if half(n, p) else p).detach().cpu() for n, p in self.net.state_dict().items()}
        path = os.path.join(self.args.out, "checkpoint.pt")
        if not all(p.isfinite().all() for p in weights.values()):
            raise SystemExit(f"step {self.step}: weights are no longer finite; {path} is from before")
        torch.save({"net": weights, "step": self.step, "elapsed": self.elapsed}, path + ".part")
        os.replace(path + ".part", path)
        self.export(scores)

    def export(self, scores):
        rank = self.net.backbone.layers[0].mixer.dt_proj.in_features
        config = {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "intermediate_size": self.cfg["expand"] * self.cfg["hidden_size"],
                  "time_step_rank": rank, "layer_norm_epsilon": 1e-5, "use_bias": False, "use_conv_bias": True, "hidden_act": "silu",
                  "residual_in_fp32": True, "tie_word_embeddings": True, "torch_dtype": "bfloat16", **self.cfg}
        facts = {"steps": self.step, "bytes_seen": self.step * self.update.bytes[:, 1:].numel(), "text_bytes": len(self.text),
                 "seconds": round(self.elapsed), "seed": self.args.seed, "machine": torch.cuda.get_device_name() if self.gpu else "CPU",
                 "training": self.hp, "held_back_bits_per_byte": scores}
        folder, net = os.path.join(self.args.out, self.name), self.averaged()
        texts = {"config.json": json.dumps(config, indent=2) + "\n", "training.json": json.dumps(facts, indent=2) + "\n",
                 "README.md": card.bytes_text(self.name, self.cfg, net, facts)}
        export.replace(folder, "model.safetensors", lambda path: export.write_safetensors(path, net.state_dict(), half))
        for name, text in texts.items():
            export.replace(folder, name, export.text(text))

    def restore(self, path):
        saved = torch.load(path, map_location=self.device, weights_only=True)
        self.net.load_state_dict(saved["net"])
        self.step, self.elapsed, self.resumed = saved["step"], saved["elapsed"], saved["step"]
        print(f"resumed {path}: step {self.step}, {self.elapsed:.0f} s", flush=True)


def half(name, t):
    """Matrices; what the engine holds in fp32 stays fp32."""
    return t.dim() > 1 and not name.endswith(("A_log", "conv1d.weight"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", required=True)
    p.add_argument("--text", nargs="+", required=True, help="plain or .xz")
    p.add_argument("--held", nargs="*", default=[], help="files to score, that are not trained on")
    p.add_argument("--out", required=True)
    p.add_argument("--minutes", type=float, default=8.0, help="training time, start-up and scoring excluded")
    p.add_argument("--within", type=float, metavar="SECONDS", help="train for what start-up leaves of so many seconds, instead of --minutes")
    p.add_argument("--until", type=float, help="stop after so many of the minutes")
    p.add_argument("--steps", type=int, default=0, help="stop after so many updates instead")
    p.add_argument("--resume", help="a checkpoint.pt to go on from")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="overrides a value of the config")
    p.add_argument("--progress", type=float, default=10.0, help="seconds between progress lines")
    torch.set_float32_matmul_precision("high")
    Trainer(p.parse_args()).run()


if __name__ == "__main__":
    main()
