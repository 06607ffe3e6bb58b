#!/usr/bin/python3
"""mambad where the system says no: full disks, no descriptors left, peers that vanish or talk nonsense.
test_trouble.py MAMBAD MAMBACTL"""
import fcntl
import json
import os
import random
import re
import resource
import signal
import socket
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
from cases import MAMBAD, PATIENCE, Running, free_port, run  # noqa: E402


class Trouble(Running):
    def setUp(self):
        super().setUp()
        self.context = zmq.Context()
        self.addCleanup(self.context.destroy, 0)

    def rows(self, name="out.jsonl"):
        return sum(len(m["data"]) for m in self.lines(name) if m["topic"].startswith("anomaly/"))

    def test_a_full_disk(self):
        """It costs the output that is on it, counted; the others have everything, and the exit code tells."""
        self.serve(more_outputs=", full: {type: jsonl, path: /dev/full}")
        s = self.sender()
        for k in range(50):
            self.send(s, "a", 64, 64 * k)
        self.wait(lambda: self.input()["accepted_samples_total"] == 3200)
        self.wait(lambda: self.status(self.control)["outputs"]["full"]["output_dropped_messages_total"]["error"] > 0)
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 74)
        self.assertIn("No space left on device", self.said())
        self.assertIn("the end was not clean: not everything was written", self.said())
        self.assertNotIn("in time", self.said())
        self.assertEqual(self.rows(), 3200)

    def test_a_state_folder_that_is_let_go_late(self):
        """As by a daemon that was just killed; one that another keeps is refused."""
        config = self.config(f"a: {{type: audio, files: {self.wav('a.wav', 800)}}}", "o: {type: jsonl, path: DIR/out.jsonl}",
                             more="state: {dir: DIR/state}")
        os.mkdir(self.path("state"))
        with open(self.path("state/lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.check(run(MAMBAD, "-c", config, "--once"), 69, "state/lock: another daemon has this folder")
            timer = threading.Timer(0.5, fcntl.flock, (lock, fcntl.LOCK_UN))
            timer.start()
            self.check(run(MAMBAD, "-c", config, "--once"), 0)
            timer.join()

    def test_an_output_file_that_is_deleted(self):
        """What is written to it is lost: that is said, and the exit code tells. The others do not notice."""
        self.serve(more_outputs=", gone: {type: jsonl, path: DIR/gone.jsonl}, h: {type: hdf5, path: DIR/h}")
        s = self.sender()
        self.send(s, "a", 64, 0)
        self.wait(lambda: self.rows("gone.jsonl") == 64)
        os.remove(self.path("gone.jsonl"))
        os.remove(self.path("h-000001.h5"))
        self.send(s, "a", 64, 64)
        for output in ("gone", "h"):
            self.wait(lambda: re.search(rf'"subject":"{output}".*flush failed: No such file or directory', self.said()))
        self.wait(lambda: self.rows() == 128)
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 74)

    def test_a_file_that_may_not_grow(self):
        """The same of an HDF5 file, whose library does the writing."""
        def small():
            resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))
        wav = self.wav("a.wav", 8000)
        config = self.config(f"a: {{type: audio, files: {wav}}}",
                             "h: {type: hdf5, path: DIR/rec.h5}, o: {type: jsonl, path: DIR/out.jsonl, families: [event]}")
        said = run(MAMBAD, "-c", config, "--once", preexec_fn=small)
        self.check(said, 74, "File too large")
        self.assertEqual([m["event"] for m in self.lines() if m["event"] in ("start", "end")], ["start", "end"])

    def test_too_few_descriptors_to_start(self):
        """At every number of them: an error, or a daemon that works."""
        self.wav("a.wav", 100)
        config = self.config("a: {type: audio, files: DIR/a.wav}, p: {type: zmq, pattern: pull, bind: \"ipc://DIR/p\"}",
                             "o: {type: zmq, bind: \"ipc://DIR/o\"}, l: {type: jsonl, path: DIR/out.jsonl}",
                             more="server: {control: \"ipc://DIR/control\"}\nstate: {dir: DIR/state}")
        for n in range(4, 80):
            def few(n=n):
                resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))
            said = run(MAMBAD, "-c", config, "--once", preexec_fn=few)
            if said.returncode == 0:
                break
            self.assertIn(said.returncode, (66, 69, 74), (n, said.stderr))
            self.assertNotIn("Sanitizer", said.stderr)
            self.assertGreater(len(said.stderr), 20)
        self.assertLess(n, 79)
        self.assertGreater(n, 20)

    def test_too_many_peers(self):
        """Those beyond the descriptors wait; who is there is served, and they are once there is room."""
        def few():
            resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        self.serve(address=(address := f"tcp://127.0.0.1:{free_port()}"), preexec_fn=few)
        good = self.sender(address)
        self.send(good, "a", 64, 0)
        self.wait(lambda: self.input()["accepted_samples_total"] == 64)
        host, port = address[6:].rsplit(":", 1)
        crowd = [socket.create_connection((host, int(port))) for _ in range(60)]
        for k in range(1, 20):
            self.send(good, "a", 64, 64 * k)
        self.wait_for_rows(1280)
        for s in crowd:
            s.close()
        late = self.sender(address)
        self.send(late, "b", 64, 0)
        self.wait_for_rows(1344)

    def wait_for_rows(self, n):
        """Without the control socket, for which there may be no descriptor."""
        self.wait(lambda: self.rows() == n)

    def test_peers_that_vanish_or_talk_nonsense(self):
        """Cut at any byte, reset, or followed by noise: the others do not notice."""
        self.serve(address=(address := f"tcp://127.0.0.1:{free_port()}"))
        rng, good = random.Random(7), self.sender(address)
        host, port = address[6:].rsplit(":", 1)
        header = b'{"stream": "bad", "dtype": "float32", "shape": [8]}'
        talk = (b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 1 + 31) + b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"
                + b"\x01" + bytes([len(header)]) + header + b"\x00\x20" + bytes(32))
        kept = []
        for k in range(60):
            s = socket.create_connection((host, int(port)))
            cut = rng.randrange(len(talk) + 1) if k % 3 else len(talk)
            try:
                s.sendall(talk[:cut] + (rng.randbytes(200) if k % 4 == 3 else b""))
                if k % 5 == 0:
                    s.sendall(b"\x02" + struct.pack(">Q", 1 << 30) + bytes(1000))  # a gigabyte to come
                if k % 2:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.close()
                else:
                    kept.append(s)  # says no more
            except OSError:
                s.close()
            self.send(good, "good", 16, 16 * k)
        self.wait(lambda: len([1 for m in self.lines() for _ in m["data"] if m["topic"] == "anomaly/good/"]) == 960)
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 0)
        for s in kept:
            s.close()
        self.assertLessEqual({m["stream"] for m in self.lines() if "stream" in m}, {"good", "bad"})

    def test_a_clock_that_was_far_ahead(self):
        """It makes what comes then late, which the log tells with the time at fault, not row by row."""
        self.control = self.start(self.config("i: {type: zmq, pattern: pull, bind: \"ipc://DIR/in\"}",
                                              "o: {type: jsonl, path: DIR/out.jsonl, families: [event]}", more="server: {control: \"ipc://DIR/control\"}"))
        s, t0, jump = self.sender("ipc://" + self.path("in")), 1700000000_000000000, 4102444800_000000000
        def send(stream, rate, t, **more):
            message = [json.dumps({"stream": stream, "dtype": "float32", "shape": [1], "rate": rate, **more}).encode(), struct.pack("<f", 1)]
            s.send_multipart(message + ([struct.pack("<q", t)] if rate == 0 else []))
        for k in range(200):
            t = jump if k == 50 else t0 + k * 1000000000
            send("even", 1, t, t_ns=str(t))
            send("odd", 0, t)
            send("numbers", 1, None, seq=10**9 if k == 50 else k)
        self.wait(lambda: self.input()["input_discarded_samples_total"]["late"] == 3 * 149)
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 0)
        said = [json.loads(line) for line in self.said().splitlines()]
        told = [m for m in said if "late" in m["message"]]
        timed = [m["message"] for m in told if "2100-01-01T00:00:00Z" in m["message"]]
        self.assertTrue(timed and all(m.startswith("input i: late, dropped: row ") and str(jump) in m for m in timed), told)
        self.assertTrue(any(m["subject"] in ("even", "odd") for m in told), told)
        self.assertIn(("numbers", "input i: late, dropped: row 51, which comes after row 1000000000"), [(m["subject"], m["message"]) for m in told])
        count = sum(int((re.search(r"\((\d+) more like it\)$", m["message"]) or [0, 1])[1]) for m in told)
        self.assertEqual(count, 3 * 149)
        self.assertLess(len(told), 40)

    def test_many_streams_that_cannot_go_on(self):
        """Rows of another shape than the states': a line and how many more, not a line each."""
        config = self.config("i: {type: zmq, pattern: pull, bind: \"ipc://DIR/in\"}", "o: {type: jsonl, path: DIR/out.jsonl, families: [event]}",
                             more="server: {control: \"ipc://DIR/control\"}\nstate: {dir: DIR/state}")
        for channels in (1, 2):
            self.control = self.start(config)
            s = self.sender("ipc://" + self.path("in"))
            for k in range(300):
                s.send_multipart([json.dumps({"stream": f"s{k}", "dtype": "float32", "shape": [1, channels]}).encode(), bytes(4 * channels)])
            self.wait(lambda: self.input()["accepted_samples_total"] == 300 * channels)
            self.daemon.send_signal(signal.SIGTERM)
            self.assertEqual(self.daemon.wait(PATIENCE), 0)
        told = [json.loads(line)["message"] for line in self.said().splitlines() if "cannot go on" in line]
        self.assertEqual(sum(int((re.search(r"\((\d+) more like it\)$", m) or [0, 1])[1]) for m in told), 300)
        self.assertLess(len(told), 40)
        self.assertEqual(len([m for m in self.lines() if m["event"] == "gap" and m["reason"] == "restart"]), 300)

    def test_files_that_wait_for_a_slot(self):
        """Until others have ended: no error, and said once. What can have none is counted and announced, once."""
        for k in range(5):
            self.wav(f"f{k}.wav", 4000)
        self.wav("f5.wav", 100, channels=3)
        self.launch(self.config("a: {type: audio, files: \"DIR/f*.wav\", pace: realtime}", "o: {type: jsonl, path: DIR/out.jsonl}",
                                more="state: {dir: DIR/state, spill: 0}"), "--set", "models.m.slots=2", "--once")
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        self.assertEqual(self.rows(), 4000 * 5)
        self.assertEqual([(m["stream"], m["reason"]) for m in self.lines() if m.get("event") == "error"], [("a:f5.wav", "streams")])
        waited = [line for line in self.said().splitlines() if "waits until another stream ends" in line]
        self.assertTrue(1 <= len(waited) <= 4, self.said())
        self.assertIn("f5.wav: left out (300 samples): no slot came free for it", self.said())

    def test_a_control_path_too_long(self):
        config = self.config("z: {type: zmq, pattern: pull, bind: \"ipc://DIR/z\"}", more="server: {control: \"ipc:///" + "x" * 108 + "\"}")
        self.check(run(MAMBAD, "-c", config), 78, "the path is too long for a socket")
        config = self.config("z: {type: zmq, pattern: pull, bind: \"ipc:///" + "x" * 108 + "\"}")
        self.check(run(MAMBAD, "-c", config), 78, "inputs.z.bind: ", "the path is too long for a socket")

    # ---- what they share

    def serve(self, address=None, more_outputs="", **more):
        self.address = address or "ipc://" + self.path("in")
        self.control = self.start(self.config(f"i: {{type: zmq, pattern: pull, bind: \"{self.address}\"}}",
                                              "o: {type: jsonl, path: DIR/out.jsonl, families: [anomaly, event]}" + more_outputs,
                                              more="server: {control: \"ipc://DIR/control\"}"), **more)

    def sender(self, address=None):
        s = self.context.socket(zmq.PUSH)
        self.addCleanup(s.close, 0)
        s.connect(address or self.address)
        return s

    def send(self, s, stream, n, seq):
        s.send_multipart([json.dumps({"stream": stream, "dtype": "float32", "shape": [n], "seq": seq}).encode(),
                          struct.pack(f"<{n}f", *(k % 17 for k in range(n)))])

    def input(self):
        return self.status(self.control)["inputs"]["i"]


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
