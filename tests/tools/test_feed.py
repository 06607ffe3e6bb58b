"""mambactl feed against a pyzmq peer: what arrives is what the file holds, once, in order, described as DESIGN says."""
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import wave

import h5py
import numpy as np
import zmq

MAMBACTL = sys.argv.pop(1)
FOLDER = tempfile.TemporaryDirectory()
CONTEXT = zmq.Context()


def path(name):
    return os.path.join(FOLDER.name, name)


def make_wav(name, x, rate=16000):
    with wave.open(path(name), "wb") as w:
        w.setnchannels(1 if x.ndim == 1 else x.shape[1])
        w.setsampwidth(2)
        w.setframerate(rate)
        w.writeframes(x.astype("<i2").tobytes())
    return path(name)


class Peer:
    """The daemon's side: a PULL or SUB socket that collects messages by stream."""

    def __init__(self, kind, bind=True):
        self.socket = CONTEXT.socket(kind)
        self.socket.linger = 0
        self.socket.rcvtimeo = 10000
        self.address = "ipc://" + path("peer%d" % id(self))
        (self.socket.bind if bind else self.socket.connect)(self.address)
        if kind == zmq.SUB:
            self.socket.subscribe(b"")
        self.option = "--connect" if bind else "--bind"

    def feed(self, *args, stdin=None):
        process = subprocess.Popen([MAMBACTL, "feed", self.option, self.address, *args], stdin=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        return process

    def receive(self, streams):
        """Messages until so many streams have ended."""
        messages, ended = {}, 0
        while ended < streams:
            frames = self.socket.recv_multipart()
            topic = None if frames[0].startswith(b"{") else frames.pop(0)
            header = json.loads(frames[0])
            header["topic"] = topic
            x = np.frombuffer(frames[1], header["dtype"]).reshape(header["shape"])
            times = np.frombuffer(frames[2], "<i8") if len(frames) > 2 else None
            messages.setdefault(header["stream"], []).append((header, x, times))
            ended += "end" in header.get("flags", [])
        return messages


class Receiver:
    """The daemon's side of `pattern: router`, as docs/protocol.md has it, with a bad day: it can lose what is not durable."""

    def __init__(self):
        self.address = "ipc://" + path("receiver%d" % id(self))
        self.rows, self.durable, self.ended, self.flags, self.questions, self.refusals = {}, {}, set(), [], 0, 0
        self.bind()

    def bind(self):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.bind(self.address)

    def die(self):
        """What is not durable is gone, and so is what was under way."""
        self.context.destroy(linger=0)  # waits: the old address is removed before the new one is made
        self.rows = {stream: rows[:self.durable.get(stream, 0)] for stream, rows in self.rows.items()}
        self.ended = set()
        self.bind()

    def feed(self, *args, stdin=None):
        return subprocess.Popen([MAMBACTL, "feed", "--reliable", "--connect", self.address, *args], stdin=stdin,
                                stderr=subprocess.PIPE)

    def serve(self, until, snapshot=True, refuse=None, seconds=20):
        """Takes and answers until until() is true; `snapshot`: all is durable at once."""
        deadline = time.monotonic() + seconds
        while not until() and time.monotonic() < deadline:
            if self.socket.poll(20):
                self.take(*self.socket.recv_multipart(), snapshot=snapshot, refuse=refuse)
        return until()

    def take(self, sender, header, payload, *_, snapshot, refuse):
        header = json.loads(header)
        stream, flags, n = header["stream"], header.get("flags", []), header["shape"][0]
        rows = self.rows.setdefault(stream, [])
        if refuse:
            self.refusals += 1
            answer = {"stream": stream, "reason": refuse, "text": "not today"}
            self.socket.send_multipart([sender, b"error", json.dumps(answer).encode()])
            return
        x = np.frombuffer(payload, header["dtype"]).reshape(-1, header["shape"][1]).tolist()
        again = n == 0 and not flags
        self.questions += again
        if not again and header["seq"] > len(rows) and "gap" not in flags:
            again = True
        elif not again:
            self.flags += flags if n else []
            if header["seq"] > len(rows):
                rows += [None] * (header["seq"] - len(rows))
            rows += x[len(rows) - header["seq"]:] if header["seq"] <= len(rows) else x
            if "end" in flags and header["seq"] + n == len(rows):
                self.ended.add(stream)
        if snapshot:
            self.durable[stream] = len(rows)
        answer = {"stream": stream, "seq": len(rows), "durable": self.durable.get(stream, 0)}
        answer |= {"ended": True} if stream in self.ended else {}
        answer |= {"resend": True} if again else {}
        self.socket.send_multipart([sender, b"ack", json.dumps(answer).encode()])


def joined(messages):
    """Checks flags and seq of one stream's messages; returns all of its rows."""
    seq = 0
    for i, (header, x, _) in enumerate(messages):
        flags = header.get("flags", [])
        assert ("start" in flags) == (i == 0), header
        assert ("end" in flags) == (i == len(messages) - 1), header
        assert header["seq"] == seq, header
        seq += len(x)
    return np.concatenate([x for _, x, _ in messages])


class Feed(unittest.TestCase):
    def finish(self, process, code=0):
        _, errors = process.communicate(timeout=20)
        self.assertEqual(process.returncode, code, errors)
        return errors.decode()

    def test_sound_files_push(self):
        rng = np.random.default_rng(1)
        files = {name: rng.integers(-32768, 32767, size) for name, size in
                 (("s-a.wav", 5000), ("s-b.wav", (3001, 2)), ("s-c.wav", 0))}
        for name, x in files.items():
            make_wav(name, x)
        peer = Peer(zmq.PULL)
        process = peer.feed(path("s-?.wav"), "--chunk", "700")
        messages = peer.receive(3)
        self.finish(process)
        self.assertEqual(sorted(messages), sorted(files))
        for name, x in files.items():
            got = joined(messages[name])
            self.assertEqual(got.dtype, np.float32)
            np.testing.assert_array_equal(got, (x / 32768).reshape(len(x), *x.shape[1:] or (1,)).astype(np.float32))
            for header, rows, _ in messages[name]:
                self.assertIsNone(header["topic"])
                self.assertEqual(header["rate"], 16000)
                self.assertLessEqual(len(rows), 700)

    def test_subscriber_misses_nothing(self):
        x = np.arange(20000) % 3001
        make_wav("long.wav", x)
        for bind in (True, False):
            peer = Peer(zmq.SUB, bind)
            process = peer.feed(path("long.wav"), "--pattern", "pub", "--stream", "{stem}", "--chunk", "16")
            messages = peer.receive(1)
            self.finish(process)
            np.testing.assert_array_equal(joined(messages["long"])[:, 0], (x / 32768).astype(np.float32))
            self.assertEqual(messages["long"][0][0]["topic"], b"long/")

    def test_slow_peer(self):
        """The sender has long been done when the peer begins to read; all of it is still there."""
        make_wav("slow.wav", np.arange(30000))
        peer = Peer(zmq.PULL)
        process = peer.feed(path("slow.wav"), "--chunk", "8")
        time.sleep(0.7)
        self.assertEqual(len(joined(peer.receive(1)["slow.wav"])), 30000)
        self.finish(process)

    def test_csv_with_times(self):
        with open(path("t.csv"), "w") as f:
            f.write("time,a,b\n2024-01-01,1,2\n2024-01-02T00:00:00.5Z,3,\n2024-01-09,5,6\n")
        peer = Peer(zmq.PULL)
        process = peer.feed(path("t.csv"))
        messages = peer.receive(1)["t.csv"]
        self.finish(process)
        np.testing.assert_array_equal(joined(messages), np.array([[1, 2], [3, np.nan], [5, 6]]))
        header, x, times = messages[0]
        self.assertEqual((header["dtype"], header["rate"], header["t_ns"]), ("float64", 0, str(times[0])))
        np.testing.assert_array_equal(times, [1704067200000000000, 1704153600500000000, 1704758400000000000])

    def test_bytes(self):
        """Any file as it is, a byte a row."""
        text = bytes(range(256)) * 300
        with open(path("all.csv"), "wb") as f:
            f.write(text)
        peer = Peer(zmq.PULL)
        process = peer.feed("--bytes", path("all.csv"))
        messages = peer.receive(1)["all.csv"]
        self.finish(process)
        self.assertEqual({m[0]["dtype"] for m in messages if len(m[1])}, {"uint8"})  # the end has no rows
        self.assertEqual(joined(messages).astype("u1").tobytes(), text)

    def test_standard_input(self):
        x = np.linspace(-1, 1, 3000).astype("<f4")
        peer = Peer(zmq.PULL)
        process = peer.feed("-", "--rate", "250", "--channels", "3")
        for piece in (x[:100].tobytes()[:-1], x[:100].tobytes()[-1:], x[100:].tobytes()):
            process.stdin.write(piece)
            process.stdin.flush()
            time.sleep(0.05)
        process.stdin.close()
        process.stdin = None
        messages = peer.receive(1)["stdin"]
        self.finish(process)
        np.testing.assert_array_equal(joined(messages), x.reshape(-1, 3))
        self.assertEqual(messages[0][0]["rate"], 250)

    def test_hdf5_dataset(self):
        x = np.arange(5000.0).reshape(-1, 2)
        with h5py.File(path("log.h5"), "w") as f:
            f["ecg"] = x
            f["other"] = np.zeros(3)
        peer = Peer(zmq.PULL)
        process = peer.feed(path("log.h5") + ":/ecg", "--rate", "360")
        messages = peer.receive(1)
        self.finish(process)
        (name, of_stream), = messages.items()
        self.assertTrue(name.startswith("log.h5:") and name.endswith("ecg"), name)
        np.testing.assert_array_equal(joined(of_stream), x)

    def test_resampled(self):
        make_wav("cd.wav", np.full(44100, 8192), 44100)
        peer = Peer(zmq.PULL)
        process = peer.feed(path("cd.wav"), "--resample", "--rate", "16000")
        messages = peer.receive(1)["cd.wav"]
        self.finish(process)
        rows = joined(messages)
        self.assertEqual((len(rows), messages[0][0]["rate"]), (16000, 16000))
        np.testing.assert_array_equal(rows, np.full((16000, 1), 0.25, "f4"))

    def test_realtime_is_never_early(self):
        make_wav("second.wav", np.zeros(8000), 16000)
        with open(path("slow.csv"), "w") as f:
            f.write("t,v\n0,1\n0.1,2\n0.4,3\n")
        peer = Peer(zmq.PULL)
        began = time.monotonic()
        process = peer.feed(path("second.wav"), path("slow.csv"), "--pace", "realtime")
        messages = peer.receive(2)
        self.assertGreater(time.monotonic() - began, 0.39)
        self.finish(process)
        self.assertEqual(len(joined(messages["second.wav"])), 8000)
        self.assertGreater(len(messages["second.wav"]), 10)
        self.assertEqual(joined(messages["slow.csv"])[:, 0].tolist(), [1, 2, 3])

    def test_interrupted(self):
        peer = Peer(zmq.PULL)
        process = peer.feed("-", "--rate", "10")
        process.stdin.write(struct.pack("<f", 1))
        process.stdin.flush()
        frames = peer.socket.recv_multipart()
        self.assertEqual(json.loads(frames[0])["flags"], ["start"])
        process.terminate()
        self.assertEqual(json.loads(peer.socket.recv_multipart()[0])["flags"], ["end"])
        self.finish(process)

    def table(self, name, rows):
        with open(path(name), "w") as f:
            f.write("a,b\n" + "".join("%d,%d\n" % (i, -i) for i in range(rows)))
        return path(name), [[i, -i] for i in range(rows)]

    def ended(self, process):
        return lambda: process.poll() is not None

    def test_reliable_files_are_read_again(self):
        tables = [self.table("r%d.csv" % k, 3000 + k) for k in range(3)]
        receiver = Receiver()
        process = receiver.feed("--chunk", "50", "--stream", "{stem}", *(name for name, _ in tables))
        rows = lambda: sum(map(len, receiver.rows.values()))  # noqa: E731
        for lost in (1500, 4000, 9003):
            self.assertTrue(receiver.serve(lambda: rows() >= lost, snapshot=False))
            receiver.durable = {stream: len(r) // 2 for stream, r in receiver.rows.items()}
            receiver.die()
        self.assertTrue(receiver.serve(self.ended(process)))
        self.assertIn("3 streams: all rows are durable", self.finish(process))
        self.assertEqual(receiver.rows, {"r%d" % k: want for k, (_, want) in enumerate(tables)})
        self.assertEqual(receiver.flags, [])
        again = receiver.feed("--stream", "{stem}", tables[0][0])  # there is nothing left to do
        self.assertTrue(receiver.serve(self.ended(again)))
        self.finish(again)
        self.assertEqual(len(receiver.rows["r0"]), 3000)
        self.table("r0.csv", 100)  # not the file that it was
        again = receiver.feed("--stream", "{stem}", tables[0][0])
        self.assertTrue(receiver.serve(self.ended(again)))
        self.assertIn("3000 rows of it, here are 100", self.finish(again, 65))

    def test_reliable_pipe_is_kept(self):
        """No more is read than may be kept; what was sent is sent again; where that is gone it says so."""
        x = np.arange(3 << 18, dtype="<f4")  # 3 MiB
        x.tofile(path("pipe"))
        receiver = Receiver()
        with open(path("pipe"), "rb") as file:
            process = receiver.feed("-", "--keep", "1", "--stream", "s", stdin=subprocess.PIPE)
            os.set_blocking(process.stdin.fileno(), False)
            sent = 0

            def pump():
                nonlocal sent
                try:
                    sent += os.write(process.stdin.fileno(), file.read(1 << 16)) if file.tell() == sent else 0
                except BlockingIOError:
                    pass
                file.seek(sent)
                return False
            self.assertTrue(receiver.serve(lambda: pump() or 4 * len(receiver.rows.get("s", ())) > 700000, snapshot=False))
            receiver.serve(pump, snapshot=False, seconds=1)
            self.assertLess(sent, 1.5 * (1 << 20))
            receiver.durable["s"] = 1000
            receiver.die()
            receiver.serve(lambda: pump() or len(receiver.rows["s"]) > 500000)
            receiver.durable["s"] = 0
            receiver.die()
            receiver.serve(lambda: pump() or sent == x.nbytes)
            process.stdin.close()
            process.stdin = None
            self.assertTrue(receiver.serve(self.ended(process)))
        self.finish(process)
        rows = receiver.rows["s"]
        lost = rows.count(None)
        self.assertGreater(lost, 100000)
        self.assertEqual(rows, [None] * lost + [[v] for v in x[lost:].tolist()])
        self.assertEqual(receiver.flags, ["gap"])

    def test_reliable_pipe_goes_on_behind_the_last(self):
        receiver = Receiver()
        for first in (0, 100):
            process = receiver.feed("-", "--stream", "s", stdin=subprocess.PIPE)
            process.stdin.write(np.arange(first, first + 100, dtype="<f4").tobytes())
            process.stdin.close()
            process.stdin = None
            self.assertTrue(receiver.serve(self.ended(process)))
            self.finish(process)
        self.assertEqual(receiver.rows["s"], [[v] for v in range(200)])
        self.assertEqual(receiver.flags, ["start"])

    def test_reliable_waits_for_what_it_was_told_to(self):
        name, want = self.table("u.csv", 500)
        for until, code in (("acked", 0), ("durable", 74)):
            receiver = Receiver()
            process = receiver.feed("--until", until, name)
            receiver.serve(lambda: process.poll() is not None or receiver.questions > 2, snapshot=False)
            process.terminate()
            self.assertIn("acked" if code == 0 else "interrupted", self.finish(process, code))
            self.assertEqual(receiver.rows["u.csv"], want)

    def test_reliable_is_refused(self):
        name, want = self.table("x.csv", 500)
        receiver = Receiver()
        process = receiver.feed(name)
        self.assertTrue(receiver.serve(self.ended(process), refuse="rate"))
        self.assertIn("x.csv: not today (rate)", self.finish(process, 65))
        process = receiver.feed(name)
        refused = receiver.refusals
        self.assertTrue(receiver.serve(lambda: receiver.refusals > refused, refuse="duplicate_stream"))  # this one passes
        self.assertTrue(receiver.serve(self.ended(process)))
        self.assertIn("not today", self.finish(process))
        self.assertEqual(receiver.rows["x.csv"], want)
        process = receiver.feed(name, "--wait", "1", "--stream", "deaf")
        self.assertIn("no answer for 1 s", self.finish(process, 69))

    def test_errors(self):
        address = "ipc://" + path("nobody")
        wav = make_wav("e.wav", np.zeros(3000))
        with open(wav, "rb") as f:
            whole = f.read()
        with open(path("broken.wav"), "wb") as f:
            f.write(whole[:3000])
        with open(path("bad.csv"), "w") as f:
            f.write("a\n1\n2\n3\nx\n")
        peer = Peer(zmq.PULL)
        cases = [
            (64, "usage", []),
            (64, "either --connect or --bind", [wav]),
            (64, "insecure", [wav, "--connect", "tcp://192.0.2.1:5555"]),
            (64, "--pace", [wav, "--connect", address, "--pace", "slow"]),
            (64, "--until", [wav, "--connect", address, "--reliable", "--until", "dawn"]),
            (64, "--keep", [wav, "--connect", address, "--reliable", "--keep", "0"]),
            (64, "--reliable", [wav, "--connect", address, "--reliable", "--pattern", "pub"]),
            (66, "none.wav", [path("none.wav"), "--connect", address]),
            (69, "no peer", [wav, "--connect", address, "--wait", "0.1"]),
            (69, "no subscriber", [wav, "--bind", address, "--pattern", "pub", "--wait", "0.1"]),
            (78, "rate", [wav, "--connect", address, "--rate", "often"]),
            (78, "chanel", [wav, "--connect", address, "--set", "inputs.audio.chanel=1"]),
            (65, "16000", [wav, "--connect", address, "--rate", "8000"]),
            (65, "broken.wav", [path("broken.wav"), "--connect", peer.address]),
            (65, "bad.csv:5", [path("bad.csv"), "--connect", peer.address]),
        ]
        for code, said, args in cases:
            result = subprocess.run([MAMBACTL, "feed", *args], stderr=subprocess.PIPE, timeout=20)
            self.assertEqual(result.returncode, code, (args, result.stderr))
            self.assertIn(said, result.stderr.decode())


if __name__ == "__main__":
    unittest.main(verbosity=2)
