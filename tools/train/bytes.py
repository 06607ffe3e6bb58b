#!/usr/bin/env python3
"""Trains a byte model (Mamba-1, vocab 256, tied head; after MambaByte, arXiv 2401.13660) and exports its folder in Hugging Face's
names:

    tools/train/text.py TEXT.bin --unseen ../shared/data/text/*.xz
    tools/train/bytes.py --config tools/train/bytes-s.json --text TEXT.bin --minutes 8 --out DIR

Lanes of text run through the model in segments with carried state (truncated back-propagation); after `segments` of them a lane
begins anew elsewhere. The last hundredth of the text is held back. DIR receives NAME/ (config.json, model.safetensors in bf16,
README.md), every minute and at the end. On a GPU a whole update is one CUDA graph. A run on a CPU, to see that all is there:
--steps 5 --set training.lanes=2 --set training.segment=64 --set model.hidden_size=32
"""
import argparse
import json
import math
import os
import time

import torch
from torch import nn
from torch.nn import functional as F

import export
import model as models
import scan as scans
import train

HELD_BACK = 0.01
WARM_UPDATES = 3  # before a CUDA graph is captured


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
        table = self.backbone.embeddings.weight
        r, after = F.embedding(tokens, table), []
        g = torch.ones(tokens.shape, device=tokens.device)
        for layer, s in zip(self.backbone.layers, state):
            out, s = layer.mixer(layer.norm(r, layer.dtype), g, s, scan)
            r = r + F.dropout(out.float(), self.dropout, self.training)
            after.append(s)
        f = self.backbone.norm_f(r, models.Layer.dtype)
        return F.linear(f, table.to(f.dtype)).float(), after


class Lanes:
    """Stretches of the text side by side, on the training device."""

    def __init__(self, text, hp, generator):
        self.text, self.hp, self.g = text, hp, generator
        lanes, device = hp["lanes"], text.device
        self.reach = torch.arange(hp["segment"] + 1, device=device)
        self.at = self.somewhere(lanes)
        self.left = torch.randint(1, hp["segments"] + 1, (lanes,), device=device, generator=generator)

    def somewhere(self, n):
        return torch.randint(len(self.text) - self.hp["segment"] - 1, (n,), device=self.text.device, generator=self.g)

    def next(self):
        """Bytes [S, T + 1] as indices, and which lanes begin anew."""
        anew = (self.left <= 0) | (self.at + self.hp["segment"] + 1 >= len(self.text))
        self.at = torch.where(anew, self.somewhere(len(self.at)), self.at)
        self.left = torch.where(anew, self.hp["segments"], self.left) - 1
        bytes_ = self.text[self.at[:, None] + self.reach].long()
        self.at = self.at + self.hp["segment"]
        return bytes_, anew


class Update:
    """One optimiser step in fixed memory, so that a GPU can replay it as one graph."""

    def __init__(self, net, hp, scan, optimizer):
        self.net, self.hp, self.scan, self.optimizer = net, hp, scan, optimizer
        device, S = net.backbone.embeddings.weight.device, hp["lanes"]
        self.bytes = torch.zeros(S, hp["segment"] + 1, dtype=torch.long, device=device)
        self.anew = torch.ones(S, dtype=torch.bool, device=device)
        self.state = net.start_state(S)
        self.loss = torch.zeros((), device=device)
        self.graph = None

    def load(self, bytes_, anew):
        self.bytes.copy_(bytes_)
        self.anew.copy_(anew)

    def compute(self):
        keep = ~self.anew[:, None, None]
        logits, after = self.net(self.bytes[:, :-1], [(w * keep, h * keep) for w, h in self.state], self.scan)
        for (w, h), (w1, h1) in zip(self.state, after):
            w.copy_(w1)
            h.copy_(h1)
        loss = F.cross_entropy(logits.flatten(0, 1), self.bytes[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.hp["clip"])
        self.optimizer.step()
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
        data = bytearray()
        for path in args.text:
            with open(path, "rb") as f:
                data += f.read()
        text = torch.frombuffer(data, dtype=torch.uint8).to(self.device)
        held = int(len(text) * HELD_BACK)
        self.text, self.held = text[:len(text) - held], text[len(text) - held:]
        self.lanes = Lanes(self.text, self.hp, torch.Generator(device=self.device).manual_seed(args.seed))
        self.update = Update(self.net, self.hp, self.scan, self.optimizer)
        self.step, self.elapsed, self.held_bits = 0, 0.0, None

    def learning_rate(self):
        done = self.step / self.args.steps if self.args.steps else self.elapsed / (60 * self.args.minutes)
        warm = self.hp["warmup_fraction"]
        return self.hp["lr"] * (done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm) / (1 - warm))))) + 1e-6

    def advance(self):
        self.update.load(*self.lanes.next())
        for group in self.optimizer.param_groups:
            if self.gpu:
                group["lr"].fill_(self.learning_rate())
            else:
                group["lr"] = self.learning_rate()
        self.update.run()
        self.step += 1

    def warm_up(self):
        if not self.gpu:
            return
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPDATES):
                    self.advance()
            torch.cuda.current_stream().wait_stream(side)
            self.update.capture()
            torch.cuda.synchronize()
            print("updates: one CUDA graph", flush=True)
        except Exception as e:  # whatever a driver says: train slowly rather than not at all
            self.update.graph = None
            print(f"updates: no graph ({type(e).__name__}: {str(e)[:300]})", flush=True)

    def finished(self):
        return self.step >= self.args.steps if self.args.steps else self.elapsed >= 60 * self.args.minutes

    def run(self):
        self.warm_up()
        begun = said = saved = time.monotonic()
        said_step = self.step
        self.update.loss.zero_()
        while not self.finished():
            self.advance()
            if self.gpu and self.step % 8 == 0:
                torch.cuda.synchronize()  # the host stays near the GPU, so that the clock is true
            now = time.monotonic()
            self.elapsed = now - begun
            if now - said >= 10 or self.finished():
                steps = max(self.step - said_step, 1)
                bits = self.update.loss.item() / steps / math.log(2)
                self.update.loss.zero_()
                print(f"{self.elapsed:7.1f} s  step {self.step:6d}  {steps * self.update.bytes[:, 1:].numel() / (now - said) / 1e6:7.3f} MB/s  "
                      f"lr {self.learning_rate():.2e}  {bits:.4f} bits per byte", flush=True)
                said, said_step = now, self.step
            if now - saved >= 60:
                self.save()
                saved = now
        self.held_bits = self.bits_of(self.held)
        print(f"held back: {self.held_bits:.4f} bits per byte of {len(self.held)}", flush=True)
        self.save()

    @torch.no_grad()
    def bits_of(self, text, piece=4096):
        """With one carried state."""
        net, state, nats = self.net.eval(), self.net.start_state(1), 0.0
        text = text[:piece * (len(text) // piece) + 1].long() if len(text) > piece else text.long()
        for at in range(0, len(text) - 1, piece):
            part = text[at:at + piece + 1]
            logits, state = net(part[None, :-1], state, self.scan)
            nats += F.cross_entropy(logits[0], part[1:], reduction="sum").item()
        net.train()
        return nats / (len(text) - 1) / math.log(2)

    def save(self):
        folder = os.path.join(self.args.out, self.name)
        os.makedirs(folder, exist_ok=True)
        rank = self.net.backbone.layers[0].mixer.dt_proj.in_features
        config = {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "intermediate_size": self.cfg["expand"] * self.cfg["hidden_size"],
                  "time_step_rank": rank, "layer_norm_epsilon": 1e-5, "use_bias": False, "use_conv_bias": True, "hidden_act": "silu",
                  "residual_in_fp32": True, "tie_word_embeddings": True, "torch_dtype": "bfloat16", **self.cfg}
        facts = {"steps": self.step, "bytes_seen": self.step * self.update.bytes[:, 1:].numel(), "text_bytes": len(self.text),
                 "seconds": round(self.elapsed), "seed": self.args.seed, "held_back_bits_per_byte": self.held_bits,
                 "machine": torch.cuda.get_device_name() if self.gpu else "CPU"}
        path = os.path.join(folder, "model.safetensors")
        export.write_safetensors(path + ".part", self.net.state_dict(), half)
        os.replace(path + ".part", path)
        for name, doc in (("config.json", config), ("training.json", facts)):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                f.write(json.dumps(doc, indent=2) + "\n")


def half(name, t):
    """Matrices; what the engine holds in fp32 stays fp32."""
    return t.dim() > 1 and not name.endswith(("A_log", "conv1d.weight"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", required=True)
    p.add_argument("--text", nargs="+", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--minutes", type=float, default=8.0, help="training time, start-up excluded")
    p.add_argument("--steps", type=int, default=0, help="stop after so many updates instead")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="overrides a value of the config")
    torch.set_float32_matmul_precision("high")
    Trainer(p.parse_args()).run()


if __name__ == "__main__":
    main()
