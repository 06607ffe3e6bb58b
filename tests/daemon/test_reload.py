#!/usr/bin/python3
"""Another configuration for the real mambad while it runs: streams whose input stays do not see it, an invalid one changes
nothing, what goes ends, what is new begins.   test_reload.py MAMBAD MAMBACTL FAKE_DEVICE_DIR"""
import collections
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest

import zmq

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import signal_model  # noqa: E402
from cases import MAMBACTL, MAMBAD, PATIENCE, Running, run  # noqa: E402

FAKE_DEVICE_DIR = os.path.abspath(sys.argv[3])

SERVER = "server: {control: \"ipc://DIR/control\"}\n"
PULL = "z: {type: zmq, pattern: pull, bind: \"ipc://DIR/z\", rate: 100}"
LINES = "o: {type: jsonl, path: DIR/out.jsonl}"


class Reloading(Running):
    def setUp(self):
        super().setUp()
        self.context = zmq.Context()
        self.addCleanup(self.context.destroy, 0)

    def peer(self, name="z"):
        s = self.context.socket(zmq.PUSH)
        self.addCleanup(s.close, 0)
        s.sndtimeo = PATIENCE * 1000
        s.connect("ipc://" + self.path(name))
        return s

    def push(self, s, stream, values):
        s.send_json({"stream": stream, "dtype": "float32", "shape": [len(values)]}, zmq.SNDMORE)
        s.send(struct.pack(f"<{len(values)}f", *values))

    def text(self, keys="", inputs=PULL, outputs=LINES, more=SERVER, path=None):
        """A configuration whose model has these keys."""
        model = f"{{path: {path or self.model}{', ' if keys else ''}{keys}}}"
        return f"models: {{m: {model}}}\ninputs: {{{inputs}}}\noutputs: {{{outputs}}}\n{more}\n".replace("DIR", self.dir)

    def serve(self, inputs=PULL, outputs=LINES, more="", **args):
        return self.start(self.config(inputs, outputs, more=SERVER + more), **args)

    def reload(self, control, inputs=PULL, outputs=LINES, more="", code=0, says=()):
        self.config(inputs, outputs, more=SERVER + more)
        self.check(run(MAMBACTL, "reload", "--control", control), code, *says)

    def stop(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())

    def accepted(self, control, name="z"):
        return self.status(control)["inputs"][name]["accepted_samples_total"]

    def rows(self, stream, name="out.jsonl"):
        """Every row of a stream, by family, epoch and seq; none may be there twice."""
        rows = {}
        for m in self.lines(name):
            if m.get("stream") != stream or not m.get("shape"):
                continue
            for i, row in enumerate(m["data"]):
                key = (m["topic"].split("/")[0], m["epoch"], m["seq"] + i * m["stride"])
                self.assertNotIn(key, rows)
                rows[key] = (m["out_seq"] + i, m["warmup"], row)
        return rows

    def events(self, stream, name="out.jsonl"):
        return [(m["event"], m["epoch"]) for m in self.lines(name) if m.get("event") and m["stream"] == stream]


class Reload(Reloading):
    def test_streams_do_not_see_it(self):
        """Rows of two streams under a storm of reloads, and without: the same bits, and every message taken."""
        chance = random.Random(4)
        data = [(f"s{n % 3}", [chance.gauss(0, 1) for _ in range(chance.randrange(1, 40))]) for n in range(400)]
        total = sum(len(x) for _, x in data)
        policy = "streams: {s2: {late: reorder}}\n"
        variants = [(PULL, LINES, ""), (PULL + ", more: {type: zmq, pattern: pull, bind: \"ipc://DIR/more\"}", LINES, "log: {level: debug}\n"),
                    (PULL, LINES + ", p: {type: zmq, bind: \"ipc://DIR/p\"}, q: {type: jsonl, path: DIR/q.jsonl}", "batch: {max_delay: 5ms}\n"),
                    (PULL + ", file: {type: audio, files: " + self.wav("a.wav") + "}", LINES, "batch: {max_streams: 2}\n")]
        found = []
        for storm in (False, True):
            control = self.serve(more=policy)
            peer = self.peer()
            for n, (stream, values) in enumerate(data):
                self.push(peer, stream, values)
                if storm and n % 20 == 7:
                    inputs, outputs, more = variants[n // 20 % 4]
                    self.reload(control, inputs, outputs, policy + more)
            self.wait(lambda: self.accepted(control) == total)
            self.stop()
            found.append([self.rows(f"s{i}") for i in range(3)] + [self.events(f"s{i}") for i in range(3)])
            os.rename(self.path("out.jsonl"), self.path(f"out-{storm}.jsonl"))
        self.assertGreater(len(found[0][0]), 1000)
        self.assertEqual(found[0], found[1])

    def test_an_invalid_one_changes_nothing(self):
        control = self.serve()
        self.assertNotIn(b"\nreload", subprocess.run([MAMBACTL, "status", "--control", control], capture_output=True, check=True).stdout)
        peer = self.peer()
        self.push(peer, "s", [1.0] * 8)
        self.wait(lambda: self.accepted(control) == 8)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
            for n, (inputs, outputs, more, text) in enumerate((
                    (PULL, LINES, "batch: {max_delay: x}", "c.yaml:5:20: error: batch.max_delay: 'x' is not a duration"),
                    ("", LINES, "", "there are no inputs"),
                    (PULL + ", a: {type: audio, files: DIR/none.wav}", LINES, "", "input a: DIR/none.wav"),
                    (PULL.replace("100", "50") + ", a: {type: audio, files: DIR/none.wav}", LINES, "", "input a: DIR/none.wav"),
                    (PULL, LINES + f", p: {{type: zmq, bind: \"{address}\"}}", "", "output p: bind " + address),
                    (PULL, LINES, "state: {dir: DIR/state}", "state.dir: another folder needs a restart"),
                    (PULL, LINES, "streams: {\"*\": {adapt: linear}}", "streams: adapt"))):
                with self.subTest(text):
                    self.reload(control, inputs, outputs, more, 78, [text])
                    self.assertEqual(self.status(control)["reload"]["refused_total"], n + 1)
                    self.assertIn(text.split("DIR")[0], self.status(control)["reload"]["error"])
                    self.push(peer, "s", [1.0] * 8)
                    self.wait(lambda: self.accepted(control) == 8 * (n + 2))
        self.path("c.yaml", self.text(more=SERVER.replace("/control", "/other")))
        self.check(run(MAMBACTL, "reload", "--control", control), 78, "server.control: another socket needs a restart")
        self.assertEqual(sorted(self.status(control)["inputs"]), ["z"])
        self.stop()
        self.assertEqual([e for e in self.events("s") if e[0] == "start"][0], ("start", 0))

    def test_every_error_is_said(self):
        """What --check says of the file, to the last caret; --json and the status have it too."""
        control = self.serve()
        config = self.config(PULL, more=SERVER + "log:\n  levle: x\nbatch: {max_delay: y}\nstreams: {\"*\": {gap: 5}}\n")
        wrong = run(MAMBAD, "-c", config, "--check").stderr
        self.assertEqual(wrong.count(": error: "), 3, wrong)
        said = run(MAMBACTL, "reload", "--json", "--control", control)
        self.check(said, 78)
        self.assertEqual(said.stderr, "mambactl reload: refused\n" + wrong)
        self.assertEqual(json.loads(said.stdout)["error"], wrong)
        shown = run(MAMBACTL, "status", "--control", control).stdout
        self.assertIn(wrong.splitlines()[0], shown)
        self.assertNotIn(wrong.splitlines()[1] + "\n", shown)
        self.assertEqual(self.said().count("reload: " + config), 3, self.said())
        with open(config, "wb") as f:
            f.write(b"models: {m: {path: \"\xff\"}}\n")
        self.check(run(MAMBACTL, "reload", "--control", control), 78, "mambactl reload: ")

    def test_once_refuses(self):
        """What ends by itself is not changed, and ends by itself."""
        pcm = "f: {type: audio, files: DIR/f, encoding: s16le, rate: 100}"
        os.mkfifo(self.path("f"))
        control = self.start(self.config(pcm, LINES, more=SERVER), "--once")
        with open(self.path("f"), "wb") as pipe:
            for inputs in (PULL, pcm.replace("}", ", queue: 99}"), pcm + ", " + PULL, pcm):
                pipe.write(struct.pack("<100h", *range(100)))
                pipe.flush()
                self.reload(control, inputs, code=78, says=["with --once the daemon ends by itself"])
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        self.assertEqual(len([k for k in self.rows("f:f") if k[0] == "anomaly"]), 400)

    def test_policies_and_levels(self):
        control = self.serve()
        peer = self.peer()
        self.push(peer, "s", [float(i) for i in range(40)])
        self.wait(lambda: self.accepted(control) == 40)
        self.reload(control, more="streams: {s: {publish: {prediction: false, embedding: {every: 2}}}}\nlog: {level: error}\n")
        lines = len(self.said())
        self.push(peer, "s", [float(i) for i in range(40)])
        self.push(peer, "t", [float(i) for i in range(40)])
        self.wait(lambda: self.accepted(control) == 120)
        self.assertEqual(len(self.said()), lines, "nothing below error")
        self.stop()
        s, t = ((collections.Counter((k[0], k[2] >= 40) for k in self.rows(stream))) for stream in "st")
        self.assertEqual((s["embedding", False], s["embedding", True]), (10, 5))
        self.assertGreater(s["prediction", False], 0)
        self.assertEqual([k for k in self.rows("s") if k[0] == "prediction" and k[2] > 41], [])
        self.assertEqual(t["embedding", False], 10)
        self.assertEqual([e for e in self.events("s") if e[0] == "start"], [("start", 0)])

    def test_inputs_that_go_and_come(self):
        control = self.serve(PULL + ", y: {type: zmq, pattern: pull, bind: \"ipc://DIR/y\"}")
        for name in "zy":
            self.push(self.peer(name), name, [1.0] * 10)
            self.wait(lambda: self.accepted(control, name) == 10)
        changed = PULL.replace("rate: 100", "rate: 100, queue: 77")
        self.reload(control, changed + ", x: {type: zmq, pattern: pull, bind: \"ipc://DIR/x\"}")
        self.assertEqual(sorted(self.status(control)["inputs"]), ["x", "z"])
        self.assertEqual(self.status(control)["inputs"]["z"]["queue_capacity_rows"], 77)
        for name in "zx":
            self.push(self.peer(name), name, [1.0] * 10)
            self.wait(lambda: self.accepted(control, name) == 10)
        self.push(self.peer("x"), "y", [1.0] * 10)
        self.wait(lambda: self.accepted(control, "x") == 20)
        self.assertEqual(self.status(control)["models"]["m"]["slots_used"], 3)
        self.stop()
        for stream in "zy":
            self.assertEqual([e for e in self.events(stream) if e[0] in ("start", "end")], [("start", 0), ("end", 0), ("start", 1)])

    def test_reliable_senders(self):
        """A router input that stays, and one that is changed: what was under way is sent again, each row is taken once."""
        router = "z: {type: zmq, pattern: router, bind: \"ipc://DIR/z\", rate: 100, queue: 64}"
        control = self.serve(router)
        feed = subprocess.Popen([MAMBACTL, "feed", "-", "--reliable", "--quiet", "--stream", "s", "--chunk", "16", "--wait", str(PATIENCE),
                                 "--connect", "ipc://" + self.path("z")], stdin=subprocess.PIPE)
        self.addCleanup(feed.kill)
        for n in range(8):
            feed.stdin.write(struct.pack("<500f", *range(500 * n, 500 * (n + 1))))
            feed.stdin.flush()
            self.wait(lambda: self.accepted(control) > 0)  # of a changed input: from its beginning
            self.reload(control, router.replace("64", "65") if n > 4 else router, more=f"batch: {{max_delay: {n + 1}ms}}\n")
        feed.stdin.close()
        self.assertEqual(feed.wait(PATIENCE), 0, self.said())
        self.stop()
        self.assertEqual(sorted(k[2] for k in self.rows("s") if k[0] == "anomaly"), list(range(4000)))
        self.assertEqual([e for e in self.events("s") if e[0] in ("start", "end", "gap", "drop")],
                         [("start", 0), ("end", 0), ("start", 1), ("end", 1)])

    def test_more_files(self):
        """A changed file input goes on behind the rows that were taken; none is lost, none double."""
        for name in "ab":
            self.path(name + ".csv", "".join(f"{i % 17}\n" for i in range(3000)))
        files = "f: {type: csv, rate: 100, files: [DIR/a.csv]}"
        control = self.serve(files)
        self.wait(lambda: self.status(control)["inputs"]["f"]["done"])
        self.wait(lambda: self.accepted(control, "f") == 3000)
        self.reload(control, files.replace("a.csv]", "a.csv, DIR/b.csv]"))
        self.wait(lambda: self.status(control)["inputs"]["f"]["done"] and self.accepted(control, "f") == 3000)
        self.stop()
        ids = sorted({m["stream"] for m in self.lines() if m.get("event") == "start"})
        self.assertEqual(len(ids), 2)
        for stream in ids:
            self.assertEqual(sorted(k[2] for k in self.rows(stream) if k[0] == "anomaly"), list(range(3000)))
            self.assertEqual([e for e in self.events(stream) if e[0] in ("start", "end")], [("start", 0), ("end", 0)])

    def test_outputs_that_go_and_come(self):
        control = self.serve(outputs=LINES + ", q: {type: jsonl, path: DIR/q.jsonl, append: false}")
        peer = self.peer()
        for n, outputs in enumerate((None, LINES, LINES + ", r: {type: jsonl, path: DIR/r.jsonl}")):
            if outputs:
                self.reload(control, outputs=outputs)
            self.push(peer, "s", [float(n)] * 20)
            self.wait(lambda: self.accepted(control) == 20 * (n + 1))
        self.stop()
        self.assertEqual([len([k for k in self.rows("s", name) if k[0] == "anomaly"]) for name in ("out.jsonl", "q.jsonl", "r.jsonl")], [60, 20, 20])

    def test_snapshots_go_on(self):
        state = "state: {dir: DIR/state, interval: 1h}\n"
        control = self.serve(more=state)
        peer = self.peer()
        self.push(peer, "s", [1.0] * 20)
        self.wait(lambda: self.accepted(control) == 20)
        self.check(run(MAMBACTL, "snapshot", "--control", control), 0)
        self.reload(control, outputs=LINES + ", q: {type: jsonl, path: DIR/q.jsonl}", more=state.replace("1h", "2h"))
        self.check(run(MAMBACTL, "snapshot", "--control", control), 0)
        self.push(peer, "s", [1.0] * 20)
        self.wait(lambda: self.accepted(control) == 40)
        self.stop()
        control = self.serve(outputs=LINES + ", q: {type: jsonl, path: DIR/q.jsonl}", more=state)
        self.push(self.peer(), "s", [1.0] * 20)
        self.wait(lambda: self.accepted(control) == 20)
        self.stop()
        self.assertEqual(sorted(k[2] for k in self.rows("s") if k[0] == "anomaly"), list(range(60)))
        self.assertEqual(sorted(k[2] for k in self.rows("s", "q.jsonl") if k[0] == "anomaly"), list(range(20, 60)))

    def test_states_of_other_arithmetic_are_not_exact(self):
        """A snapshot under another dtype of weights: its streams go on and say so, across the next snapshot too, until they begin anew."""
        state = "state: {dir: DIR/state, interval: 1h}\n"
        for n, dtype in enumerate(("fp32", "bf16", "bf16")):
            control = self.start(self.path("c.yaml", self.text(f"weights: {dtype}", more=SERVER + state)))
            peer = self.peer()
            self.push(peer, "s", [1.0] * 20)
            self.wait(lambda: self.accepted(control) == 20)
            if n == 2:
                self.check(run(MAMBACTL, "reset", "s", "--control", control), 0)
                self.push(peer, "s", [1.0] * 20)
                self.wait(lambda: self.accepted(control) == 40)
            self.stop()
        self.assertEqual(sorted(k[2] for k in self.rows("s") if k[0] == "anomaly"), list(range(80)))
        exact = {(m["seq"] // 20, m.get("exact", True)) for m in self.lines() if m["topic"] == "anomaly/s/"}
        self.assertEqual(exact, {(0, True), (1, False), (2, False), (3, True)})
        self.assertEqual(self.events("s"), [("start", 0), ("restore", 0), ("restore", 0), ("reset", 1)])

    def test_hdf5_goes_on(self):
        """A followed log and a record: both stay open, on another thread."""
        try:
            import h5py
        except ImportError:
            self.skipTest("no h5py")
        with h5py.File(self.path("log.h5"), "w", libver="latest") as log:
            x = log.create_dataset("x", (100,), maxshape=(None,), dtype="f4", chunks=(64,), data=[i % 7 for i in range(100)])
            log.swmr_mode = True
            inputs, record = "h: {type: hdf5, files: DIR/log.h5, rate: 10, follow: true, poll: 20ms}", LINES + ", r: {type: hdf5, path: DIR/r.h5}"
            control = self.serve(inputs, record)
            for n in range(1, 4):
                self.wait(lambda: self.accepted(control, "h") == 100 * n)
                self.reload(control, inputs + (", " + PULL if n % 2 else ""), record)
                x.resize((100 * (n + 1),))
                x[100 * n:] = [i % 7 for i in range(100)]
                x.flush()
            self.wait(lambda: self.accepted(control, "h") == 400)
            self.stop()
        stream = next(m["stream"] for m in self.lines() if m.get("event") == "start")
        self.assertEqual(sorted(k[2] for k in self.rows(stream) if k[0] == "anomaly"), list(range(400)))
        with h5py.File(self.path("r.h5"), "r") as record:
            self.assertEqual(sorted(record["anomaly"]["seq"][:].tolist()), list(range(400)))

    def test_a_stream_without_rows_ends(self):
        control = self.serve("f: {type: audio, files: " + self.wav("a.wav", 0) + "}")
        self.wait(lambda: self.status(control)["inputs"]["f"]["done"])
        self.wait(lambda: run(MAMBACTL, "reset", "*", "--control", control).returncode == 69)  # nothing is live
        self.reload(control)
        self.stop()

    def test_the_manager_is_told(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.bind(self.path("notify"))
            s.settimeout(PATIENCE)
            control = self.serve(env={**os.environ, "NOTIFY_SOCKET": self.path("notify")})
            self.assertEqual(s.recv(4096).decode().split("\n")[0], "READY=1")
            self.daemon.send_signal(signal.SIGHUP)
            self.assertRegex(s.recv(4096).decode(), r"^RELOADING=1\nMONOTONIC_USEC=\d+\n")
            self.assertEqual(s.recv(4096).decode(), "READY=1\nSTATUS=1 model, 1 input, 1 output")
            self.reload(control, more="batch: {max_delay: x}", code=78)
            s.recv(4096)
            self.assertIn("STATUS=1 model, 1 input, 1 output; reload refused: ", s.recv(4096).decode())
            self.stop()

    def stuck(self, timeout):
        """A daemon whose output has a reader that does not read."""
        os.mkfifo(self.path("fifo"))
        self.fifo = os.open(self.path("fifo"), os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, self.fifo)
        files, outputs = "a: {type: audio, files: " + self.wav("a.wav", 300000) + "}", "o: {type: jsonl, path: DIR/fifo}"
        control = self.start(self.config(files, outputs, more="server: {control: \"ipc://DIR/control\", shutdown_timeout: " + timeout + "}\n"))
        had = -1
        while had != (had := self.accepted(control, "a")) or had == 0:
            time.sleep(0.3)
        return control

    def held_up(self):
        self.stuck("1s")
        self.daemon.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        self.assertIsNone(self.daemon.poll())

    def test_an_output_that_holds_it_up(self):
        self.held_up()
        os.set_blocking(self.fifo, True)
        while self.daemon.poll() is None and not self.said().count("reloaded: "):
            os.read(self.fifo, 1 << 16)
        os.set_blocking(self.fifo, False)
        self.assertIn("reloaded: ", self.said())

    def test_the_end_while_an_output_holds_it_up(self):
        self.held_up()
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 74, self.said())
        self.assertIn("reload: the end came in between", self.said())
        self.assertIn("the end was not clean: not everything was written", self.said())

    def test_the_end_while_an_output_holds_it_up_for_a_time(self):
        """The end drains as ever, and all that was accepted is out."""
        accepted = self.accepted(self.stuck("20s"), "a")
        self.daemon.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        self.daemon.send_signal(signal.SIGTERM)
        self.wait(lambda: "reload: the end came in between" in self.said())
        os.set_blocking(self.fifo, True)
        parts = []
        while part := os.read(self.fifo, 1 << 16):
            parts.append(part)
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        rows = sum(len(m["data"]) for m in map(json.loads, b"".join(parts).splitlines()) if m["topic"].startswith("anomaly/"))
        self.assertGreaterEqual(rows, accepted)

    def test_reset(self):
        control = self.serve()
        peer = self.peer()
        for n in range(2):
            for stream in ("a/1", "a/2", "b"):
                self.push(peer, stream, [float(i) for i in range(20)])
            self.wait(lambda: self.accepted(control) == 60 * (n + 1))
            if n == 0:
                self.check(run(MAMBACTL, "reset", "a/*", "--control", control), 0, "streams that begin anew with their next rows: 2")
                self.check(run(MAMBACTL, "reset", "c", "--control", control), 69, "no live stream matches c")
        self.stop()
        self.assertIn(("reset", 1), self.events("a/1"))
        for stream, epoch in (("a/1", 1), ("a/2", 1), ("b", 0)):
            self.assertEqual({k[1] for k in self.rows(stream) if k[0] == "embedding" and k[2] >= 20}, {epoch})

    def test_drain(self):
        control = self.serve()
        self.push(self.peer(), "s", [1.0] * 20)
        self.wait(lambda: self.accepted(control) == 20)
        self.check(run(MAMBACTL, "drain", "--control", control), 0)
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        self.assertEqual(len([k for k in self.rows("s") if k[0] == "anomaly"]), 20)

    def test_drain_returns_when_all_is_written(self):
        drain = subprocess.Popen([MAMBACTL, "drain", "--control", self.stuck("30s")])
        self.addCleanup(drain.kill)
        time.sleep(0.5)
        self.assertIsNone(drain.poll(), self.said())
        os.set_blocking(self.fifo, True)
        while drain.poll() is None:
            os.read(self.fifo, 1 << 16)
        self.assertEqual((drain.returncode, self.daemon.wait(PATIENCE)), (0, 0), self.said())


class Models(Reloading):
    """Another model under streams that go on."""

    def folder(self, name, **what):
        seed = what.pop("seed", 7)
        return signal_model.write(self.path(name), signal_model.config(**what), signal_model.safetensors(seed=seed, **what))

    def lives(self, stream):
        return [e for e in self.events(stream) if e[0] in ("start", "end", "reset", "restore", "gap", "error")]

    def take(self, control, peer, values, streams="s"):
        before = self.accepted(control)
        for stream in streams:
            self.push(peer, stream, values)
        self.wait(lambda: self.accepted(control) == before + len(values) * len(streams))

    def swap(self, control, keys="", code=0, says=(), **more):
        self.path("c.yaml", self.text(keys, **more))
        self.check(run(MAMBACTL, "reload", "--control", control), code, *says)

    def alone(self, path, values, keys=""):
        """Rows of a stream under one model and no reload."""
        control = self.start(self.path("c.yaml", self.text(keys, path=path, outputs=LINES.replace("out", "alone"))))
        self.take(control, self.peer(), values)
        self.stop()
        rows = self.rows("s", "alone.jsonl")
        os.unlink(self.path("alone.jsonl"))
        return rows

    def test_without_carry(self):
        """Its streams begin new epochs, at once and aloud; what comes then is what a fresh daemon says of those rows."""
        chance = random.Random(1)
        before, after = ([chance.gauss(0, 1) for _ in range(n)] for n in (102, 100))
        other = self.folder("other", seed=8)
        control = self.start(self.path("c.yaml", self.text()))
        peer = self.peer()
        self.take(control, peer, before, "st")
        self.swap(control, path=other)
        self.assertIn("streams that begin new epochs (other weights, without `carry`): 2", self.said())
        self.wait(lambda: len(self.lives("s")) + len(self.lives("t")) == 4)
        self.assertEqual(self.status(control)["inputs"]["z"]["stream_resets_total"]["model"], 2)
        self.take(control, peer, after)
        self.stop()
        self.assertEqual(self.lives("s"), [("start", 0), ("reset", 1)])
        for m in self.lines():
            if m.get("event") == "reset":
                self.assertEqual((m["reason"], m["seq"], m["count"]), ("model", 102, 2))
            self.assertTrue(m.get("exact", True))
        rows, fresh = self.rows("s"), self.alone(other, after)
        self.assertEqual({k: v[1:] for k, v in rows.items() if k[1] == 0}, {k: v[1:] for k, v in self.alone(self.model, before).items()})
        self.assertEqual({(f, seq - 102): v[1:] for (f, epoch, seq), v in rows.items() if epoch == 1},
                         {(f, seq): v[1:] for (f, epoch, seq), v in fresh.items()})
        self.assertEqual(rows["anomaly", 1, 102][0], 100)  # out_seq counts on

    def test_with_carry(self):
        """States go along, an unfinished patch too: no new epoch, no warm-up, and rows that say that they are not exact."""
        chance = random.Random(2)
        values = [chance.gauss(0, 1) for _ in range(206)]
        other = self.folder("other", seed=8)
        control = self.start(self.path("c.yaml", self.text()))
        peer = self.peer()
        self.take(control, peer, values[:102], "st")
        self.swap(control, "carry: true", path=other)
        self.assertIn("streams that go on with their states, and say exact: false until they begin anew: 2", self.said())
        self.take(control, peer, values[102:], "st")
        self.stop()
        stays = self.alone(self.model, values)
        for stream in "st":
            rows = self.rows(stream)
            self.assertEqual(self.lives(stream), [("start", 0)])
            self.assertEqual(rows.keys() | {("anomaly", 0, 204), ("anomaly", 0, 205)}, stays.keys() | {("anomaly", 0, 204), ("anomaly", 0, 205)})
            for (family, _, seq), (out_seq, warmup, row) in rows.items():
                old = stays[family, 0, seq]
                self.assertEqual((out_seq, warmup), old[:2])
                by_old = {"prediction": 101, "embedding": 100, "anomaly": 104}[family]  # a patch is scored under the forecast before it
                self.assertEqual(row == old[2], seq < by_old, (family, seq))
            self.assertFalse(rows["anomaly", 0, 203][1])
            self.assertTrue(all(v is not None for v in rows["anomaly", 0, 203][2]))
        for m in self.lines():
            if "out_seq" in m:
                self.assertEqual(m.get("exact", True), m["seq"] < (101 if m["topic"].startswith("prediction") else 100), m["topic"])

    def test_another_architecture(self):
        control = self.start(self.path("c.yaml", self.text()))
        peer = self.peer()
        self.take(control, peer, [1.0] * 21)
        self.swap(control, "carry: true", path=self.folder("other", n_state=5))
        self.assertIn("streams that begin new epochs (another architecture): 1", self.said())
        self.take(control, peer, [1.0] * 20)
        self.stop()
        self.assertEqual(self.lives("s"), [("start", 0), ("reset", 1)])
        self.assertEqual({k[1] for k in self.rows("s") if k[2] > 21}, {1})

    def test_slots_and_devices(self):
        """The same weights elsewhere: every bit is kept, whatever `carry` says. Slots in use are not taken away."""
        chance = random.Random(3)
        values = [chance.gauss(0, 1) for _ in range(300)]
        steps = ("device: cpu, slots: 2", "device: cpu, slots: 9, threads: 1", "device: cpu, slots: 3", "device: cuda", "device: cpu, threads: 3")
        control = self.start(self.path("c.yaml", self.text(steps[0])), env={**os.environ, "LD_LIBRARY_PATH": FAKE_DEVICE_DIR, "FAKE_DEVICE_SLOTS": "3"})
        peer = self.peer()
        for n, keys in enumerate(steps):
            if n:
                self.swap(control, keys)
            for stream in "st":
                self.take(control, peer, values[n * 50:(n + 1) * 50], stream)
            if n == 0:
                self.push(peer, "u", [1.0])
                self.wait(lambda: self.status(control)["inputs"]["z"]["input_errors_total"]["streams"] == 1)
            elif n == 1:
                self.take(control, peer, [1.0] * 8, "u")
                self.swap(control, "slots: 2", 78, ["models.m.slots: 2 are too few: 3 are in use"])
        self.assertEqual(self.status(control)["models"]["m"]["slots_used"], 3)
        self.assertEqual(self.status(control)["models"]["m"]["device"], "cpu")
        for stream in "st":
            self.take(control, peer, values[250:], stream)
        self.stop()
        self.assertNotIn('"exact"', open(self.path("out.jsonl")).read())
        alone = self.alone(self.model, values, "device: cpu")
        self.assertEqual(self.rows("s"), alone)
        self.assertEqual(self.rows("t"), alone)
        self.assertEqual([self.lives(stream) for stream in "stu"], [[("start", 0)]] * 2 + [[("error", 0), ("start", 0)]])

    def test_another_dtype(self):
        control = self.start(self.path("c.yaml", self.text()))
        peer = self.peer()
        self.take(control, peer, [1.0] * 20)
        self.swap(control, "weights: bf16")
        self.take(control, peer, [1.0] * 20)
        self.check(run(MAMBACTL, "reset", "s", "--control", control), 0)
        self.take(control, peer, [1.0] * 20)
        self.stop()
        self.assertEqual({(m["seq"] // 20, m.get("exact", True)) for m in self.lines() if m["topic"] == "anomaly/s/"},
                         {(0, True), (1, False), (2, True)})

    def test_what_cannot_be_opened_changes_nothing(self):
        chance = random.Random(4)
        values = [chance.gauss(0, 1) for _ in range(140)]
        control = self.start(self.path("c.yaml", self.text("device: cpu")), env={**os.environ, "LD_LIBRARY_PATH": FAKE_DEVICE_DIR, "FAKE_DEVICE_SLOTS": "1"})
        peer = self.peer()
        torn = self.folder("torn")
        with open(os.path.join(torn, "model.safetensors"), "r+b") as f:
            f.truncate(1000)
        cpu = "device: cpu"
        wrong = ((cpu, dict(path=self.path("none")), "none/config.json"), (cpu, dict(path=torn), "torn"),
                 ("device: \"cuda:7\", state: bf16", {}, "model m: "),
                 ("device: cuda", {}, "models.m: the streams' states cannot go over: out of memory"),
                 (cpu, dict(path=self.folder("other", seed=8), inputs=PULL + ", a: {type: audio, files: DIR/none.wav}"), "input a: DIR/none.wav"))
        self.take(control, peer, values[:20], "st")
        for n, (keys, more, text) in enumerate(wrong):
            self.swap(control, keys, 78, [text], **more)
            self.take(control, peer, values[20 * (n + 1):20 * (n + 2)], "st")
        self.assertEqual(self.status(control)["reload"]["refused_total"], len(wrong))
        self.assertEqual(sorted(self.status(control)["inputs"]), ["z"])
        self.stop()
        alone = self.alone(self.model, values[:20 * (len(wrong) + 1)], cpu)
        for stream in "st":
            self.assertEqual(self.rows(stream), alone)
            self.assertEqual(self.lives(stream), [("start", 0)])
        self.assertNotIn('"exact"', open(self.path("out.jsonl")).read())

    def test_a_device_that_comes_back_is_counted_once(self):
        """For how long devices have worked, but for the last batch: across another model, and one that did not stay."""
        cuda, bad = "device: cuda", ", a: {type: audio, files: DIR/none.wav}"
        control = self.start(self.path("c.yaml", self.text(cuda)), env={**os.environ, "LD_LIBRARY_PATH": FAKE_DEVICE_DIR})
        peer, seconds = self.peer(), lambda: self.status(control)["models"]["m"]["device_busy_seconds_total"]
        for n, how in enumerate((None, dict(path=self.folder("other", seed=8), inputs=PULL + bad, code=78), dict(path=self.path("other")), None)):
            if how:
                self.swap(control, cuda, **how)
            self.take(control, peer, [1.0] * 20)
            self.take(control, peer, [1.0] * 20)
            self.wait(lambda: seconds() >= 2 * n + 1)
            self.assertEqual(seconds(), 2 * n + 1)
        self.stop()

    def test_the_folder_has_another_content(self):
        path = self.folder("served")
        control = self.start(self.path("c.yaml", self.text(path=path)))
        peer = self.peer()
        self.take(control, peer, [1.0] * 20)
        self.swap(control, path=path)
        self.assertEqual(self.said().count("slots"), 1, "nothing was opened anew")
        os.rename(path, path + "-before")
        os.rename(self.folder("next", seed=8), path)
        self.swap(control, path=path)
        self.wait(lambda: self.lives("s") == [("start", 0), ("reset", 1)])
        self.swap(control, path=path)
        self.stop()
        self.assertEqual(self.lives("s"), [("start", 0), ("reset", 1)])

    def test_models_that_go_and_come(self):
        other = self.folder("other", n_state=5, horizon=80)
        two = f"models: {{m: {{path: {self.model}}}, n: {{path: {other}}}}}\n"
        y = "y: {type: zmq, pattern: pull, bind: \"ipc://DIR/y\", model: n}"

        def config(models, inputs):
            return self.path("c.yaml", (models + f"inputs: {{{inputs}}}\noutputs: {{{LINES}}}\n" + SERVER).replace("DIR", self.dir))
        one = f"models: {{m: {{path: {self.model}}}}}\n"
        mz = PULL.replace("rate", "model: m, rate")
        control = self.start(config(one, PULL))
        peers = self.peer(), None
        for n in range(4):
            with_n = n % 2
            if n:
                # m stands second where n is there: what stays is known by its id
                reordered = f"models: {{n: {{path: {other}}}, m: {{path: {self.model}}}}}\n" if n == 3 else two
                config(reordered if with_n else one, f"{mz}, {y}" if with_n else PULL)
                self.check(run(MAMBACTL, "reload", "--control", control), 0)
                self.assertEqual(sorted(self.status(control)["models"]), ["m", "n"] if with_n else ["m"])
            before = self.accepted(control)
            self.push(peers[0], "s", [float(n)] * 21)
            self.wait(lambda: self.accepted(control) == before + 21)
            if with_n:
                self.push(self.peer("y"), "t", [1.0] * 20)
                self.wait(lambda: self.accepted(control, "y") == 20)
        self.stop()
        self.assertEqual(self.lives("s"), [("start", 0)])
        self.assertEqual(sorted(k[2] for k in self.rows("s") if k[0] == "anomaly"), list(range(84)))
        self.assertEqual(self.lives("t"), [("start", 0), ("end", 0), ("start", 1)])
        self.assertEqual({len(v[2][0]) for k, v in self.rows("t").items() if k[0] == "prediction"}, {80})

    def test_wider_rows(self):
        """Tables are as wide as they were made: under a model that looks farther another segment is begun."""
        try:
            import h5py
        except ImportError:
            self.skipTest("no h5py")
        outputs = LINES + ", r: {type: hdf5, path: DIR/r}"
        control = self.start(self.path("c.yaml", self.text(outputs=outputs)))
        peer = self.peer()
        self.take(control, peer, [1.0] * 20)
        self.swap(control, path=self.folder("other", horizon=80), outputs=outputs)
        self.take(control, peer, [1.0] * 20)
        self.swap(control, path=self.model, outputs=outputs)  # narrower ones fit
        self.take(control, peer, [1.0] * 20)
        self.swap(control, outputs=outputs, more=SERVER + "streams: {\"*\": {publish: {prediction: {horizon: 90}}}}\n")
        self.take(control, peer, [1.0] * 20)
        self.stop()
        found = []
        for n in (1, 2, 3):
            with h5py.File(self.path(f"r-00000{n}.h5"), "r") as record:
                found.append((record["anomaly"]["seq"][:].tolist(), record["prediction_values"].shape[1]))
        self.assertEqual(found, [(list(range(20)), 72), (list(range(20, 60)), 80), (list(range(60, 80)), 90)])

    def test_snapshots_after_it(self):
        """A snapshot knows the model that is served now: a restart goes on, and what was not exact stays so."""
        more = SERVER + "state: {dir: DIR/state, interval: 1h}\n"
        other = self.folder("other", seed=8)
        for keys in ("carry: true", ""):
            control = self.start(self.path("c.yaml", self.text(more=more)))
            peer = self.peer()
            self.take(control, peer, [float(n % 7) for n in range(101)])
            self.swap(control, keys, path=other, more=more)
            self.stop()
            control = self.start(self.path("c.yaml", self.text(keys, path=other, more=more)))
            self.assertNotIn("other weights", self.said())
            self.take(control, self.peer(), [1.0] * 20)
            self.stop()
            self.assertIn("restore", [e[0] for e in self.lives("s")])
            last = [m for m in self.lines() if m["topic"] == "anomaly/s/"][-1]
            self.assertEqual((last["epoch"], last.get("exact", True)), (0, False) if keys else (1, True))
            os.unlink(self.path("out.jsonl"))
            shutil.rmtree(self.path("state"))

    def test_restart_under_other_weights(self):
        more = SERVER + "state: {dir: DIR/state, interval: 1h}\n"
        other = self.folder("other", seed=8)
        for keys in ("carry: true", ""):
            control = self.start(self.path("c.yaml", self.text(more=more)))
            self.take(control, self.peer(), [1.0] * 21)
            self.stop()
            control = self.start(self.path("c.yaml", self.text(keys, path=other, more=more)))
            self.take(control, self.peer(), [1.0] * 20)
            self.stop()
            last = [m for m in self.lines() if m["topic"] == "anomaly/s/"][-1]
            if keys:
                self.assertEqual(self.lives("s"), [("start", 0), ("restore", 0)])
                self.assertEqual((last["epoch"], last.get("exact", True)), (0, False))
            else:
                self.assertEqual(self.lives("s"), [("start", 0), ("start", 1), ("gap", 1)])
                self.assertEqual((last["epoch"], last.get("exact", True)), (1, True))
            os.unlink(self.path("out.jsonl"))
            shutil.rmtree(self.path("state"))

    def test_streams_that_wait_in_a_snapshot(self):
        """Restored, and not begun again before the model is another one: likewise, across one more restart."""
        more = SERVER + "state: {dir: DIR/state, interval: 1h}\n"
        other = self.folder("other", seed=8)
        for keys in ("carry: true", ""):
            control = self.start(self.path("c.yaml", self.text(more=more)))
            self.take(control, self.peer(), [1.0] * 21)
            self.stop()
            control = self.start(self.path("c.yaml", self.text(more=more)))
            self.swap(control, keys, path=other, more=more)
            self.stop()
            control = self.start(self.path("c.yaml", self.text(keys, path=other, more=more)))
            self.take(control, self.peer(), [1.0] * 20)
            self.stop()
            last = [m for m in self.lines() if m["topic"] == "anomaly/s/"][-1]
            self.assertEqual(self.lives("s"), [("start", 0), ("restore", 0)] if keys else [("start", 0), ("start", 1), ("gap", 1)])
            self.assertEqual((last["epoch"], last.get("exact", True)), (0, False) if keys else (1, True))
            os.unlink(self.path("out.jsonl"))
            shutil.rmtree(self.path("state"))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=1)
