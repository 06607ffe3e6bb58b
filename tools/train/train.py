#!/usr/bin/env python3
"""Trains a signal model on synthetic and real series and exports its folder. One command makes the model:

    tools/train/train.py --config tools/train/forecast-s.json --pack PACK.npz --minutes 10 --out DIR

DIR receives checkpoint.pt (every minute and at the end) and NAME/ (the exported folder). The learning rate follows the
share of the minutes used. A run in pieces: --until MINUTES ends early, --resume CHECKPOINT goes on, --minutes stays the
whole. SIGTERM ends a run as --until does. A checkpoint holds the weights alone: Adam's moments, a few dozen updates' worth, are gathered anew while the
rate rises again. See README.md beside this file.
"""
import argparse
import collections
import json
import math
import os
import signal
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

EARLY = 32           # steps of a series' start
REWARM = 200         # updates after a resume
EMA = 0.998
WARM_UPDATES = 3     # before a CUDA graph is captured
STARTED = time.monotonic()


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--pack", help="real series, a file of pack.py; without it, synthetic ones alone")
    p.add_argument("--set", action="append", default=[], metavar="KEY=JSON",
                   help="overrides a value of the config, e.g. model.input.patch=8")
    p.add_argument("--minutes", type=float, default=8.0, help="training time, start-up and evaluation excluded")
    p.add_argument("--within", type=float, metavar="SECONDS",
                   help="train for what start-up leaves of so many seconds, instead of --minutes")
    p.add_argument("--until", type=float, help="stop after so many of the minutes")
    p.add_argument("--steps", type=int, default=0, help="stop after so many updates instead")
    p.add_argument("--resume", help="a checkpoint.pt to go on from")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--fp32", action="store_true", help="layers' products in tf32 rather than bf16")
    p.add_argument("--eager", action="store_true", help="no torch.compile, no CUDA graph")
    p.add_argument("--profile", type=int, default=0, metavar="N", help="print where N updates spend time, and end")
    p.add_argument("--brief", action="store_true", help="evaluate on held-back series only, not on those of the card")
    p.add_argument("--progress", type=float, default=20.0, help="seconds between progress lines")
    return p.parse_args()


def configure(path, overrides):
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    for text in overrides:
        key, value = text.split("=", 1)
        *path, last = key.split(".")
        node = config
        for name in path:
            node = node[name]
        if last not in node:
            raise SystemExit(f"--set {key}: no such key")
        node[last] = json.loads(value)
    return config


def parameter_groups(net, weight_decay, device):
    """For AdamW: matrices decay, but for A_log. On a GPU rates are tensors, which a graph reads."""
    decay = [p for n, p in net.named_parameters() if p.dim() > 1 and "A_log" not in n]
    plain = [p for n, p in net.named_parameters() if p.dim() == 1 or "A_log" in n]
    lr = lambda: torch.tensor(0.0, device=device) if device.type == "cuda" else 0.0
    return [{"params": decay, "weight_decay": weight_decay, "lr": lr()}, {"params": plain, "weight_decay": 0.0, "lr": lr()}]


class Compiled:
    """The pointwise functions, fused by torch.compile while training; evaluation, of many shapes, uses the plain
    ones."""

    def __init__(self):
        self.plain = {name: getattr(models, name) for name in models.POINTWISE}
        self.pinball = losses.pinball

    def on(self):
        for name, f in self.plain.items():
            setattr(models, name, torch.compile(f, dynamic=False))
        losses.pinball = torch.compile(self.pinball, dynamic=False)

    def off(self):
        for name, f in self.plain.items():
            setattr(models, name, f)
        losses.pinball = self.pinball


def warm_up(advance, update, compiled):
    """Compiles and captures where that works; says so, and trains on plainly where it does not."""
    for how, compile_too, graph in (("compiled, one CUDA graph", True, True), ("one CUDA graph", False, True), ("compiled", True, False)):
        begun = time.monotonic()
        try:
            compiled.on() if compile_too else compiled.off()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPDATES):
                    advance()
            torch.cuda.current_stream().wait_stream(side)
            if graph:
                update.capture()
                advance()
            torch.cuda.synchronize()
            print(f"updates: {how}, ready after {time.monotonic() - begun:.0f} s", flush=True)
            return
        except Exception as e:  # whatever a compiler or driver says: train slowly rather than not at all
            update.graph = None
            print(f"updates: not {how} ({type(e).__name__}: {str(e)[:300]})", flush=True)
    compiled.off()


class Update:
    """One optimiser step on a segment of every lane, all of it in fixed memory, so that a GPU can replay it as one
    graph."""

    def __init__(self, net, cfg, hp, scan, optimizer):
        self.net, self.cfg, self.hp, self.scan, self.optimizer = net, cfg, hp, scan, optimizer
        device, S, L, H = net.input.weight.device, hp["series"], hp["segment"], net.horizon
        self.levels = torch.tensor(net.levels, device=device)
        self.reach = torch.arange(H, device=device)
        self.x, self.dt = torch.zeros(S, L + H, device=device), torch.ones(S, L, device=device)
        self.c, self.first = torch.ones(S, device=device), torch.ones(S, dtype=torch.bool, device=device)
        self.chosen = torch.zeros(S, hp["loss_steps"], dtype=torch.long, device=device)
        self.front, self.state = front.start_state(S, device), net.start_state(S)
        self.ema = [p.detach().clone() for p in net.parameters()]
        self.sums = torch.zeros(2, device=device)
        self.units = self.graph = None

    def load(self, segment, chosen):
        for buffer, value in zip((self.x, self.dt, self.c, self.first), segment):
            buffer.copy_(value)
        self.chosen.copy_(chosen)

    def forward(self):
        cfg, patch = self.cfg["input"], self.cfg["input"]["patch"]
        keep = ~self.first
        start = {k: v * keep for k, v in self.front.items()}
        state = [(w * keep[:, None, None], h * keep[:, None, None]) for w, h in self.state]
        L = self.dt.shape[1]
        features, frames, end = front.run(cfg, self.x[:, :L].double(), start)
        g = self.dt.unflatten(-1, (-1, patch)).mean(-1)
        g[:, 0] = torch.where(self.first, 1.0, g[:, 0])
        f, after = self.net.embed(features, g, state, self.scan)
        for name, v in end.items():
            self.front[name].copy_(v)
        for (w, h), (w1, h1) in zip(self.state, after):
            w.copy_(w1)
            h.copy_(h1)
        frames = {name: v.gather(1, self.chosen) for name, v in frames.items()}
        ahead = patch * (self.chosen + 1)[..., None] + self.reach
        truth = self.x.gather(1, ahead.flatten(1)).view(ahead.shape).double()
        self.units = losses.in_units(frames, truth, self.c, self.hp["nearness"])
        z = self.net.forecast(f.gather(1, self.chosen[..., None].expand(-1, -1, f.shape[-1])))
        return losses.pinball(z, *self.units, self.levels)

    def compute(self):
        loss = self.forward()
        loss.backward()
        grads = [p.grad for p in self.net.parameters()]
        for g in grads:
            g.nan_to_num_(0.0, 0.0, 0.0)
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.hp["clip"])
        self.optimizer.step()
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.net.parameters()], 1.0 - EMA)
        self.sums += torch.stack([loss.detach(), norm.detach()])

    def eager(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.compute()

    def capture(self):
        """After some eager updates on a side stream: compute() as a graph."""
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.compute()
        self.graph = graph

    def run(self):
        self.graph.replay() if self.graph else self.eager()


class Trainer:
    def __init__(self, args):
        config = configure(args.config, args.set)
        self.args, self.name, self.cfg, self.hp = args, config["name"], config["model"], config["training"]
        torch.manual_seed(args.seed)
        self.device = torch.device(args.device)
        self.gpu = self.device.type == "cuda"
        self.net = models.SignalModel(self.cfg).to(self.device)
        backbone = self.cfg["backbone"]
        self.scan, how = scans.choose(self.device, backbone["expand"] * backbone["d_model"], backbone["d_state"])
        models.Layer.dtype = torch.bfloat16 if how.startswith("triton") and not args.fp32 else torch.float32
        print(f"scan: {how}", flush=True)
        groups = parameter_groups(self.net, self.hp["weight_decay"], self.device)
        self.optimizer = torch.optim.AdamW(groups, lr=groups[0]["lr"], betas=(0.9, 0.98), fused=self.gpu, capturable=self.gpu)
        self.step, self.elapsed, self.seen, self.resumed = 0, 0.0, 0, -REWARM
        if args.resume:
            self.restore(args.resume)
        self.update = Update(self.net, self.cfg, self.hp, self.scan, self.optimizer)
        self.pack = data.Pack(args.pack, self.device) if args.pack else None
        seed = args.seed * 1_000_003 + self.step
        self.draw = data.source(self.device, seed + 500_000)
        self.feed = data.Feed(data.source(self.device, seed), self.hp["series"], self.hp["segment"], self.net.horizon,
                              self.hp["segments"], self.pack, self.hp["real"])
        self.compiled = Compiled()
        self.told_to_end = False
        signal.signal(signal.SIGTERM, self.end)

    def end(self, *_):
        self.told_to_end = True

    # ---- one update -------------------------------------------------------------------------------------------

    def choose_steps(self, first):
        """Steps whose forecasts are scored, a random part, neighbours being alike; at a start many early ones, because
        short series are made of them."""
        steps, k, g = self.hp["segment"] // self.cfg["input"]["patch"], self.hp["loss_steps"], self.draw.g
        some = torch.randint(steps, (len(first), k), device=self.device, generator=g)
        early = torch.randint(min(EARLY, steps), (len(first), k // 4), device=self.device, generator=g)
        some[:, :k // 4] = torch.where(first[:, None], early, some[:, :k // 4])
        return some

    def learning_rate(self):
        done = self.step / self.args.steps if self.args.steps else self.elapsed / (60 * self.args.minutes)
        warm = self.hp["warmup_fraction"]
        shape = done / warm if done < warm else max(0.0, 1.0 - (done - warm) / (1.0 - warm))
        return self.hp["lr"] * shape * min(1.0, (self.step - self.resumed) / REWARM) + 1e-6

    def advance(self):
        segment = self.feed.next()
        self.update.load(segment, self.choose_steps(segment[3]))
        for group in self.optimizer.param_groups:
            if self.gpu:
                group["lr"].fill_(self.learning_rate())
            else:
                group["lr"] = self.learning_rate()
        self.update.run()
        self.step += 1
        self.seen += self.hp["series"] * self.hp["segment"]

    def naive_loss(self):
        """The loss of Gaussian bands of width d·√h around the last value, which is also what training starts from."""
        levels = self.update.levels
        target, step, counts = self.update.units
        z = (levels * 2 - 1).erfinv().mul(math.sqrt(2)).asinh()
        return self.compiled.pinball(z.expand(*target.shape, -1), target, step, counts, levels)

    def profile(self, count):
        from torch.profiler import ProfilerActivity, profile
        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.gpu else [])
        updates = lambda: [self.advance() for _ in range(count)]
        for title, work in (("drawing a pool", self.feed.turn), (f"{count} updates", updates)):
            begun = time.monotonic()
            with profile(activities=kinds) as p:
                work()
                if self.gpu:
                    torch.cuda.synchronize()
            print(f"{title}: {time.monotonic() - begun:.3f} s, profiled")
            order = "self_device_time_total" if self.gpu else "self_cpu_time_total"
            print(p.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60), flush=True)

    # ---- the whole run ----------------------------------------------------------------------------------------

    def finished(self):
        if self.told_to_end:
            return True
        if self.args.steps:
            return self.step >= self.args.steps
        return self.elapsed >= 60 * min(self.args.minutes, self.args.until or self.args.minutes)

    def hold_back(self, marks):
        """Keeps the host at most a few updates ahead of the GPU, so that the clock is true."""
        if self.gpu:
            marks.append(torch.cuda.Event())
            marks[-1].record()
            if len(marks) > 4:
                marks.popleft().synchronize()

    def run(self):
        if self.gpu and not self.args.eager:
            warm_up(self.advance, self.update, self.compiled)
        self.feed.ahead_of_time()
        begun = time.monotonic() - self.elapsed
        if self.args.within:
            self.args.minutes = (self.elapsed + self.args.within - (time.monotonic() - STARTED)) / 60
        said = saved = time.monotonic()
        said_step, saves, naive, marks = self.step, 0, [], collections.deque()
        self.update.sums.zero_()
        while not self.finished():
            self.advance()
            if self.step % 16 == 1 or not naive:
                naive.append(self.naive_loss())
            self.hold_back(marks)
            now = time.monotonic()
            self.elapsed = now - begun
            if now - said >= self.args.progress or self.finished():
                self.progress(naive, self.step - said_step, now - said)
                said, said_step, naive = now, self.step, []
            if now - saved >= (60 if saves else 5):  # the first soon: what cannot be saved need not be trained
                self.save()
                saved, saves = now, saves + 1
        self.compiled.off()
        self.save()

    def progress(self, naive, steps, seconds):
        loss, norm = (self.update.sums / max(steps, 1)).tolist()
        self.update.sums.zero_()
        naive, rate = torch.stack(naive).mean().item(), steps / max(seconds, 1e-9)
        memory = torch.cuda.max_memory_reserved() / 2**30 if self.gpu else 0.0
        print(f"{self.elapsed:7.1f} s  step {self.step:6d}  {rate:6.2f} steps/s  "
              f"{rate * self.hp['series'] * self.hp['segment'] / 1e6:7.2f} Msamples/s  lr {self.learning_rate():.2e}  "
              f"loss {loss:.4f}  naive {naive:.4f}  ratio {loss / naive:.4f}  grad {norm:.3f}  {memory:.1f} GiB", flush=True)

    def facts(self):
        share, series = (self.hp["real"], self.pack.counts) if self.pack else (0.0, {})
        return {"steps": self.step, "samples_seen": self.seen, "seconds": round(self.elapsed), "seed": self.args.seed,
                "real_share": share, "real_series": series}

    def averaged(self):
        """A copy of the model with the averaged weights."""
        net = models.SignalModel(self.cfg).to(self.device)
        with torch.no_grad():
            for p, q in zip(net.parameters(), self.update.ema):
                p.copy_(q)
        return net.eval()

    def save(self, tables=""):
        os.makedirs(self.args.out, exist_ok=True)
        path = os.path.join(self.args.out, "checkpoint.pt")
        weights = {n: p.detach().cpu() for n, p in self.net.state_dict().items()}
        if not all(p.isfinite().all() for p in weights.values()):
            raise SystemExit(f"step {self.step}: weights are no longer finite; {path} is from before")
        torch.save({"net": weights, "step": self.step, "elapsed": self.elapsed, "seen": self.seen}, path + ".part")
        os.replace(path + ".part", path)
        machine = torch.cuda.get_device_name() if self.gpu else "CPU"
        text = card.text(self.name, self.cfg, self.net, self.facts(), machine, tables)
        export.save(os.path.join(self.args.out, self.name), self.name, self.cfg, self.averaged(), self.facts(), text)

    def restore(self, path):
        saved = torch.load(path, map_location=self.device, weights_only=True)
        self.net.load_state_dict(saved["net"])
        self.step, self.elapsed, self.seen = saved["step"], saved["elapsed"], saved["seen"]
        self.resumed = self.step
        print(f"resumed {path}: step {self.step}, {self.elapsed:.0f} s", flush=True)

    def evaluate(self):
        models.Layer.dtype = torch.float32
        net = self.averaged()
        scores = evaluate.held_back(net, self.cfg, self.pack, self.device, self.scan)
        with open(os.path.join(self.args.out, "scores.json"), "w", encoding="utf-8") as f:
            json.dump({"name": self.name, **self.facts(), "scores": scores}, f, indent=1)
        print("loss / naive loss on series never trained on:\n" + evaluate.lines(scores), flush=True)
        if not self.args.brief:
            self.save(evaluate.table(evaluate.real(net, self.cfg, self.device, self.scan)))


def main():
    args = arguments()
    torch.set_float32_matmul_precision("high")
    trainer = Trainer(args)
    print(f"{sum(p.numel() for p in trainer.net.parameters())} parameters on {args.device}", flush=True)
    if args.profile:
        if trainer.gpu and not args.eager:
            warm_up(trainer.advance, trainer.update, trainer.compiled)
        trainer.profile(args.profile)
        return
    trainer.run()
    if not trainer.told_to_end:
        trainer.evaluate()


if __name__ == "__main__":
    main()
