#!/usr/bin/python3
"""More streams than slots: those that rest lie on the disk, and nothing shows of it but in the status.
test_spill.py MAMBAD MAMBACTL"""
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import threading
import time
import unittest

import zmq

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import signal_model  # noqa: E402
from cases import MAMBACTL, PATIENCE, run  # noqa: E402
from daemons import Several  # noqa: E402

LITTLE = "streams: {'*': {publish: {prediction: {every: 10, horizon: 2}}}}\n"
STATE = LITTLE + "state: {dir: DIR/state, interval: 365d}\n"


class Spill(Several):
    streams, slots = 18, 12  # of two channels each: six fit

    def setUp(self):
        super().setUp()
        self.chance = random.Random(6)

    def send(self, d, stream, rows, flags=()):
        header = {"stream": stream, "dtype": "float32", "shape": [len(rows), 2], "flags": list(flags)}
        d.socket.send_json(header, zmq.SNDMORE)
        d.socket.send(b"".join(struct.pack("<2f", *r) for r in rows))

    def plan(self, messages=700, streams=None):
        """Bursts of some streams, while others rest."""
        plan, n = [], streams or self.streams
        for k in range(messages):
            stream = self.chance.randrange(n) if k % 3 else k // 40 % n
            plan.append((f"s{stream}", [(self.chance.gauss(stream, 1), self.chance.gauss(0, 2))
                                        for _ in range(self.chance.randrange(1, 30))]))
        return plan

    def totals(self, plan):
        totals = {}
        for stream, rows in plan:
            totals[stream] = totals.get(stream, 0) + len(rows)
        return totals

    def await_all(self, d, plan):
        totals = self.totals(plan)
        d.wait(lambda: {s: v["rows"] for s, v in d.streams().items() if s in totals} == totals)

    def spill(self, d):
        return json.loads(d.ctl("status", "--json").stdout)["models"]["m"]["spill"]

    def play(self, d, plan):
        for k, (stream, rows) in enumerate(plan):
            self.send(d, stream, rows)
            if k % 4 == 0:
                time.sleep(0.001)
        self.await_all(d, plan)

    def compare(self, a, b, streams):
        for stream in streams:
            self.assertEqual(a.rows(stream), b.rows(stream), stream)
            self.assertEqual(a.events(stream), b.events(stream), stream)

    def test_same_bits(self):
        """Three times more streams than slots, and a snapshot and exports in between: rows and events are those of a daemon
        with room for all, also where everybody always has rows, and after a restart."""
        plan = self.plan()
        half = len(plan) // 2
        enough, few = self.daemon("enough", more=LITTLE), self.daemon("few", slots=self.slots, more=STATE)
        self.play(enough, plan)
        enough.stop()
        for n in range(0, half, 35):  # each portion wants more streams than fit, however quickly it is taken
            for stream, rows in plan[n:min(n + 35, half)]:
                self.send(few, stream, rows)
            self.await_all(few, plan[:min(n + 35, half)])
        self.check(few.ctl("snapshot"), 0, "18 streams")
        streams = json.loads(few.ctl("status", "--json").stdout)["models"]["m"]["streams"]
        self.assertEqual(streams["spilled"], self.streams - self.slots // 2)
        self.assertEqual(streams["active"] + streams["warmup"], self.slots // 2)
        away, = [s for s, v in few.streams().items() if v["state"] == "spilled"][:1]
        self.check(few.ctl("snapshot", "--stream", away, "-o", self.path("away")), 0)
        before = self.spill(few)
        self.assertGreater(before["written_total"], 30)
        self.assertGreater(before["read_total"], 30)
        self.assertEqual((before["refused_total"], before["lost_total"]), (0, 0))
        few.stop()
        with self.subTest("after a restart"):
            few = self.daemon("few", slots=self.slots, more=STATE)
            for stream, rows in plan[half:]:
                self.send(few, stream, rows)
            self.await_all(few, plan[half:])
            few.stop()
            for stream in self.totals(plan):
                self.assertEqual(enough.rows(stream), few.rows(stream), stream)
        with self.subTest("a state that was taken from the disk"):
            other = self.daemon("other", more=LITTLE)
            self.check(other.ctl("restore", self.path("away")), 0)
            for stream, rows in plan[half:]:
                if stream == away:
                    self.send(other, stream, rows)
            self.await_all(other, [p for p in plan[half:] if p[0] == away])
            other.stop()
            for family, rows in other.rows(away).items():
                self.assertEqual(rows, enough.rows(away)[family][-len(rows):])

    @unittest.skipIf(b"__tsan_init" in open(sys.argv[1], "rb").read(), "the thread sanitizer is too slow for so many streams")
    def test_snapshots_in_between(self):
        """Whoever leaves or comes back while a snapshot is made is in it."""
        many, over = 3000, threading.Event()
        d = self.daemon("d", slots=many, more=STATE)
        plan = [(f"s{k}", [(k, 1)] * 9) for k in range(many)]

        def churn():
            while not over.is_set():
                for at in range(0, many, 50):
                    self.send_all(d, plan[at:at + 50])
                    time.sleep(0.001)
        self.send_all(d, plan)
        d.wait(lambda: json.loads(d.ctl("status", "--json").stdout)["inputs"]["z"]["accepted_samples_total"] == many * 18)
        sender = threading.Thread(target=churn)
        sender.start()
        for _ in range(8):
            said = d.ctl("snapshot")
            if f"{many} streams" not in said.stdout:
                break
        over.set()
        sender.join()
        self.check(said, 0, f"{many} streams")
        self.assertEqual(self.spill(d)["refused_total"], 0)

    def test_ends_and_resets(self):
        """What is on the disk ends without coming back, and its room is used again."""
        d = self.daemon("d", slots=4, more=STATE.replace("'*'", "'i*': {idle: 200ms}, '*'"))
        for k in range(8):
            d.push(f"{'is'[k % 2]}{k}", [(k, 1)] * 50)
        d.wait(lambda: [v["state"] for s, v in d.streams().items() if s[0] == "i"] == ["ended"] * 4)
        for k in (1, 3, 5, 7):
            self.send(d, f"s{k}", [], ["end"])
        d.wait(lambda: {v["state"] for v in d.streams().values()} == {"ended"})
        self.assertEqual(self.spill(d)["bytes"], 0)
        for k in range(8):
            d.push(f"s{k}", [(k, 1)] * 50)
        d.stop()
        for k in range(8):
            self.assertEqual([e for e in d.events(f"s{k}") if e in ("start", "end", "error")], ["start", "end", "start"] if k % 2 else ["start"])

    def test_forgotten(self):
        """Of ended streams only so many are remembered, those that ended last; one that waits with its state always is."""
        d = self.daemon("d", more=STATE.replace("365d", "365d, remember: 5"))
        d.push("a", [(1, 1)] * 50)
        self.check(d.ctl("snapshot", "--stream", "a", "-o", self.path("a")), 0)
        self.check(d.ctl("restore", self.path("a"), "--as", "waits"), 0)
        for k in range(30):
            d.push(f"s{k}", [(k, 1)] * 9, flags=["end"])
        d.wait(lambda: len(d.streams()) == 7)
        self.assertEqual(sorted(d.streams()), ["a", *(f"s{k}" for k in range(25, 30)), "waits"])
        self.assertEqual(json.loads(d.ctl("status", "--json").stdout)["streams_forgotten_early_total"], 25)
        d.push("s29", [(1, 1)] * 20)
        d.push("s0", [(1, 1)] * 20)
        d.stop()
        self.assertIn("no more than 5 are remembered", d.said())
        self.assertEqual({s: max(m["epoch"] for m in d.lines(s)) for s in ("s29", "s0")}, {"s29": 1, "s0": 0})

    def test_without_a_disk(self):
        """No section `state`, or `spill: 0`: streams beyond the slots are refused, counted, said."""
        for name, more in ("none", ""), ("zero", "state: {dir: DIR/state, spill: 0}"):
            d = self.daemon(name, slots=4, more=more)
            for k in range(2):
                d.push(f"s{k}", [(k, 1)] * 50)
            self.send(d, "s2", [(1, 1)] * 7)
            d.wait(lambda: d.events("s2") == ["error"])
            status = json.loads(d.ctl("status", "--json").stdout)
            self.assertEqual(status["inputs"]["z"]["input_discarded_samples_total"]["streams"], 14)
            self.assertNotIn("spill", status["models"]["m"])
            d.stop()

    def test_limit(self):
        """Beyond what `spill` has room for, streams are refused as they are beyond the slots."""
        slot = json.loads(run(MAMBACTL, "inspect", self.model, "--json").stdout)["slot"]["bytes"]
        d = self.daemon("d", slots=4, more=f"state: {{dir: DIR/state, interval: 365d, spill: {slot * 8}}}")
        for k in range(4):  # two have slots; of eight cells four stay free for those that change places
            d.push(f"s{k}", [(k, 1)] * 50)
        self.send(d, "s4", [(1, 1)] * 7)
        d.wait(lambda: d.events("s4") == ["error"])
        for k in range(4):
            d.push(f"s{k}", [(k, 1)] * 50)
        d.stop()

    def test_what_refused_rows_say(self):
        """A reset that came with rows which were refused, for nobody could leave, stands before the next ones."""
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        d = self.daemon("d", slots=4, more=STATE, out=f"/dev/fd/{writer}", pass_fds=(writer,))
        os.close(writer)
        lines = os.fdopen(reader, "rb")
        self.addCleanup(lines.close)
        for k in range(3):
            d.push(f"s{k}", [(k, 1)] * 50)
        d.wait(lambda: d.streams()["s0"]["state"] == "spilled")
        unlimited = resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        self.send(d, "s0", [(5, 5)] * 7, ["reset"])
        d.wait(lambda: self.spill(d)["refused_total"] == 1)
        resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE, unlimited)
        d.push("s0", [(0, 1)] * 50)
        self.assertEqual(d.streams()["s0"]["epoch"], 1)
        d.process.send_signal(signal.SIGTERM)
        got = lines.read()
        d.process.wait(PATIENCE)
        with open(d.out, "wb") as f:
            f.write(got)
        self.assertEqual([m["seq"] for m in d.lines("s0") if m.get("event") == "reset"], [50])

    def test_full_disk(self):
        """Nothing that was taken is lost: who has slots keeps them, who is on the disk changes places, who is new is refused
        until there is room again."""
        slot = json.loads(run(MAMBACTL, "inspect", self.model, "--json").stdout)["slot"]["bytes"]
        plan = self.plan(300, 8)
        enough = self.daemon("enough", more=LITTLE)
        reader, writer = os.pipe()  # no file but that of the idle streams grows
        os.set_inheritable(writer, True)
        few = self.daemon("few", slots=4, more=STATE, out=f"/dev/fd/{writer}", pass_fds=(writer,))
        os.close(writer)
        lines = os.fdopen(reader, "rb")
        self.addCleanup(lines.close)
        resource.prlimit(few.process.pid, resource.RLIMIT_FSIZE, (40 * slot, 40 * slot))
        self.play(enough, plan)
        self.play(few, plan)
        cells = self.spill(few)["bytes"] // slot
        self.assertEqual(cells, 12)
        for k in range(30):  # until there is no room
            self.send(few, f"t{k}", [(k, 1)] * 9)
        few.wait(lambda: self.spill(few)["refused_total"] > 0 and self.spill(few)["waiting"] == 0)
        more = self.plan(300, 8)
        for stream, rows in more:
            self.send(few, stream, rows)
            self.send(enough, stream, rows)
        self.await_all(enough, plan + more)
        self.await_all(few, plan + more)
        self.assertEqual(self.spill(few)["lost_total"], 0)
        self.assertIn("states cannot be written to the disk", few.said())
        enough.stop()
        few.process.send_signal(signal.SIGTERM)
        got = lines.read()
        few.process.wait(PATIENCE)
        with open(few.out, "wb") as f:
            f.write(got)
        self.compare(enough, few, [f"s{k}" for k in range(8)])
        refused = [k for k in range(30) if "error" in few.events(f"t{k}")]
        self.assertTrue(refused)
        self.assertEqual(len(refused), 30 - sum("start" in few.events(f"t{k}") for k in range(30)))

    def test_another_model(self):
        """A reload that exchanges the model takes those on the disk along: with their states where the weights are the same,
        else into a new epoch, which outlives a restart."""
        plans = [self.plan(120, 6) for _ in range(3)]
        for plan in plans:  # all take part each time
            plan += [(f"s{k}", [(k, 1), (0, k)] * 5) for k in range(6)]
        other = self.path("other")
        shutil.copytree(self.model, other)
        with open(other + "/model.safetensors", "r+b") as f:
            f.seek(-4, os.SEEK_END)
            f.write(struct.pack("<f", 0.25))
        pair = [self.daemon("enough", more=STATE), self.daemon("few", slots=4, more=STATE)]
        for d, slots in zip(pair, (64, 4)):
            self.play(d, plans[0])
            d.configure(slots=slots + 2, more=STATE)
            self.check(d.ctl("reload"), 0)
            self.send_all(d, plans[1])
            self.await_all(d, plans[0] + plans[1])
            d.configure(slots=slots + 2, model=other, more=STATE)
            self.check(d.ctl("reload"), 0)
        self.assertGreater(self.spill(pair[1])["written_total"], 4)
        self.assertEqual(self.spill(pair[1])["bytes"], 0)
        pair[1].wait(lambda: sum(e == "reset" for k in range(6) for e in pair[1].events(f"s{k}")) == 6)
        pair[1].stop()  # a state as after a reset goes through a snapshot too
        pair[1] = self.daemon("few", slots=6, model=other, more=STATE)
        self.play(pair[1], plans[2])
        self.send_all(pair[0], plans[2])
        self.await_all(pair[0], plans[0] + plans[1] + plans[2])
        for d in pair:
            d.stop()
        for k in range(6):
            self.assertEqual(pair[0].rows(f"s{k}"), pair[1].rows(f"s{k}"))
            self.assertEqual(pair[0].events(f"s{k}"), [e for e in pair[1].events(f"s{k}") if e != "restore"])

    def test_a_model_of_larger_states(self):
        """None of them finds room on the disk: it is refused where the slots alone are too few, else all get some."""
        slot = json.loads(run(MAMBACTL, "inspect", self.model, "--json").stdout)["slot"]["bytes"]
        large = signal_model.write(self.path("large"), signal_model.config(n_state=1000),
                                   signal_model.safetensors(n_state=1000))
        more = f"state: {{dir: DIR/state, interval: 365d, spill: {slot * 8}}}"
        d = self.daemon("d", slots=4, more=more)
        for k in range(4):
            d.push(f"s{k}", [(k, 1)] * 50)
        d.configure(slots=4, model=large, more=more)
        self.check(d.ctl("reload"), 78, "models.m.slots: 4 are too few: 8 are in use")
        d.configure(slots=8, model=large, more=more)
        self.check(d.ctl("reload"), 0)
        for k in range(4):
            d.push(f"s{k}", [(k, 1)] * 50)
        self.assertEqual({s["epoch"] for s in d.streams().values()}, {1})
        d.stop()

    def send_all(self, d, plan):
        for stream, rows in plan:
            self.send(d, stream, rows)

    def file_of(self, d):
        folder = f"/proc/{d.process.pid}/fd/"
        for fd in os.listdir(folder):
            try:
                leads_to = os.readlink(folder + fd)
            except FileNotFoundError:  # closed meanwhile
                continue
            if f"{d.dir}/state/" in leads_to and "lock" not in leads_to:
                return folder + fd
        return None

    def test_damaged_disk(self):
        """A state that cannot be read, or is not what was written, is lost: said, counted, and a new epoch; and no snapshot
        is made of what cannot be read."""
        for damage, snapshot in ("zeros", 0), ("short", 74):
            with self.subTest(damage):
                d = self.daemon(damage, slots=4, more=STATE)
                for k in range(3):
                    d.push(f"s{k}", [(k, 1)] * 50)
                d.wait(lambda: d.streams()["s0"]["state"] == "spilled")
                with open(self.file_of(d), "r+b") as f:
                    size = f.seek(0, os.SEEK_END)
                    f.truncate(0)
                    f.truncate(size if damage == "zeros" else 0)
                self.check(d.ctl("snapshot"), snapshot)
                for k in range(3):
                    d.push(f"s{k}", [(k, 1)] * 50)
                d.stop()
                for k in range(3):
                    lost = ["error", "reset"] if k == 0 else []
                    self.assertEqual([e for e in d.events(f"s{k}") if "anomaly" not in e], ["start"] + lost)
                    self.assertEqual({m["epoch"] for m in d.lines(f"s{k}")}, {0, 1} if k == 0 else {0})
                self.assertIn("it begins anew", d.said())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
