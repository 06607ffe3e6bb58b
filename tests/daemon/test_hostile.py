#!/usr/bin/python3
"""mambad among peers that mean no good: ids without number, bytes that dribble in, messages that never end. They are refused
and counted, what they cost is bounded, and the others do not notice.   test_hostile.py MAMBAD MAMBACTL [--ids N] [TEST…]"""
import json
import os
import signal
import socket
import struct
import sys
import time
import unittest

try:
    import zmq
except ImportError:
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import MAMBACTL, MAMBAD, PATIENCE, Running, free_port, run  # noqa: E402

with open(MAMBAD, "rb") as binary:
    code = binary.read()
SANITIZED = b"__tsan_init" in code or b"__asan_init" in code
os.environ.pop("MALLOC_PERTURB_", None)  # meson's: it writes to all memory that is taken, and what is counted here is memory
IDS, PASSERS = (20000, 20000) if SANITIZED else (1000000, 300000)
if "--ids" in sys.argv:
    at = sys.argv.index("--ids")
    IDS = PASSERS = int(sys.argv[at + 1])
    del sys.argv[at:at + 2]


class Hostile(Running):
    def setUp(self):
        super().setUp()
        self.context = zmq.Context()
        self.addCleanup(self.context.destroy, 0)

    def serve(self, keys="", more="", slots=64, address=None, outputs="", **options):
        self.address = address or "ipc://" + self.path("in")
        self.control = self.start(self.config(f"i: {{type: zmq, pattern: pull, bind: \"{self.address}\"{keys}}}",
                                              "o: {type: jsonl, path: DIR/out.jsonl, families: [anomaly, event]}" + outputs,
                                              more="server: {control: \"ipc://DIR/control\"}\n" + more),
                                  "--set", f"models.m.slots={slots}", **options)

    def sender(self, address=None):
        s = self.context.socket(zmq.PUSH)
        self.addCleanup(s.close, 0)
        s.connect(address or self.address)
        return s

    ROWS = struct.pack("<4f", 1, 2, 3, 4)

    def send(self, s, stream, seq=0, flags=""):
        s.send(b'{"stream":"%s","dtype":"float32","shape":[4],"seq":%d%s}' % (stream.encode(), seq, flags.encode()), zmq.SNDMORE)
        s.send(self.ROWS)

    def input(self):
        return self.status(self.control)["inputs"]["i"]

    def received(self, messages):
        self.wait(lambda: self.input()["input_messages_total"] == messages)

    def memory(self):
        with open(f"/proc/{self.daemon.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))  # KiB

    def flat(self, before, most_kib):
        if not SANITIZED:  # their own memory grows
            self.assertLess(self.memory() - before, most_kib)

    def stop(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        return self.lines()


# ---- what libzmq's peers say, by hand: ZMTP 3.0 without security

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 1 + 31)


def raw(port, kind=None):
    """A connection; of a kind: past its handshake."""
    s = socket.create_connection(("127.0.0.1", port))
    if kind:
        s.sendall(GREETING + b"\x04" + bytes([22 + len(kind)]) + b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind)
        heard = b""
        while b"READY" not in heard:
            heard += s.recv(1000)
    return s


class Ids(Hostile):
    def test_beyond_the_limit(self):
        """Refused, each one counted, few of them told; who was there before has all of its rows out."""
        live = min(10000, IDS // 10)
        self.serve(f", max_streams: {live}", slots=live)
        s, begin = self.sender(), time.monotonic()
        for k in range(live):
            self.send(s, f"live-{k}")
        self.received(live)
        before = 0
        for k in range(IDS):
            self.send(s, f"stranger-{k}")
            if k % (IDS // live) == 0:
                self.send(s, f"live-{k // (IDS // live)}", 4)
            if k == IDS // 10:
                before = self.memory()
        self.received(IDS + 2 * live)
        self.flat(before, 8 * 1024)
        i = self.input()
        self.assertEqual({k: n for k, n in i["input_errors_total"].items() if n}, {"streams": IDS})
        self.assertEqual({k: n for k, n in i["input_discarded_samples_total"].items() if n}, {"streams": 4 * IDS})
        self.wait(lambda: self.input()["accepted_samples_total"] == 8 * live)
        took = time.monotonic() - begin
        self.assertEqual(i["stream_starts_total"], live)
        self.assertLess(len(self.said()), 20000 + 1000 * took)
        rows, refused = {}, 0
        for m in self.stop():
            if m["topic"].startswith("anomaly/"):
                rows.setdefault(m["stream"], []).extend(range(m["seq"], m["seq"] + len(m["data"])))
            elif m.get("event") == "error":
                refused += 1
                self.assertEqual(m["reason"], "streams")
                self.assertTrue(m["stream"].startswith("stranger-"))
        self.assertEqual(rows, {f"live-{k}": list(range(8)) for k in range(live)})
        self.assertGreater(refused, 0)
        self.assertLessEqual(refused, 16 * (took + 2))

    def come_and_go(self, flags, streams):
        """No limit is reached, and nothing is refused; what is remembered of those that have gone has its own limit."""
        self.serve(slots=10000, more="state: {dir: DIR/state, interval: 1h, remember: 1000}\n" + streams)
        s, before = self.sender(), 0
        for k in range(PASSERS):
            self.send(s, f"passer-{k}", flags=flags)
            if k % 2000 == 1999:
                self.wait(lambda: self.input()["stream_ends_total"] > k - 4000)
            if k == PASSERS // 2:
                before = self.memory()
        self.wait(lambda: self.input()["stream_ends_total"] == PASSERS)
        self.flat(before, 64 * 1024)  # each takes 1 KiB until it is forgotten, which is done once a second
        self.assertFalse(any(self.input()["input_errors_total"].values()))
        self.assertEqual(self.input()["accepted_samples_total"], 4 * PASSERS)

    def test_come_and_go(self):
        self.come_and_go(',"flags":["end"]', "")

    def test_fall_silent(self):
        self.come_and_go("", "streams: {\"*\": {idle: 10ms}}")


class TwoInputs(Hostile):
    def serve_both(self, idle):
        self.serve("}, j: {type: zmq, pattern: pull, bind: \"ipc://DIR/in2\"",
                   more="state: {dir: DIR/state, interval: 1h, remember: 10}\nstreams: {\"*\": {idle: " + idle + "}}")
        self.a, self.b = self.sender(), self.sender("ipc://" + self.path("in2"))

    def ends(self, name, n):
        """So many have ended, and all that they said is out: another input may have their ids."""
        self.wait(lambda: self.status(self.control)["inputs"][name]["stream_ends_total"] == n)
        self.assertEqual(run(MAMBACTL, "snapshot", "--control", self.control).returncode, 0)

    def test_an_id_that_went_elsewhere(self):
        """An id that fell silent is taken by another input: the first one's sender is refused while it lives there."""
        self.serve_both("5s")  # so long that it does live
        self.send(self.a, "x")
        self.ends("i", 1)
        for k in range(2):
            self.send(self.b, "x", 4 * k)
            self.wait(lambda: self.status(self.control)["inputs"]["j"]["accepted_samples_total"] == 4 * k + 4)
            self.send(self.a, "x", 4 * k)
            self.received(k + 2)
        self.assertEqual(self.input()["input_errors_total"]["duplicate_stream"], 2)
        self.ends("j", 1)
        self.send(self.a, "x", 4)
        self.ends("i", 2)
        rows = [(m["epoch"], m["seq"]) for m in self.stop() if m["topic"] == "anomaly/x/"]
        self.assertEqual(rows, [(0, 0)] + [(1, 4 * k) for k in range(2)] + [(2, 4)])

    def test_an_id_that_was_forgotten_elsewhere(self):
        """... and ends and is forgotten there, while the first input still knows it."""
        self.serve_both("100ms")
        for k in range(20):
            self.send(self.a, f"x{k}")
        self.ends("i", 20)
        for k in range(20):
            self.send(self.b, f"x{k}", flags=',"flags":["end"]')
        self.ends("j", 20)
        for n in range(1, 4):
            for k in range(50):
                self.send(self.b, f"passer-{n}-{k}", flags=',"flags":["end"]')
            self.ends("j", 20 + 50 * n)
            time.sleep(1.1)  # ended streams are forgotten once a second
        for k in range(20):
            self.send(self.a, f"x{k}")
        self.ends("i", 40)
        self.stop()


class Slow(Hostile):
    """A byte a second, of a handshake or of a message, at every socket that can be reached by TCP."""
    CROWD = 8  # of either kind, at each

    def setUp(self):
        super().setUp()
        bytes_ = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../ssm/golden/bytes")
        self.ports = {name: free_port() for name in ("pull", "router", "pub", "generate", "curve")}
        at = {name: f"\"tcp://127.0.0.1:{port}\"" for name, port in self.ports.items()}
        self.check(run(MAMBACTL, "keygen", self.path("server")), 0)
        self.path("clients", "")
        self.control = self.start(self.path("c.yaml", f"""
models: {{m: {{path: {self.model}}}, b: {{path: {bytes_}, threads: 1}}}}
inputs:
  pull: {{type: zmq, model: m, pattern: pull, bind: {at["pull"]}}}
  router: {{type: zmq, model: m, pattern: router, bind: {at["router"]}}}
  curve: {{type: zmq, model: m, pattern: pull, bind: {at["curve"]}, curve_key: DIR/server.key, curve_clients: DIR/clients}}
outputs: {{pub: {{type: zmq, bind: {at["pub"]}, families: [anomaly]}}}}
server: {{control: "ipc://DIR/control", generate: {at["generate"]}, shutdown_timeout: 5s}}
""".replace("DIR", self.dir)))

    def peer(self, kind, name):
        s = self.context.socket(kind)
        self.addCleanup(s.close)
        s.linger = 0
        s.rcvtimeo = PATIENCE * 1000
        s.connect(f"tcp://127.0.0.1:{self.ports[name]}")
        return s

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def exchange(self, n):
        """One of each with the good peers, who are answered before the next."""
        self.send(self.push, "p", 4 * n)
        while json.loads(self.sub.recv_multipart()[1])["stream"] != "p":
            pass
        self.dealer.send_multipart([json.dumps({"stream": "r", "dtype": "float32", "shape": [4], "seq": 4 * n}).encode(), self.ROWS])
        self.assertEqual(json.loads(self.dealer.recv_multipart()[1])["seq"], 4 * n + 4)
        self.ask.send_multipart([b"gen", b'{"id": 1, "n": 4}', b"hello"])
        while self.ask.recv_multipart()[0] == b"data":
            pass

    def test_a_byte_a_second(self):
        self.push, self.dealer = self.peer(zmq.PUSH, "pull"), self.peer(zmq.DEALER, "router")
        self.sub, self.ask = self.peer(zmq.SUB, "pub"), self.peer(zmq.DEALER, "generate")
        self.sub.subscribe(b"")
        n = 0
        while not self.sub.poll(100):  # the subscription has arrived
            self.send(self.push, "hello", 4 * n)
            n += 1
        self.exchange(0)
        alone, memory = self.descriptors(), self.memory()
        greeting, message = [], []  # who dribbles which, and what it has not said yet
        kinds = {"pull": (b"PUSH", 64 << 20), "router": (b"DEALER", 64 << 20), "pub": (b"SUB", 1000), "generate": (b"DEALER", 1000)}
        for name, port in self.ports.items():
            for _ in range(self.CROWD):
                greeting.append([raw(port), GREETING])
                if name in kinds:
                    kind, size = kinds[name]  # most of it never comes
                    message.append([raw(port, kind), b"\x03" + struct.pack(">Q", size) + bytes(200)])
        self.addCleanup(lambda: [s.close() for s, _ in greeting + message])
        crowd, n, dribble, alive = len(greeting) + len(message), 1, 0, list(greeting)
        self.wait(lambda: self.descriptors() == alone + crowd)
        while alive:
            if time.monotonic() >= dribble:
                dribble = time.monotonic() + 1
                for peer in alive + message:
                    try:
                        peer[0].send(peer[1][:1])
                        peer[1] = peer[1][1:]
                    except OSError:
                        pass
            self.exchange(n)
            n += 1
            self.assertLessEqual(self.descriptors(), alone + crowd)
            alive = [peer for peer in alive if not self.gone(peer[0])]
            if len(alive) == len(greeting):
                served = n
        self.assertGreater(served, 3)
        self.assertFalse(any(self.gone(s) for s, _ in message), "a slow message is nobody's fault")
        self.wait(lambda: self.descriptors() == alone + len(message))
        self.flat(memory, 16 * 1024)
        status = self.status(self.control)
        self.assertEqual(status["inputs"]["curve"]["peers_refused_total"], {"key": 0, "protocol": 0, "handshake": self.CROWD})
        for name in ("pull", "router"):
            self.assertFalse(any(status["inputs"][name]["input_errors_total"].values()))
        for s, _ in message:
            s.close()
        self.wait(lambda: self.descriptors() == alone)
        self.exchange(n)
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())

    def gone(self, s):
        """Whether the daemon has hung up; what it says is passed over."""
        s.setblocking(False)
        try:
            while s.recv(4096):
                pass
            return True
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            s.setblocking(True)


class Frames(Hostile):
    """Messages that never end, and frames that are too long."""

    def setUp(self):
        super().setUp()
        self.port, self.pub = free_port(), free_port()
        self.serve(", max_message: 1MiB", address=f"tcp://127.0.0.1:{self.port}",
                   outputs=f", p: {{type: zmq, bind: \"tcp://127.0.0.1:{self.pub}\", families: [anomaly]}}")
        self.good, self.sub, self.sent = self.sender(), self.context.socket(zmq.SUB), 0
        self.addCleanup(self.sub.close)
        self.sub.rcvtimeo = PATIENCE * 1000
        self.sub.connect(f"tcp://127.0.0.1:{self.pub}")
        self.sub.subscribe(b"")
        while not self.sub.poll(100):
            self.exchange(False)

    def exchange(self, answered=True):
        self.send(self.good, "good", 4 * self.sent)
        self.sent += 1
        while answered:
            m = json.loads(self.sub.recv_multipart()[1])
            answered = m["seq"] + m["shape"][0] < 4 * self.sent

    def endless(self, port, kind, frame, count):
        with raw(port, kind) as s:
            for k in range(count):
                s.sendall(frame)
                if k % 10 == 0:
                    self.exchange()
            s.shutdown(socket.SHUT_WR)
            s.settimeout(PATIENCE)
            while s.recv(4096):  # until the daemon has hung up too: what it held of ours is freed
                pass
        self.exchange()

    def test_a_message_without_end(self):
        """libzmq holds its frames until the last has come, or the peer has gone: then nothing of it is left, and none of it was
        ever seen. Others are served meanwhile."""
        small, large = b"\x01\x01x" * 1000, b"\x03" + struct.pack(">Q", 1 << 20) + bytes(1 << 20)
        memory = self.memory()
        for _ in range(1 if SANITIZED else 8):
            for port, kind in ((self.port, b"PUSH"), (self.pub, b"SUB")):
                self.endless(port, kind, small, 200)
                self.endless(port, kind, large, 20)
        self.flat(memory, 32 * 1024)  # eight rounds of the least of the four would be 100 MiB
        self.received(self.sent)
        self.assertFalse(any(self.input()["input_errors_total"].values()))
        with raw(self.port, b"PUSH") as s:
            s.sendall(small * 100 + b"\x00\x01x")
            self.received(self.sent + 1)
        self.exchange()
        self.assertEqual({k: n for k, n in self.input()["input_errors_total"].items() if n}, {"malformed": 1})

    def test_frames_too_long(self):
        """Beyond max_message they are counted; beyond eight times that the connection ends before they are read."""
        before = self.memory()
        s = self.sender()
        for k in range(5):
            s.send_multipart([b'{"stream":"bad","dtype":"float32","shape":[500000]}', bytes(2000000)])
            self.exchange()
        self.wait(lambda: self.input()["input_errors_total"]["size"] == 5)
        self.assertEqual(self.input()["input_discarded_samples_total"]["size"], 5 * 500000)
        for size in (9 << 20, 1 << 30, 1 << 62, (1 << 64) - 1):
            with raw(self.port, b"PUSH") as s:
                s.sendall(b"\x02" + struct.pack(">Q", size) + bytes(1000))
                s.settimeout(PATIENCE)
                self.assertEqual(s.recv(1000), b"", "hung up")
            self.exchange()
        self.flat(before, 16 * 1024)
        self.assertEqual(self.input()["input_messages_total"], self.sent + 5)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
