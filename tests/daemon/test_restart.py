#!/usr/bin/python3
"""mambad with the state of ten thousand streams of forecast-s, started again: every one of them goes on. On standard output
a line of JSON: seconds from exec to the first output and to the last stream's.   test_restart.py MAMBAD MAMBACTL [STREAMS]"""
import json
import os
import struct
import sys
import time
import unittest

try:
    import zmq
except ImportError:
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import PATIENCE, Running  # noqa: E402

STREAMS = int(sys.argv[3]) if len(sys.argv) > 3 else 10000
MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models", "forecast-s")
PATCH = 4


class Restart(Running):
    def send(self, seq):
        for k in range(STREAMS):
            header = {"stream": f"s{k}", "dtype": "float32", "shape": [PATCH], "seq": seq}
            self.socket.send_multipart([json.dumps(header).encode(), struct.pack(f"<{PATCH}f", *(k % (7 + i) for i in range(PATCH)))])

    def await_anomalies(self, had, n):
        """Seconds since `begun`, by the monotonic clock, until there is a first and an n-th line more than there were."""
        with open(self.path("out.jsonl"), "rb") as f:
            f.seek(had)
            got, rest, first, until = 0, b"", None, time.monotonic() + PATIENCE
            while got < n:
                rest += f.read()
                lines, rest = rest.rpartition(b"\n")[::2]
                got += lines.count(b'"topic":"anomaly/')
                now = time.monotonic()
                first = now if first is None and got else first
                self.assertLess(now, until, self.said())
                time.sleep(0.002)
        return first, now

    def test_many_streams(self):
        context = zmq.Context()
        self.addCleanup(context.destroy, 0)
        self.socket = context.socket(zmq.PUSH)
        self.socket.sndhwm = 0
        self.socket.reconnect_ivl = 5  # ms
        self.socket.connect("ipc://" + self.path("z"))
        config = self.config("z: {type: zmq, pattern: pull, bind: \"ipc://DIR/z\", rate: 100}",
                             "o: {type: jsonl, path: DIR/out.jsonl, families: [anomaly]}", model=f"{MODEL}, slots: {STREAMS}",
                             more="server: {control: \"ipc://DIR/control\", shutdown_timeout: 60s}\nstate: {dir: DIR/state, interval: 1h}")
        self.start(config)
        self.send(0)
        self.await_anomalies(0, STREAMS)
        self.daemon.terminate()
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        had = os.path.getsize(self.path("out.jsonl"))
        self.send(PATCH)
        begun = time.monotonic()
        self.launch(config)
        first, last = self.await_anomalies(had, STREAMS)
        self.daemon.terminate()
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        with open(self.path("out.jsonl"), encoding="utf-8") as f:
            f.seek(had)
            went_on = {(m["stream"], m["epoch"], m["seq"]) for m in map(json.loads, f) if m["topic"].startswith("anomaly/")}
        self.assertEqual(went_on, {(f"s{k}", 0, PATCH) for k in range(STREAMS)})
        print(json.dumps({"streams": STREAMS, "first_s": first - begun, "last_s": last - begun}), flush=True)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=1)
