#!/usr/bin/python3
"""`pattern: router` of the real mambad, against clients that do as they should and clients that do not: what is taken, what
is answered, what is counted and what is announced.   test_router.py MAMBAD MAMBACTL"""
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

try:
    import zmq
except ImportError:
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import signal_model  # noqa: E402

MAMBAD, MAMBACTL = (os.path.abspath(a) for a in sys.argv[1:3])
PATIENCE_MS = 60000
CONTEXT = zmq.Context()


class Client:
    def __init__(self, address, identity=None):
        self.socket = CONTEXT.socket(zmq.DEALER)
        self.socket.linger = 0
        if identity:
            self.socket.setsockopt(zmq.ROUTING_ID, identity)
        self.socket.connect(address)

    def say(self, stream, seq, n, *flags, **more):
        header = {"stream": stream, "dtype": "float32", "shape": [n, 2], "seq": seq, "flags": list(flags), **more}
        rows = struct.pack(f"<{2 * n}f", *((int(seq or 0) + i // 2) % 17 for i in range(2 * n)))
        self.socket.send_multipart([json.dumps(header).encode(), rows])

    def hear(self):
        if not self.socket.poll(PATIENCE_MS):
            raise AssertionError("no answer")
        verb, text = self.socket.recv_multipart()
        return {"verb": verb.decode(), **json.loads(text)}

    def ask(self, stream):
        self.socket.send_multipart([json.dumps({"stream": stream, "dtype": "float32", "shape": [0]}).encode(), b""])
        while not (answer := self.hear()).get("resend") and answer["verb"] == "ack":
            pass
        return answer

    def close(self):
        self.socket.close()


class Router(unittest.TestCase):
    state = ""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="mambad-test-router-")
        self.addCleanup(shutil.rmtree, self.dir)
        signal_model.write(f"{self.dir}/model")
        self.address, self.clients, self.daemon = f"ipc://{self.dir}/in", [], None
        self.start()

    def start(self, inputs="", policy="", **more):
        keys = "".join(f", {k}: {v}" for k, v in more.items())
        with open(f"{self.dir}/c", "w", encoding="utf-8") as out:
            out.write(f"models: {{m: {{path: {self.dir}/model, slots: 8, threads: 1}}}}\n"
                      f"inputs: {{i: {{type: zmq, pattern: router, bind: 'ipc://{self.dir}/in'{keys}}}{inputs}}}\n"
                      f"outputs: {{o: {{type: jsonl, path: {self.dir}/out, families: [anomaly, event]}}}}\n"
                      f"server: {{control: 'ipc://{self.dir}/control', shutdown_timeout: 60s}}\n{policy}"
                      + (f"state: {{dir: {self.dir}/state, interval: 1h, spill: 0}}\n" if self.state else ""))
        self.daemon = subprocess.Popen([MAMBAD, "-c", f"{self.dir}/c"], stderr=subprocess.DEVNULL)
        while subprocess.run([MAMBACTL, "status", "-c", f"{self.dir}/c"], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, check=False).returncode:
            self.assertIsNone(self.daemon.poll())
            time.sleep(0.02)

    def tearDown(self):
        for client in self.clients:
            client.close()
        if self.daemon.poll() is None:
            self.stop()

    def stop(self, how=signal.SIGTERM):
        self.daemon.send_signal(how)
        self.assertEqual(self.daemon.wait(PATIENCE_MS / 1000), 0 if how == signal.SIGTERM else -how)

    def client(self, identity=None):
        self.clients.append(Client(self.address, identity))
        return self.clients[-1]

    def status(self):
        text = subprocess.run([MAMBACTL, "status", "--json", "-c", f"{self.dir}/c"], stdout=subprocess.PIPE, check=True).stdout
        return json.loads(text)["inputs"]["i"]

    def discarded(self):
        return {k: v for k, v in self.status()["input_discarded_samples_total"].items() if v}

    def lines(self):
        self.stop()
        with open(f"{self.dir}/out", encoding="utf-8") as f:
            return [json.loads(line) for line in f]

    def rows(self, lines, stream):
        return [(m["epoch"], m["seq"] + i) for m in lines if m["topic"] == f"anomaly/{stream}/" for i in range(len(m["data"]))]

    def events(self, lines, *but):
        return [m["event"] for m in lines if m["topic"].startswith("event/") and m["event"] not in but]

    def ack(self, answer, seq, **more):
        want = {"verb": "ack", "seq": seq, "durable": seq, **more}
        self.assertEqual({k: v for k, v in answer.items() if k != "stream"}, want)

    def test_rows_are_taken_once_and_in_order(self):
        c = self.client()
        self.ack(c.ask("a"), 0, resend=True)
        c.say("a", 64, 64)  # before there is anything: the first rows are missing
        self.ack(c.hear(), 0, resend=True)
        c.say("a", 0, 64)
        self.ack(c.hear(), 64)
        c.say("a", 0, 64)  # all of it again
        self.ack(c.hear(), 64)
        c.say("a", 32, 64)  # half of it
        self.ack(c.hear(), 96)
        for seq in (128, 160, 192):  # a hole is asked for once, not for every message behind it
            c.say("a", seq, 32)
        self.ack(c.hear(), 96, resend=True)
        c.say("a", 96, 32)
        self.ack(c.hear(), 128)
        c.say("a", 3, 5)  # numbers that jump back were taken before
        self.ack(c.hear(), 128)
        c.say("a", 256, 64, "gap")  # unless the sender says that they cannot be had
        self.ack(c.hear(), 320)
        self.assertEqual(self.discarded(), {"duplicate": 2 * (64 + 32 + 5), "ahead": 2 * (64 + 3 * 32)})
        lines = self.lines()
        self.assertEqual(self.rows(lines, "a"), [(0, n) for n in (*range(128), *range(256, 320))])
        self.assertEqual(self.events(lines, "anomaly_start", "anomaly_end"), ["start", "gap"])
        gap, = [m for m in lines if m.get("event") == "gap"]
        self.assertEqual((gap["reason"], gap["from_seq"], gap["to_seq"]), ("sender", 128, 255))

    def test_ends_and_returns(self):
        c = self.client()
        c.say("a", 0, 0, "end")  # of nothing
        self.ack(c.hear(), 0, ended=True)
        c.say("a", 0, 64)
        self.ack(c.hear(), 64)
        c.say("a", 96, 0, "end")  # rows are missing before it
        self.ack(c.hear(), 64, resend=True)
        c.say("a", 64, 0, "end", shape=[0])
        self.ack(c.hear(), 64, ended=True)
        for _ in range(2):
            c.say("a", 32, 32, "end")
            self.ack(c.hear(), 64, ended=True)
        self.ack(c.ask("a"), 64, ended=True, resend=True)
        c.say("a", 64, 64, "start")
        self.ack(c.hear(), 128)
        c.say("a", 128, 64, "end")
        self.ack(c.hear(), 192, ended=True)
        lines = self.lines()
        self.assertEqual(self.rows(lines, "a"), [(n // 64 > 0, n) for n in range(192)])
        self.assertEqual(self.events(lines, "anomaly_start", "anomaly_end"), ["start", "end"] * 2)

    def test_malformed(self):
        c = self.client()
        c.say("a", 0, 64)
        self.ack(c.hear(), 64)
        for seq in (-1, 2 ** 61 - 10, 2 ** 61, 2 ** 62 - 1, 2 ** 62, 2 ** 63 - 1, 2 ** 63, -2 ** 63, 10 ** 30, None, "5", 1.5):
            c.say("a", seq, 64, "gap")
            self.assertEqual(c.hear()["reason"], "malformed", seq)
        for flag in ("start", "reset", "gap"):
            c.say("a", 64, 0, flag)
            self.assertEqual(c.hear()["reason"], "malformed")
        c.say("a", None, 0, "end")
        self.assertEqual(c.hear()["reason"], "malformed")
        for frames in ([b""], [b"", b""], [b"{", b""], [b"{}", b"", b"", b"", b"", b"", b""], [b"\xff" * 300, b"\0" * 5], [b"hi"]):
            c.socket.send_multipart(frames)
            answer = c.hear()
            self.assertEqual((answer["verb"], answer["stream"]), ("error", None), frames)
        for more, reason in (({"dtype": "float16"}, "dtype"), ({"shape": [63, 2]}, "shape"), ({"stream": "\n"}, "id"),
                             ({"shape": [32, 4]}, "shape")):
            c.say(**{"stream": "a", "seq": 64, "n": 64, **({k: v for k, v in more.items() if k == "stream"}),
                     **{k: v for k, v in more.items() if k != "stream"}})
            self.assertEqual(c.hear()["reason"], reason)
        c.say("b" * 201, 0, 64)
        self.assertEqual(c.hear()["reason"], "id")
        for k in range(3):  # eight slots: four streams of two channels
            c.say(f"more{k}", 0, 64)
            self.ack(c.hear(), 64)
        c.say("too many", 0, 64)
        self.assertEqual(c.hear(), {"verb": "error", "stream": "too many", "reason": "streams", "text": "stream refused"})
        self.ack(c.ask("a"), 64, resend=True)
        errors = self.status()["input_errors_total"]
        self.assertEqual({k: v for k, v in errors.items() if v}, {"malformed": 22, "dtype": 1, "shape": 2, "id": 2, "streams": 1})
        self.assertEqual(len(self.rows(self.lines(), "a")), 64)

    def test_frame_too_long(self):
        self.stop()
        self.start(max_message="1KiB")
        bad, good = self.client(), self.client()
        bad.say("bad", 0, 200)
        answer = bad.hear()
        self.assertEqual((answer["verb"], answer["stream"], answer["reason"]), ("error", "bad", "size"))
        bad.say("bad", 0, 2000)  # libzmq ends the connection
        good.say("good", 0, 100)
        self.ack(good.hear(), 100)
        self.assertFalse(bad.socket.poll(200))
        self.assertEqual(self.status()["input_errors_total"]["size"], 1)
        self.assertEqual(self.discarded(), {"size": 400})

    def test_limit(self):
        """Above it senders are held back, and lose nothing."""
        self.stop()
        self.start(messages_per_second=50, when_full="drop_oldest")
        c, begin = self.client(), time.monotonic()
        for k in range(100):
            c.say("a", 10 * k, 10)
        while c.hear()["seq"] < 1000:
            pass
        self.assertGreater(time.monotonic() - begin, 0.99)
        self.assertEqual(self.discarded(), {})
        self.assertEqual(len(self.rows(self.lines(), "a")), 1000)

    def test_whose_a_stream_is(self):
        first, second = self.client(b"one" * 85), self.client()  # 255 bytes, the longest there is
        first.say("a", 0, 64)
        self.ack(first.hear(), 64)
        second.say("a", 64, 64)
        answer = second.hear()
        self.assertEqual((answer["verb"], answer["reason"]), ("error", "duplicate_stream"))
        self.assertEqual(second.ask("a")["reason"], "duplicate_stream")
        self.ack(first.hear(), 64)  # it was asked whether it is there
        first.say("a", 64, 64)
        while first.hear()["seq"] < 128:
            pass
        again = self.client(b"one" * 85)  # connects again under its name, before it is gone
        again.say("a", 128, 64)
        self.ack(again.hear(), 192)
        again.close()
        first.close()
        for _ in range(100):  # its end takes a moment to be seen; then the next connection has it
            answer = second.ask("a")
            if answer["verb"] == "ack":
                break
            time.sleep(0.05)
        self.ack(answer, 192, resend=True)
        second.say("a", 192, 64)
        self.ack(second.hear(), 256)
        self.clients = [second]
        lines = self.lines()
        self.assertEqual(self.rows(lines, "a"), [(0, n) for n in range(256)])
        self.assertIn("error", self.events(lines))

    def test_another_input_has_it(self):
        """A stream that ended by itself and came again elsewhere: its sender is refused, not told of rows that others sent."""
        self.stop()
        self.start(f", p: {{type: zmq, pattern: pull, bind: 'ipc://{self.dir}/p'}}", "streams: {idle: 1s}\n")
        c, other = self.client(), CONTEXT.socket(zmq.PUSH)
        self.addCleanup(other.close, 0)
        other.connect(f"ipc://{self.dir}/p")
        c.say("a", 0, 64)
        self.ack(c.hear(), 64)
        self.until_shown("a", rows=64)
        for _ in range(20):
            self.until_shown("a", state="ended")
            while not self.shown("a", input="p"):  # it is refused while what the other one said is on its way out
                other.send_multipart([json.dumps({"stream": "a", "dtype": "float32", "shape": [64, 2], "seq": 1000}).encode(), bytes(512)])
                time.sleep(0.02)
            c.say("a", 64, 64)
            self.ack(c.hear(), 0, resend=True)
            c.say("a", 0, 64)
            answer = c.hear()
            if answer["verb"] == "error":
                break
            self.ack(answer, 64)  # it has ended there, too
        self.assertEqual((answer["verb"], answer["reason"]), ("error", "duplicate_stream"))

    def test_no_room_to_come_back(self):
        """A stream that ended by itself, whose slots others have by now: its sender hears why its rows are not taken."""
        self.stop()
        self.start(policy="streams: {a: {idle: 300ms}}\n")
        c = self.client()
        c.say("a", 0, 64)
        self.ack(c.hear(), 64)
        self.until_shown("a", rows=64)
        self.until_shown("a", state="ended")
        for k in range(4):
            c.say(f"b{k}", 0, 64)
            self.ack(c.hear(), 64)
        c.say("a", 64, 64)
        answer = c.hear()
        self.assertEqual((answer["verb"], answer["stream"], answer.get("reason")), ("error", "a", "streams"))
        c.say("b0", 64, 0, "end", shape=[0])
        self.ack(c.hear(), 64, ended=True)
        self.until_shown("b0", state="ended")
        self.ack(c.ask("a"), 64, ended=True, resend=True)
        c.say("a", 64, 64)
        self.ack(c.hear(), 128)

    def shown(self, stream, **keys):
        said = subprocess.run([MAMBACTL, "streams", "--json", "-c", f"{self.dir}/c"], stdout=subprocess.PIPE, check=True).stdout
        return any(s["stream"] == stream and all(s[k] == v for k, v in keys.items()) for s in json.loads(said))

    def until_shown(self, stream, **keys):
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not self.shown(stream, **keys):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_who_never_reads(self):
        """Its acks are lost, counted, and nobody waits for it."""
        deaf, good = self.client(), self.client()
        deaf.socket.setsockopt(zmq.RCVHWM, 1)
        deaf.close()
        deaf = Client(f"ipc://{self.dir}/in")
        deaf.socket.disconnect(f"ipc://{self.dir}/in")
        deaf.socket.setsockopt(zmq.RCVHWM, 1)
        deaf.socket.setsockopt(zmq.RCVBUF, 4096)
        deaf.socket.connect(f"ipc://{self.dir}/in")
        self.clients[0] = deaf
        for k in range(40000):
            deaf.say("nobody", 10 ** 9 + k, 0, "end")  # each is answered
            if k % 1000 == 0:
                good.say("good", k // 1000, 1)
                self.ack(good.hear(), k // 1000 + 1)
        for _ in range(100):
            if self.status()["acks_dropped_total"]:
                break
            time.sleep(0.05)
        self.assertGreater(self.status()["acks_dropped_total"], 0)
        self.assertEqual(len(self.rows(self.lines(), "good")), 40)

    def test_who_dies_while_it_is_held_back(self):
        """libzmq 4.3.4 would abort the daemon then, were heartbeats on."""
        self.stop()
        self.start(queue=64, hwm=100)
        c = self.client()
        c.socket.setsockopt(zmq.SNDTIMEO, 100)
        rows = bytes(8 * 20000)
        try:
            for k in range(5000):
                header = {"stream": "a", "dtype": "float32", "shape": [20000, 2], "seq": 20000 * k}
                c.socket.send_multipart([json.dumps(header).encode(), rows])
        except zmq.Again:
            pass
        c.close()
        self.clients = []
        for _ in range(25):
            time.sleep(0.1)
            self.assertIsNone(self.daemon.poll())
        good = self.client()
        good.say("good", 0, 64)
        self.ack(good.hear(), 64)
        self.stop(signal.SIGKILL)

    def test_flood(self):
        """Thousands of ids that only ask leave nothing behind; one that sends without pause leaves the others their turn."""
        c, good = self.client(), self.client()
        for k in range(3000):
            self.ack(c.ask(f"id-{k}"), 0, resend=True)
        for k in range(2000):
            c.say("flood", 100 * k, 100)
            if k % 100 == 0:
                good.say("good", k // 100, 1)
        while good.hear()["seq"] < 20:
            pass
        while c.hear()["seq"] < 200000:
            pass
        streams = subprocess.run([MAMBACTL, "streams", "--json", "-c", f"{self.dir}/c"], stdout=subprocess.PIPE, check=True)
        self.assertEqual(streams.stdout.count(b'"stream"'), 2)
        self.assertEqual(self.discarded(), {})


class Durable(Router):
    """With snapshots."""
    state = "yes"

    def ack(self, answer, seq, **more):
        self.assertLessEqual(answer["durable"], answer["seq"])
        super().ack({**answer, "durable": seq}, seq, **more)

    def ctl(self, *args):
        subprocess.run([MAMBACTL, *args, "-c", f"{self.dir}/c"], stdout=subprocess.DEVNULL, check=True)

    def snapshot(self):
        self.ctl("snapshot")

    def durable(self, c, stream, want):
        """Rows reach the model a moment after they are acked."""
        for _ in range(200):
            self.snapshot()
            if c.ask(stream)["durable"] == want:
                return
            time.sleep(0.02)
        self.fail(f"not durable: {c.ask(stream)}")

    def test_durable(self):
        c = self.client()
        c.say("a", 0, 64)
        self.assertEqual(c.hear(), {"verb": "ack", "stream": "a", "seq": 64, "durable": 0})
        self.durable(c, "a", 64)
        c.say("a", 64, 64)
        self.assertEqual(c.hear(), {"verb": "ack", "stream": "a", "seq": 128, "durable": 64})
        self.stop(signal.SIGKILL)
        self.start()
        answer = c.ask("a")
        self.assertEqual((answer["seq"], answer["durable"]), (64, 64))
        c.say("a", 128, 0, "end", shape=[0])  # what it says goes on from before
        self.assertEqual(c.hear()["seq"], 64)
        c.say("a", 32, 96)
        self.ack(c.hear(), 128)
        self.durable(c, "a", 128)
        c.say("a", 128, 0, "end", shape=[0])
        self.assertEqual(c.hear(), {"verb": "ack", "stream": "a", "seq": 128, "durable": 127, "ended": True})
        self.durable(c, "a", 128)  # the end as well
        self.stop(signal.SIGKILL)
        self.start()
        self.assertEqual(c.ask("a"), {"verb": "ack", "stream": "a", "seq": 128, "durable": 128, "ended": True, "resend": True})
        lines = self.lines()
        self.assertEqual(self.rows(lines, "a"), [(0, n) for n in range(128)])
        self.assertEqual(self.events(lines, "anomaly_start", "anomaly_end"), ["start", "restore", "end"])

    def test_end_after_a_restart(self):
        """An end that comes alone to a stream that has not begun again, in a shape that is not the stream's."""
        c = self.client()
        c.say("a", 0, 64)
        self.durable(c, "a", 64)
        self.stop(signal.SIGKILL)
        self.start()
        self.assertEqual(c.ask("a")["seq"], 64)
        c.say("a", 64, 0, "end", shape=[0])
        self.ack(c.hear(), 64, ended=True)
        lines = self.lines()
        self.assertEqual(self.rows(lines, "a"), [(0, n) for n in range(64)])
        self.assertEqual(self.events(lines, "anomaly_start", "anomaly_end"), ["start", "restore", "end"])

    def test_a_state_that_was_put_in(self):
        """Its rows are not durable before a snapshot has it: a daemon that is killed before knows nothing of it."""
        c, state = self.client(), f"{self.dir}/a.state"
        c.say("a", 0, 64)
        self.ack(c.hear(), 64)
        self.until_shown("a", rows=64)
        self.ctl("snapshot", "--stream", "a", "-o", state)
        self.ctl("restore", state, "--as", "b")
        for stream, durable in (("b", 0), ("b", 64)):
            answer = c.ask(stream)
            self.assertEqual((answer["seq"], answer["durable"]), (64, durable))
            self.snapshot()
        self.ctl("restore", state, "--as", "c")
        self.stop(signal.SIGKILL)
        self.start()
        for stream, seq in (("b", 64), ("c", 0)):
            answer = c.ask(stream)
            self.assertEqual((answer["seq"], answer["durable"]), (seq, seq))

    def test_lost_state(self):
        """The daemon forgot what was durable: it waits, until the sender says that it cannot send that any more."""
        c = self.client()
        c.say("a", 0, 64)
        self.durable(c, "a", 64)
        self.stop(signal.SIGKILL)
        shutil.rmtree(f"{self.dir}/state")
        os.remove(f"{self.dir}/out")
        self.start()
        self.assertEqual(c.ask("a")["seq"], 0)
        c.say("a", 64, 64)
        self.assertEqual(c.hear(), {"verb": "ack", "stream": "a", "seq": 0, "durable": 0, "resend": True})
        c.say("a", 64, 64, "gap")
        self.assertEqual(c.hear()["seq"], 128)
        self.assertEqual(self.rows(self.lines(), "a"), [(0, n) for n in range(64, 128)])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
