"""Several real daemons at once, each with a ZeroMQ input of rows of two channels."""
import json
import os
import signal
import struct
import subprocess
import sys
import time

import zmq

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import MAMBACTL, MAMBAD, PATIENCE, Case, run  # noqa: E402


class Daemon:
    """One of several, with all that is its own in DIR/NAME."""

    def __init__(self, case, name, pass_fds=(), **keys):
        self.case, self.dir = case, case.path(name)
        if not os.path.exists(self.dir):
            os.mkdir(self.dir)
        self.read = None, {}
        self.control, self.out = self.dir + "/control", self.dir + "/out.jsonl"
        self.configure(**keys)
        with open(self.dir + "/log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen([MAMBAD, "-c", self.dir + "/c.yaml"], stdin=subprocess.DEVNULL, stderr=log,
                                            pass_fds=pass_fds)
        case.addCleanup(self.kill)
        self.wait(lambda: self.ctl("status").returncode == 0)
        self.socket = case.context.socket(zmq.PUSH)
        self.socket.linger = 0
        case.addCleanup(self.socket.close)
        self.socket.connect(f"ipc://{self.dir}/z")

    def configure(self, model=None, slots=64, keys="", input_keys=", rate: 100", out="", more=""):
        with open(self.dir + "/c.yaml", "w", encoding="utf-8") as f:
            f.write(f"models: {{m: {{path: {model or self.case.model}, threads: 1, slots: {slots}{keys}}}}}\n"
                    f"inputs: {{z: {{type: zmq, pattern: pull, bind: 'ipc://{self.dir}/z'{input_keys}}}}}\n"
                    f"outputs: {{o: {{type: jsonl, path: {out or self.out}}}}}\n"
                    f"server: {{control: 'ipc://{self.control}'}}\n{more.replace('DIR', self.dir)}\n")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.case.assertEqual(self.process.wait(PATIENCE), 0, self.said())

    def said(self):
        with open(self.dir + "/log", encoding="utf-8") as f:
            return f.read()

    def wait(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.case.assertIsNone(self.process.poll(), self.said())
            self.case.assertLess(time.monotonic(), deadline, self.said())
            time.sleep(0.02)

    def ctl(self, command, *args):
        return run(MAMBACTL, command, *args, "--control", self.control)

    def streams(self):
        return {s["stream"]: s for s in json.loads(self.ctl("streams", "--json").stdout)}

    def samples(self):
        """How many have come in."""
        return json.loads(self.ctl("status", "--json").stdout)["inputs"]["z"]["input_samples_total"]

    def push(self, stream, rows, seq=None, flags=None):
        """Rows of as many channels as the first has, in messages of odd sizes; returns when all have been taken."""
        before = self.streams().get(stream, {}).get("rows", 0)
        for at in range(0, len(rows), 37):
            part = rows[at:at + 37]
            header = {"stream": stream, "dtype": "float32", "shape": [len(part), len(rows[0])]}
            if seq is not None:
                header["seq"] = seq + at
            if flags and (at + 37 >= len(rows) if "end" in flags else at == 0):
                header["flags"] = flags
            self.socket.send_json(header, zmq.SNDMORE)
            self.socket.send(b"".join(struct.pack(f"<{len(r)}f", *r) for r in part))
        self.wait(lambda: self.streams().get(stream, {}).get("rows", 0) >= before + len(rows))

    def lines(self, stream):
        """What was published of a stream. Read once for each size of the file."""
        size = os.path.getsize(self.out)
        if size != self.read[0]:
            of = {}
            with open(self.out, encoding="utf-8") as f:
                for m in (json.loads(line) for line in f if line.endswith("\n")):
                    of.setdefault(m.get("stream"), []).append(m)
            self.read = size, of
        return self.read[1].get(stream, [])

    def rows(self, stream):
        """What was published of a stream, row by row, without its id."""
        rows = {}
        for m in self.lines(stream):
            family = m["topic"].split("/")[0]
            for i, row in enumerate(m["data"] if family != "event" else ()):
                self.case.assertNotIn("exact", m)
                rows.setdefault(family, []).append((m["epoch"], m["seq"] + i * m["stride"], m["out_seq"] + i, m["warmup"], row))
        return rows

    def events(self, stream):
        return [m["event"] for m in self.lines(stream) if "event" in m]


class Several(Case):
    def setUp(self):
        super().setUp()
        self.context = zmq.Context()
        self.addCleanup(self.context.destroy, 0)

    def daemon(self, name, **more):
        return Daemon(self, name, **more)
