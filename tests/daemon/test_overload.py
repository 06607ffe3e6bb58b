#!/usr/bin/python3
"""mambad with more than it can do: on a device that takes its time for each row, far above what that allows. What is
asserted are counts; where a time is, it follows from the rate at which rows came out. What was measured is said on standard
output, in lines of JSON.
test_overload.py MAMBAD MAMBACTL FAKE_DEVICE"""
import json
import os
import signal
import struct
import sys
import threading
import time
import unittest

try:
    import zmq
except ImportError:
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import MAMBACTL, MAMBAD, PATIENCE, Running, run  # noqa: E402

FAKE_DEVICE = os.path.abspath(sys.argv[3])
ROW_US = 250  # of the device for a row of one channel
CAPACITY = 2 * 1e6 / ROW_US  # rows a second at most: two batches at a time
PATCH = 4


class Overload(Running):
    def setUp(self):
        super().setUp()
        self.context = zmq.Context()
        self.addCleanup(self.context.destroy, 0)

    def serve(self, keys, row_us=ROW_US, outputs="", more="batch: {max_delay: 1ms}"):
        """One pull input at DIR/in, one file DIR/out.jsonl; the sanitizer keeps no freed memory."""
        self.control = self.start(
            self.config("i: {type: zmq, pattern: pull, bind: \"ipc://DIR/in\"" + keys + "}",
                        "f: {type: jsonl, path: DIR/out.jsonl, families: [anomaly, event]}" + outputs,
                        more="server: {control: \"ipc://DIR/control\", shutdown_timeout: 60s}\n" + more),
            "--set", "models.m.device=cuda", "--set", "models.m.slots=64",
            env={**os.environ, "LD_LIBRARY_PATH": FAKE_DEVICE, "FAKE_DEVICE_ROW_US": str(row_us),
                 "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"})

    def sender(self, hwm=1000):
        """Open to the end: of an ipc peer that hangs up while it is held back libzmq reads no more (its issue 4660)."""
        s = self.context.socket(zmq.PUSH)
        self.addCleanup(s.close)
        s.sndhwm = hwm
        s.linger = PATIENCE * 1000
        s.connect("ipc://" + self.path("in"))
        return s

    def send(self, s, stream, n, seq=None, flags=(), values=None, channels=1):
        header = {"stream": stream, "dtype": "float32", "shape": [n, channels], "rate": 100, "flags": list(flags)}
        if seq is not None:
            header["seq"] = seq
        s.send_multipart([json.dumps(header).encode(), values or struct.pack(f"<{n * channels}f", *(k % 17 for k in range(n * channels)))])

    def input(self):
        return self.status(self.control)["inputs"]["i"]

    def done(self, sent):
        """All of it was received, and is out or dropped."""
        def settled():
            i = self.input()
            return i["input_samples_total"] == sent and i["accepted_samples_total"] + sum(i["input_discarded_samples_total"].values()) \
                - i["input_discarded_samples_total"]["tail"] == sent
        self.wait(settled)

    def stop(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        return self.lines()

    def rows(self, lines, stream):
        return [m["seq"] + k for m in lines if m["topic"] == f"anomaly/{stream}/" for k in range(len(m["data"]))]

    def account(self, lines, stream, sent, reasons):
        """Counters, events and rows agree: each row sent is either out, or in a `drop`, or in the last patch, which is not
        full. Returns the rows out."""
        self.assertEqual(self.last["input_samples_total"], sent)
        counted = {k: v for k, v in self.last["input_discarded_samples_total"].items() if v and k != "tail"}
        self.assertLessEqual(set(counted), reasons)
        self.assertEqual(self.last["accepted_samples_total"] + sum(counted.values()), sent)
        drops = [m for m in lines if m["topic"] == f"event/{stream}/" and m["event"] == "drop"]
        for reason in reasons:
            self.assertEqual(sum(m["count"] for m in drops if m["reason"] == reason), counted.get(reason, 0))
        out = self.rows(lines, stream)
        self.assertEqual(len(out), self.last["accepted_samples_total"] // PATCH * PATCH)
        gone = [n for m in drops for n in range(m["from_seq"], m["to_seq"] + 1)]
        self.assertEqual(len(set(out)) + len(set(gone)), len(out) + len(gone), "none twice")
        self.assertFalse(set(out) & set(gone), "either out or dropped")
        missing = set(range(sent)) - set(out) - set(gone)
        self.assertLess(len(missing), PATCH)
        self.measured(sent=sent, taken=self.last["accepted_samples_total"], dropped=sum(counted.values()))
        return out

    def measured(self, **numbers):
        print(json.dumps({"test": self._testMethodName, **numbers}), flush=True)

    def flood(self, stream, messages, n, seconds=0.0):
        """As fast as a sender can, for at least so long; with numbers of its own every other time. Returns rows sent."""
        s, sent, begin = self.sender(), 0, time.monotonic()
        values = struct.pack(f"<{n}f", *(k % 17 for k in range(n)))
        while sent < messages * n or time.monotonic() - begin < seconds:
            self.send(s, stream, n, sent if sent // n % 2 else None, values=values)
            sent += n
        return sent

    def test_drops_are_sent_less_processed(self):
        for policy in ("drop_oldest", "drop_newest"):
            with self.subTest(policy):
                self.setUp()
                self.serve(f", when_full: {policy}, queue: 256")
                begin = time.monotonic()
                sent = self.flood("hot", 2000, 16)  # eight seconds' work
                self.measured(times_capacity=sent / (time.monotonic() - begin) / CAPACITY)
                self.done(sent)
                self.last = self.input()
                self.assertGreater(self.last["input_discarded_samples_total"]["queue_full"], sent // 2)
                self.assertLessEqual(self.last["queue_high_water_rows"], 256)
                self.account(self.stop(), "hot", sent, {"queue_full"})

    def test_a_stream_that_the_engine_has_not_come_to_has_not_ended(self):
        self.serve("", row_us=10_000_000)

        def listed():
            return json.loads(run(MAMBACTL, "streams", "--control", self.control, "--json").stdout)
        s = self.sender()
        for n in range(6):
            self.send(s, f"s{n}", PATCH)
            self.wait(lambda: len(listed()) == n + 1)
        self.assertGreater(sum(r["queue_rows"] > 0 for r in listed()), 0)
        self.assertEqual({r["state"] for r in listed()}, {"warmup"})
        streams = self.status(self.control)["models"]["m"]["streams"]
        self.assertEqual((streams["warmup"], streams["ended"]), (6, 0))

    def test_latency_is_bounded_by_the_queue(self):
        """A row that is taken waits for the queue before it, and for the batches under way, not for all that was sent."""
        for policy in ("drop_oldest", "drop_newest"):
            with self.subTest(policy):
                self.setUp()
                self.serve(f", when_full: {policy}, queue: 128")
                begin = time.monotonic()
                sent = self.flood("hot", 3000, 16, seconds=2)
                self.done(sent)
                took = time.monotonic() - begin
                self.last, slowest = self.input(), self.status(self.control)["models"]["m"]["step_duration_seconds"]["max"]
                rate = self.last["accepted_samples_total"] / took
                lines = self.stop()
                worst = max(m["latency_us"] for m in lines if m["topic"] == "anomaly/hot/") / 1e6
                ahead = 4 * 128  # rows: a full queue, two batches of at most that, and a margin
                self.assertLess(worst, 3 * ahead / rate + 3 * slowest)
                self.assertLess(3 * ahead, sent / 10, "and that is little of what was sent")
                self.measured(longest_s=worst)

    def memory(self):
        with open(f"/proc/{self.daemon.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))  # KiB

    def test_memory_is_bounded(self):
        with open(MAMBAD, "rb") as f:
            if b"__tsan_init" in f.read():
                self.skipTest("ThreadSanitizer's own memory grows")
        self.serve(", when_full: drop_oldest, queue: 4096")
        self.flood("hot", 1, 4096, seconds=1)
        before, bytes_before = self.memory(), self.input()["input_bytes_total"]
        self.flood("hot", 20000, 4096)
        self.wait(lambda: self.input()["input_bytes_total"] - bytes_before >= 300e6)
        grown = self.memory() - before
        self.assertLess(grown, 64 * 1024, "of more than 300 MB")
        self.measured(grown_KiB=grown)
        self.assertGreater(self.input()["input_discarded_samples_total"]["queue_full"], 0)

    def test_a_hot_stream_starves_no_other(self):
        """What others send within their means comes out whole, whatever one of them does."""
        self.serve(", when_full: drop_oldest, queue: 256")
        stop, sent = threading.Event(), [0]

        def hot():
            s, values = self.sender(hwm=100), bytes(4 * 64)
            while not stop.is_set():
                self.send(s, "hot", 64, values=values)
                sent[0] += 64
        thread = threading.Thread(target=hot)
        thread.start()
        try:
            self.wait(lambda: self.input()["input_discarded_samples_total"]["queue_full"] > 0)
            s = self.sender()
            for k in range(30):
                for c in range(8):
                    self.send(s, f"cold-{c}", 8, 8 * k)
                time.sleep(0.05)  # 1300 rows a second together
            for c in range(8):
                self.send(s, f"cold-{c}", 0, 240, ["end"])
            self.wait(lambda: self.input()["stream_ends_total"] == 8)
        finally:
            stop.set()
            thread.join()
        self.done(sent[0] + 8 * 240)
        lines = self.stop()
        for c in range(8):
            self.assertEqual(self.rows(lines, f"cold-{c}"), list(range(240)))
            self.assertEqual([m["event"] for m in lines if m["topic"] == f"event/cold-{c}/" and m["event"] in ("drop", "gap")], [])
        self.assertGreater(len(self.rows(lines, "hot")), 0)

    def test_held_back_nothing_is_lost(self):
        """when_full: block: one whose queue is full holds back its sender; others get their turn between its messages."""
        self.serve(", queue: 64")
        hot, cold = self.sender(), self.sender()
        for k in range(400):
            self.send(hot, "hot", 16, 16 * k)
        for k in range(10):
            self.send(cold, "cold", 16, 16 * k)
        self.done(16 * 410)
        lines = self.stop()
        self.assertEqual(self.rows(lines, "hot"), list(range(6400)))
        self.assertEqual(self.rows(lines, "cold"), list(range(160)))
        order = [m["topic"] for m in lines if m["topic"].startswith("anomaly/")]
        after = sum(len(m["data"]) for m in lines[len(lines) - 1 - [m["topic"] for m in lines[::-1]].index("anomaly/cold/"):]
                    if m["topic"] == "anomaly/hot/")
        self.assertGreater(after, 1600, order)

    def test_a_subscriber_that_does_not_read(self):
        """It stalls nobody, and finds its losses by out_seq; the other one and the file have everything."""
        self.serve(", queue: 1024", row_us=0,
                   outputs=", p: {type: zmq, bind: \"ipc://DIR/pub\", hwm: 20, families: [embedding]}")
        subs = []
        for _ in range(2):
            s = self.context.socket(zmq.SUB)
            self.addCleanup(s.close)
            s.rcvhwm = 1
            s.rcvtimeo = PATIENCE * 1000
            s.connect("ipc://" + self.path("pub"))
            s.subscribe(b"embedding/")
            subs.append(s)
        reads, sleeps = subs
        s, sent, have = self.sender(), 0, []
        hellos = 0
        while not all(sub.poll(100) for sub in subs):  # until both are there
            self.send(s, "hello", 64, 64 * hellos)
            hellos += 1

        def exchange(n):
            nonlocal sent
            for _ in range(n):
                self.send(s, "a", 512, sent, channels=4)
                sent += 512
                while len(have) < sent // PATCH:
                    have.extend(self.rows_of(reads))
        exchange(400)
        self.assertEqual(have, list(range(sent // PATCH)))
        got = []
        while sleeps.poll(500):
            got += self.rows_of(sleeps)
        self.assertLess(len(got), len(have), "or this tests nothing")
        self.assertEqual(got, sorted(set(got)))
        exchange(1)  # it is served again, and sees how many it has missed
        while got[-1] < have[-1]:
            got += self.rows_of(sleeps)
        self.assertGreater(have[-1] + 1 - len(got), 0)
        self.assertEqual(len(self.rows(self.stop(), "a")), sent)

    def rows_of(self, sub):
        """Of the stream a."""
        while (header := json.loads(sub.recv_multipart()[1]))["stream"] != "a":
            pass
        return list(range(header["out_seq"], header["out_seq"] + header["shape"][0]))

    def test_over_the_limit(self):
        """Rows above it are dropped like those of a full queue, and told by their own reason; also those at the very end."""
        self.serve(", when_full: drop_newest, messages_per_second: 20, queue: 100", row_us=0)
        sent = self.flood("hot", 400, 16)
        self.done(sent)
        self.last = self.input()
        self.assertGreaterEqual(self.last["input_discarded_samples_total"]["limit"], sent // 2)
        self.account(self.stop(), "hot", sent, {"limit", "queue_full"})
        self.assertGreater(self.last["input_errors_total"]["limit"], 0)
        self.assertIn("more than the input takes a second", self.said())

    def test_over_the_limit_nothing_starts(self):
        self.serve(", when_full: drop_newest, messages_per_second: 1", row_us=0)
        s = self.sender()
        for k in range(20):
            self.send(s, f"s{k}", 8)
        def settled():
            i = self.input()
            return i["accepted_samples_total"] + i["input_discarded_samples_total"]["limit"] == 160
        self.wait(settled)
        i = self.input()
        streams = json.loads(run(MAMBACTL, "streams", "--control", self.control, "--json").stdout)
        self.assertEqual(i["input_messages_total"], 20)
        lines = self.stop()
        self.assertEqual(len([m for m in lines if m.get("event") == "start"]), i["accepted_samples_total"] // 8)
        self.assertEqual(len(streams), i["accepted_samples_total"] // 8)
        self.assertEqual({m["reason"] for m in lines if m.get("event") == "error"}, {"limit"})


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=1)
