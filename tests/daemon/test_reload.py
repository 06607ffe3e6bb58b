#!/usr/bin/python3
"""Another configuration for the real mambad while it runs: streams whose input stays do not see it, an invalid one changes
nothing, what goes ends, what is new begins.   test_reload.py MAMBAD MAMBACTL"""
import collections
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest

import zmq

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import MAMBACTL, PATIENCE, Running, run  # noqa: E402

SERVER = "server: {control: \"ipc://DIR/control\"}\n"
PULL = "z: {type: zmq, pattern: pull, bind: \"ipc://DIR/z\", rate: 100}"
LINES = "o: {type: jsonl, path: DIR/out.jsonl}"


class Reload(Running):
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

    def lines(self, name="out.jsonl"):
        with open(self.path(name), encoding="utf-8") as f:
            return [json.loads(line) for line in f]

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
                    (PULL, LINES, "streams: {\"*\": {publish: {prediction: {horizon: 73}}}}", "streams: a horizon beyond the models'"),
                    (PULL, LINES, "streams: {\"*\": {adapt: linear}}", "streams: adapt"))):
                with self.subTest(text):
                    self.reload(control, inputs, outputs, more, 78, [text])
                    self.assertEqual(self.status(control)["reload"]["refused_total"], n + 1)
                    self.assertIn(text.split("DIR")[0], self.status(control)["reload"]["error"])
                    self.push(peer, "s", [1.0] * 8)
                    self.wait(lambda: self.accepted(control) == 8 * (n + 2))
        for old, new, text in (("m: {path", "n: {path", "models: "), ("{path: ", "{slots: 5, path: ", "models: "),
                               ("/control\"", "/other\"", "server.control: another socket needs a restart")):
            with open(self.config(PULL, LINES, more=SERVER)) as f:
                changed = f.read().replace(old, new)
            self.path("c.yaml", changed)
            self.check(run(MAMBACTL, "reload", "--control", control), 78, text)
        self.assertEqual(sorted(self.status(control)["inputs"]), ["z"])
        self.stop()
        self.assertEqual([e for e in self.events("s") if e[0] == "start"][0], ("start", 0))

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
            self.assertEqual(s.recv(4096).decode(), "READY=1\nSTATUS=1 models, 1 inputs, 1 outputs")
            self.reload(control, more="batch: {max_delay: x}", code=78)
            s.recv(4096)
            self.assertIn("STATUS=1 models, 1 inputs, 1 outputs; reload refused: ", s.recv(4096).decode())
            self.stop()

    def stuck(self):
        """A daemon whose output has a reader that does not read."""
        os.mkfifo(self.path("fifo"))
        self.fifo = os.open(self.path("fifo"), os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, self.fifo)
        files, outputs = "a: {type: audio, files: " + self.wav("a.wav", 300000) + "}", "o: {type: jsonl, path: DIR/fifo}"
        control = self.start(self.config(files, outputs, more="server: {control: \"ipc://DIR/control\", shutdown_timeout: 1s}\n"))
        had = -1
        while had != (had := self.accepted(control, "a")) or had == 0:
            time.sleep(0.3)
        self.daemon.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        self.assertIsNone(self.daemon.poll())
        return control

    def test_an_output_that_holds_it_up(self):
        control = self.stuck()
        os.set_blocking(self.fifo, True)
        while self.daemon.poll() is None and not self.said().count("reloaded: "):
            os.read(self.fifo, 1 << 16)
        os.set_blocking(self.fifo, False)
        self.assertIn("reloaded: ", self.said())

    def test_the_end_while_an_output_holds_it_up(self):
        self.stuck()
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 74, self.said())
        self.assertIn("the end came in between; what was queued is lost", self.said())

    def test_reset(self):
        control = self.serve()
        peer = self.peer()
        for n in range(2):
            for stream in ("a/1", "a/2", "b"):
                self.push(peer, stream, [float(i) for i in range(20)])
            self.wait(lambda: self.accepted(control) == 60 * (n + 1))
            if n == 0:
                self.check(run(MAMBACTL, "reset", "a/*", "--control", control), 0, "2 streams begin anew")
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


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=1)
