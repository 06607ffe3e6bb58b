#!/usr/bin/env python3
"""Trains a signal model on synthetic series and exports its folder. One command makes the model:

    tools/train/train.py --config tools/train/forecast-s.json --minutes 8 --out DIR

DIR receives checkpoint.pt (every minute; --resume it) and NAME/ (the exported folder, with every checkpoint). The learning
rate follows the share of the minutes used, time before a resume included. See README.md beside this file.
"""
import argparse
import collections
import json
import math
import os
import time

import torch

import card
import data
import evaluate
import export
import front
import loss as losses
import model as models
import scan as scans


POOL = 4    # batches drawn at once
EARLY = 32  # steps


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--minutes", type=float, default=8.0, help="training time, evaluation excluded")
    p.add_argument("--steps", type=int, default=0, help="stop after so many steps instead")
    p.add_argument("--resume", help="a checkpoint.pt to go on from")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--amp", choices=("tf32", "bf16", "fp32"), default="tf32", help="arithmetic of the projections")
    p.add_argument("--compile", action="store_true", help="torch.compile the pointwise parts")
    p.add_argument("--series", type=int, help="overrides the config's")
    p.add_argument("--segment", type=int, help="overrides the config's")
    p.add_argument("--progress", type=float, default=20.0, help="seconds between progress lines")
    return p.parse_args()


def try_compile():
    """Replaces the pointwise functions by compiled ones; leaves them alone where that fails."""
    kept = models.conv_silu, models.gate, losses.pinball
    try:
        models.conv_silu, models.gate, losses.pinball = (torch.compile(f, dynamic=False) for f in kept)
        x = torch.zeros(2, 8, 16, device="cuda", requires_grad=True)
        models.conv_silu(x, torch.zeros(16, 4, device="cuda"), torch.zeros(16, device="cuda"), 5).sum().backward()
    except Exception as e:
        print(f"compile: off ({type(e).__name__}: {str(e)[:200]})", flush=True)
        models.conv_silu, models.gate, losses.pinball = kept


class Trainer:
    def __init__(self, args):
        with open(args.config, encoding="utf-8") as f:
            config = json.load(f)
        self.args, self.name, self.cfg, self.hp = args, config["name"], config["model"], config["training"]
        self.hp["series"] = args.series or self.hp["series"]
        self.hp["segment"] = args.segment or self.hp["segment"]
        torch.manual_seed(args.seed)
        self.device = torch.device(args.device)
        self.net = models.SignalModel(self.cfg).to(self.device)
        self.levels = torch.tensor(self.net.levels, device=self.device)
        backbone = self.cfg["backbone"]
        self.scan, how = scans.choose(self.device, backbone["expand"] * backbone["d_model"], backbone["d_state"])
        print(f"scan: {how}", flush=True)
        decay = [p for n, p in self.net.named_parameters() if p.dim() > 1 and "A_log" not in n]
        plain = [p for n, p in self.net.named_parameters() if p.dim() == 1 or "A_log" in n]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": self.hp["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
            lr=self.hp["lr"], betas=(0.9, 0.98), fused=self.device.type == "cuda")
        self.step, self.elapsed, self.seen = 0, 0.0, 0
        if args.resume:
            self.restore(args.resume)
        self.draw, self.pool = data.source(self.device, args.seed * 1_000_003 + self.step), []

    # ---- one step -------------------------------------------------------------------------------------------

    def segment_loss(self, x, dt, at, front_state, state):
        """Loss of one segment that starts at sample `at`, and the states after it."""
        patch, L, H = self.cfg["input"]["patch"], self.hp["segment"], self.net.horizon
        features, frames, front_state = front.run(self.cfg["input"], x[:, at:at + L], front_state)
        g = dt[:, at:at + L].unflatten(-1, (-1, patch)).mean(-1)
        if at == 0:
            g[:, 0] = 1.0
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.amp == "bf16"):
            f, state = self.net.embed(features, g, state, self.scan)
        chosen = self.choose_steps(at == 0)
        ahead = at + patch * (chosen + 1)[:, None] + torch.arange(H, device=self.device)
        frames = {name: v[:, chosen] for name, v in frames.items()}
        units = losses.in_units(frames, x[:, ahead], self.move)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.amp == "bf16"):
            z = self.net.forecast(f[:, chosen])
        return losses.pinball(z, *units, self.levels), units, front_state, state

    def choose_steps(self, start):
        """Steps whose forecasts are scored: a random part, neighbours being alike; at a start many early ones, because
        short series are made of them."""
        steps, k = self.hp["segment"] // self.cfg["input"]["patch"], self.hp["loss_steps"]
        some = lambda n, count: torch.randperm(n, generator=self.draw.g, device=self.device)[:count]
        if not start:
            return some(steps, k)
        return torch.cat([some(min(EARLY, steps - 1), k // 4), some(steps - 1, k - k // 4)]) + 1

    def naive_loss(self, units):
        """The loss of Gaussian bands of width d·√h around the last value, which is also what training starts from."""
        target, step, counts = units
        z = (self.levels * 2 - 1).erfinv().mul(math.sqrt(2)).asinh()
        return losses.pinball(z.expand(*target.shape, -1), target, step, counts, self.levels)

    def learning_rate(self):
        done = self.step / self.args.steps if self.args.steps else self.elapsed / (60 * self.args.minutes)
        warm = self.hp["warmup_fraction"]
        return self.hp["lr"] * (done / warm if done < warm else max(0.0, 1.0 - (done - warm) / (1.0 - warm))) + 1e-6

    def update(self, loss):
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for p in self.net.parameters():
            p.grad.nan_to_num_(0.0, 0.0, 0.0)
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.hp["clip"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        return norm

    def series(self):
        """One batch of series from their starts, in segments with carried state: yields after each update."""
        S, L = self.hp["series"], self.hp["segment"]
        if not self.pool:  # several batches at once: drawing costs launches rather than arithmetic
            self.segments = (1, 1, 2, 4)[int(torch.randint(4, (1,), generator=self.draw.cpu))]
            x, dt = data.batch(self.draw, POOL * S, self.segments * L + self.net.horizon)
            self.pool = list(zip(x.split(S), dt.split(S)))
        x, dt = self.pool.pop()
        self.move = losses.typical_move(x)
        front_state, state = front.start_state(S, self.device), self.net.start_state(S)
        for i in range(self.segments):
            loss, units, front_state, state = self.segment_loss(x, dt, i * L, front_state, state)
            norm = self.update(loss)
            self.step += 1
            self.seen += S * L
            yield loss.detach(), norm, units

    # ---- the whole run ----------------------------------------------------------------------------------------

    def finished(self):
        return self.step >= self.args.steps if self.args.steps else self.elapsed >= 60 * self.args.minutes

    def hold_back(self, marks):
        """Keeps the host at most a few steps ahead of the GPU, so that the clock is true."""
        if self.device.type == "cuda":
            marks.append(torch.cuda.Event())
            marks[-1].record()
            if len(marks) > 4:
                marks.popleft().synchronize()

    def run(self):
        begun = time.monotonic() - self.elapsed
        said = saved = time.monotonic()
        said_step, sums, naive, marks = self.step, [], [], collections.deque()
        while not self.finished():
            for loss, norm, units in self.series():
                sums.append(torch.stack([loss, norm]))
                if self.step % 16 == 1:
                    naive.append(self.naive_loss(units))
                self.hold_back(marks)
                self.elapsed = time.monotonic() - begun
                now = time.monotonic()
                if (now - said >= self.args.progress or self.finished()) and naive:
                    self.progress(sums, naive, (self.step - said_step) / max(now - said, 1e-9))
                    said, said_step, sums, naive = now, self.step, [], []
                if self.finished():
                    break
            if now - saved >= 60:
                self.save()
                saved = now
        self.save()

    def progress(self, sums, naive, rate):
        loss, norm = torch.stack(sums).mean(0).tolist()
        naive = torch.stack(naive).mean().item()
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        print(f"{self.elapsed:7.1f} s  step {self.step:6d}  {rate:6.2f} steps/s  "
              f"{rate * self.hp['series'] * self.hp['segment'] / 1e6:7.2f} Msamples/s  lr {self.learning_rate():.2e}  "
              f"loss {loss:.4f}  naive {naive:.4f}  ratio {loss / naive:.4f}  grad {norm:.3f}  {memory:.1f} GiB", flush=True)

    def facts(self):
        return {"steps": self.step, "samples_seen": self.seen, "seconds": round(self.elapsed), "seed": self.args.seed}

    def save(self, table=""):
        os.makedirs(self.args.out, exist_ok=True)
        path = os.path.join(self.args.out, "checkpoint.pt")
        torch.save({"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step,
                    "elapsed": self.elapsed, "seen": self.seen}, path + ".part")
        os.replace(path + ".part", path)
        machine = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        text = card.text(self.name, self.cfg, self.net, self.facts(), machine, table)
        export.save(os.path.join(self.args.out, self.name), self.name, self.cfg, self.net, self.facts(), text)

    def restore(self, path):
        saved = torch.load(path, map_location=self.device, weights_only=True)
        self.net.load_state_dict(saved["net"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.elapsed, self.seen = saved["step"], saved["elapsed"], saved["seen"]
        print(f"resumed {path}: step {self.step}, {self.elapsed:.0f} s", flush=True)


def main():
    args = arguments()
    torch.set_float32_matmul_precision("high" if args.amp == "tf32" else "highest")
    if args.compile and args.device.startswith("cuda"):
        try_compile()
    trainer = Trainer(args)
    print(f"{sum(p.numel() for p in trainer.net.parameters())} parameters on {args.device}", flush=True)
    trainer.run()
    print("synthetic families, seeds never trained on: loss / naive loss", flush=True)
    print(evaluate.families(trainer.net.eval(), trainer.cfg, trainer.device, trainer.scan), flush=True)
    table = evaluate.table(evaluate.real(trainer.net, trainer.cfg, trainer.device, trainer.scan))
    print(table, flush=True)
    trainer.save(table)


if __name__ == "__main__":
    main()
