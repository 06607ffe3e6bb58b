#!/usr/bin/python3
"""The generation service with the real mambad, and pyzmq as client: the bytes are those of `mambactl generate`, whatever else
runs; a live stream is forked without a trace; limits, clients that do not read, hostile messages, every kind of end.
   test_generate_service.py MAMBAD MAMBACTL GOLDEN FAKE_DEVICE_DIR"""
import json
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import time
import unittest

try:
    import zmq
except ImportError:
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import MAMBACTL, MAMBAD, PATIENCE, Running, free_port, run  # noqa: E402

MODEL = os.path.join(os.path.abspath(sys.argv[3]), "bytes")
FAKE = os.path.abspath(sys.argv[4])
DEVICE = "cuda" if os.environ.get("MAMBAD_REQUIRE_GPU") else "cpu"


class Client:
    def __init__(self, test, endpoint=None, **options):
        self.socket = test.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = PATIENCE * 1000
        for option, value in options.items():
            setattr(self.socket, option, value)
        self.socket.connect(endpoint or "ipc://" + test.path("generate"))
        self.texts, self.ends = {}, {}
        test.addCleanup(self.socket.close)

    def ask(self, id, prompt=b"hello", **keys):
        self.texts[id] = b""
        self.ends.pop(id, None)
        self.socket.send_multipart([b"gen", json.dumps({"id": id, **keys}).encode(), prompt])

    def cancel(self, id):
        self.socket.send_multipart([b"cancel", json.dumps({"id": id}).encode()])

    def take(self):
        kind, header, *data = self.socket.recv_multipart()
        header = json.loads(header)
        if kind == b"data":
            assert header["seq"] == len(self.texts[header["id"]]) and data[0], (header, data)
            self.texts[header["id"]] += data[0]
        else:
            assert kind in (b"end", b"error") and not data, (kind, data)
            assert header["id"] not in self.ends, "one end each"
            self.ends[header["id"]] = header.get("reason") or header["message"]
            if kind == b"end":
                assert header["bytes"] == len(self.texts[header["id"]]), header
        return kind, header

    def end(self, *ids):
        while not all(id in self.ends for id in ids):
            self.take()
        return [self.ends[id] for id in ids]

    def text(self, id, prompt=b"hello", **keys):
        self.ask(id, prompt, **keys)
        self.end(id)
        return self.texts[id]

    def refused(self, id, prompt=b"hello", **keys):
        self.ask(id, prompt, **keys)
        kind, header = self.take()
        assert kind == b"error", (kind, header)
        return header["message"]


def generate(device, prompt, n, *how):
    args = [MAMBACTL, "generate", "-q", "-m", MODEL, "-f", "-", "-n", str(n), "--threads", "1", "--device", device, *how]
    return subprocess.run(args, input=prompt, capture_output=True, timeout=PATIENCE, check=True).stdout


class Service(Running):
    device, computes_as, environment = DEVICE, DEVICE, {}

    def setUp(self):
        super().setUp()
        self.context = zmq.Context()
        self.addCleanup(self.context.term)

    def tearDown(self):
        if os.path.exists(self.path("log")):
            self.assertNotIn("Sanitizer", self.said())
        super().tearDown()

    def serve(self, inputs="", more="", outputs="", models="", **keys):
        text = f"models: {{b: {{path: {MODEL}, device: {self.device}, threads: 1, weights: fp32}}{models}}}\n"
        text += f"inputs: {{{inputs}}}\noutputs: {{{outputs}}}\n" if inputs else ""
        text += "server:\n  control: \"ipc://DIR/control\"\n  generate: \"ipc://DIR/generate\"\n"
        text += "".join(f"  generate_{key}: {value}\n" for key, value in keys.items()) + more
        self.config_path = self.path("c.yaml", text.replace("DIR", self.dir))
        return self.start(self.config_path, env={**os.environ, **self.environment})

    def generate(self, prompt, n, *how):
        return generate(self.computes_as, prompt, n, *how)

    def counts(self, control):
        return self.status(control)["generate"]


class Texts(Service):
    WAYS = ((b"hello", 300, {"seed": 3}), (b"x", 200, {"temperature": 0}), (b"", 50, {"seed": 1}),
            (b"\xff\x00\n" * 400, 100, {"seed": 9, "top_k": 40, "top_p": 0.9}),
            (b"ab", 120, {"temperature": 0.7, "min_p": 0.1, "repetition_penalty": 1.3, "seed": 2**62}))

    def want(self, prompt, n, keys):
        return self.generate(prompt or b"\n", n, *(f"--{key.replace('_', '-')}={value}" for key, value in keys.items()))

    def test_the_bytes_are_those_of_mambactl(self):
        control = self.serve()
        client = Client(self)
        for i, (prompt, n, keys) in enumerate(self.WAYS):
            self.assertEqual(client.text(i, prompt, n=n, **keys), self.want(prompt, n, keys), keys)
            self.assertEqual(client.ends[i], "length")
        counts = self.counts(control)
        self.assertEqual([counts[key] for key in ("running", "requests_total", "ends_total", "bytes_total")],
                         [0, 5, 5, sum(n for _, n, _ in self.WAYS)])
        model = self.status(control)["models"]["b"]
        self.assertEqual((model["slots_used"], model["text_bytes_total"]), (0, counts["bytes_total"]))

    def test_among_others(self):
        self.serve("z: {type: zmq, pattern: pull, bind: \"ipc://DIR/z\", format: bytes, topic: true}",
                   outputs="o: {type: jsonl, path: DIR/out.jsonl}", requests=100, per_client=50)
        push = self.context.socket(zmq.PUSH)
        self.addCleanup(push.close, 0)
        push.connect("ipc://" + self.path("z"))
        clients = [Client(self), Client(self)]
        for client in clients:
            for i in range(40):
                prompt, n, keys = self.WAYS[i % 5]
                client.ask(i, prompt, n=n, **keys)
                push.send_multipart([b"s%d" % (i % 7), b"some line\n" * 50])
        for client in clients:
            client.end(*range(40))
            for i in range(40):
                prompt, n, keys = self.WAYS[i % 5]
                self.assertEqual(client.texts[i], clients[0].texts[i % 5], i)
        for i, way in enumerate(self.WAYS):
            self.assertEqual(clients[0].texts[i], self.want(*way))

    def test_stop_and_cancel(self):
        control = self.serve()
        client = Client(self)
        whole = self.generate(b"hello", 300, "--temperature", "0")
        at = next(i for i in range(20, 300) if all(0 < c < 128 for c in whole[i : i + 2]))
        stop = whole[at : at + 2]
        self.assertEqual(client.text("a", n=300, temperature=0, stop=stop.decode()), whole[: whole.index(stop) + 2])
        self.assertEqual(client.ends["a"], "stop")
        client.ask("b", n=10**6)
        client.take()
        client.cancel("b")
        self.assertEqual(client.end("b"), ["cancel"])
        client.cancel("b")
        client.ends.clear()
        self.assertEqual(client.end("b"), ["there is no text of that id"])
        self.assertEqual(client.text("b", n=20, temperature=0), whole[:20])
        self.wait(lambda: self.status(control)["models"]["b"]["slots_used"] == 0)
        self.assertEqual(self.counts(control)["cancels_total"], 1)

    def test_limits(self):
        control = self.serve(requests=3, per_client=2, prompt="1KiB", bytes=10**9)
        one, two = Client(self), Client(self)
        one.ask(1, n=10**9)
        one.ask(2, n=10**9)
        while not (one.texts[1] and one.texts[2]):
            one.take()
        self.assertIn("n: is more", two.refused("n", n=10**9 + 1))
        self.assertIn("the prompt is longer", two.refused("p", b"x" * 1025))
        two.ask("a", b"x" * 1024, n=10**9)
        while not two.texts["a"]:
            two.take()
        two.ask("b", n=1)
        self.assertIn("generate_requests", two.end("b")[0])
        one.ask(3)
        self.assertIn("generate_per_client", one.end(3)[0])
        one.ends.clear()
        one.socket.send_multipart([b"gen", b'{"id": 1}', b"x"])
        while 1 not in one.ends:
            one.take()
        self.assertIn("of that id already", one.ends.pop(1))
        self.assertEqual(self.counts(control)["running"], 3)
        for client, id in ((one, 1), (one, 2), (two, "a")):
            client.cancel(id)
            client.end(id)
        self.assertEqual(len(two.text("c", n=5)), 5)

    def test_headers(self):
        self.serve()
        client = Client(self)
        for keys, text in (({"n": 0}, "n: must be an integer"), ({"n": "5"}, "n: must be"), ({"n": 1.5}, "n: must be"),
                           ({"temperature": -1}, "temperature: must be"), ({"temperature": True}, "temperature: must"),
                           ({"top_p": 0}, "top_p: "), ({"top_k": 257}, "top_k: "), ({"min_p": 2}, "min_p: "),
                           ({"repetition_penalty": 0}, "repetition_penalty: "), ({"seed": -1}, "seed: "),
                           ({"stop": ""}, "stop: "), ({"stop": "x" * 257}, "stop: "), ({"stop": ["x"]}, "stop: "),
                           ({"model": "c"}, "model: there is no byte model of that id"), ({"frob": 1}, "unknown key 'frob'"), ({"ü" * 99: 1}, "unknown key"), ({"\x01\"" * 9: 1}, "unknown key '\x01\""),
                           ({"stream": "s"}, "stream: there is no such stream")):
            self.assertIn(text, client.refused("i", **keys), keys)
            client.ends.clear()
        self.assertEqual(len(client.text("x" * 64, n=3, model="b")), 3)


class OnDevice(Texts):
    """The same where batches are under way for a while (tests/daemon/fake_device)."""

    device, computes_as, environment = "cuda", "cpu", {"LD_LIBRARY_PATH": FAKE}

    def test_a_device_that_fails(self):
        self.environment = {**self.environment, "FAKE_DEVICE_FAIL_AT": "20"}
        control = self.serve()
        client = Client(self)
        for id in range(3):
            client.ask(id, n=10**5)
        self.assertEqual(client.end(0, 1, 2), ["the device failed"] * 3)
        self.wait(lambda: self.counts(control)["errors_total"] == 3)
        self.assertEqual(self.status(control)["models"]["b"]["slots_used"], 0)
        client.ask(3, n=20)
        self.assertEqual(client.end(3), ["the device failed"])


class BesideAHungDevice(Service):
    device, environment = "cpu", {"LD_LIBRARY_PATH": FAKE, "FAKE_DEVICE_HANG_AT": "1"}  # the other model's is that

    def test_a_state_is_waited_for(self):
        """mambactl snapshot --stream waits for a device that hangs, for seconds; a text of another model does not."""
        control = self.serve("z: {type: zmq, pattern: pull, bind: \"ipc://DIR/z\", model: h}",
                             outputs="o: {type: jsonl, path: DIR/out.jsonl}",
                             models=f", h: {{path: {self.model}, device: cuda}}")
        push = self.context.socket(zmq.PUSH)
        self.addCleanup(push.close, 0)
        push.connect("ipc://" + self.path("z"))
        push.send_multipart([b'{"stream": "s", "dtype": "float32", "shape": [16]}', bytes(64)])
        self.wait(lambda: self.status(control)["models"]["h"]["batches_total"] >= 1)
        asking = subprocess.Popen([MAMBACTL, "snapshot", "--stream", "s", "-o", self.path("s"), "--control", control],
                                  stderr=subprocess.PIPE, text=True)
        time.sleep(1)
        self.assertEqual(len(Client(self).text("t", n=10)), 10)
        time.sleep(0.5)  # if both were answered at once
        self.assertIsNone(asking.poll(), "the text came while the state was waited for")
        self.assertIn("no answer: the device or an output hangs", asking.communicate(timeout=PATIENCE)[1])
        self.assertEqual(asking.returncode, 69)


class Forks(Service):
    PIECES = [bytes(random.Random(5).choices(b"abcdefg \n", k=n)) for n in (1, 700, 64, 1, 300, 2500)]

    def stream(self, forks):
        """What the outputs hold of a stream, and the texts that went on from it behind each piece."""
        control = self.serve("s: {type: zmq, pattern: pull, bind: \"ipc://DIR/z\", format: bytes}",
                             outputs="o: {type: jsonl, path: DIR/out.jsonl, families: [prediction, surprise, anomaly]}",
                             more="streams: {\"*\": {publish: {prediction: {every: 1}, surprise: true}}}\n")
        push = self.context.socket(zmq.PUSH)
        self.addCleanup(push.close, 0)
        push.connect("ipc://" + self.path("z"))
        client, sent, texts = Client(self), b"", []
        for piece in self.PIECES:
            push.send(piece)
            sent += piece
            self.wait(lambda: any(s["rows"] == len(sent) for s in self.rows(control)))
            if forks:
                client.ask(0, b"then", n=60, stream="s", seed=4)
                client.ask(1, b"x", n=60, stream="s", temperature=0, model="b")
                client.ask(2, b"", n=60, stream="s", temperature=0)
                client.ask(3, b"", n=1, stream="s", temperature=0)
                client.end(0, 1, 2, 3)
                texts.append((sent, *(client.texts[i] for i in range(4))))
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        with open(self.path("out.jsonl")) as out:
            lines = [json.loads(line) for line in out]
        os.remove(self.path("out.jsonl"))
        families = {}
        for line in lines:
            families.setdefault(line["topic"], []).extend(line["data"])
        return families, texts

    def rows(self, control):
        return json.loads(run(MAMBACTL, "streams", "--control", control, "--json").stdout)

    def test_a_fork_leaves_no_trace(self):
        alone, _ = self.stream(False)
        forked, texts = self.stream(True)
        self.assertEqual(sum(map(len, self.PIECES)), len(alone["surprise/s/"]))
        self.assertEqual(alone, forked)
        for sent, drawn, greedy, next_ones, next_one in texts:
            self.assertEqual(next_ones, self.generate(sent, 60, "--temperature", "0"))
            self.assertEqual(next_one, next_ones[:1])
            self.assertEqual(drawn, self.generate(sent + b"then", 60, "--seed", "4"))
            self.assertEqual(greedy, self.generate(sent + b"x", 60, "--temperature", "0"))


class ForksOnDevice(Forks):
    device, computes_as, environment = OnDevice.device, OnDevice.computes_as, OnDevice.environment


class Clients(Service):
    def test_one_that_does_not_read_holds_up_nobody(self):
        control = self.serve(bytes=10**9)
        slow, quick = Client(self, rcvhwm=1), Client(self)
        n = 3_000_000
        slow.ask(0, n=n, temperature=0)
        last = -1
        while (made := self.status(control)["models"]["b"]["text_bytes_total"]) != last:  # it has come to rest
            last = made
            time.sleep(1)
        self.assertLess(made, n)
        for i in range(5):
            self.assertEqual(len(quick.text(i, n=500)), 500)
        with open(f"/proc/{self.daemon.pid}/stat") as f:
            before = sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        time.sleep(1)
        with open(f"/proc/{self.daemon.pid}/stat") as f:
            after = sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        self.assertLess(after - before, 20, "a text that waits for its client costs next to nothing")
        while len(slow.texts[0]) < 200_000:
            slow.take()
        slow.cancel(0)
        self.assertEqual(slow.end(0), ["cancel"])
        self.assertEqual(slow.texts[0][:5000], self.generate(b"hello", 5000, "--temperature", "0"))

    def test_one_that_goes_away(self):
        control = self.serve(bytes=10**9)
        client = Client(self)
        client.ask(0, n=10**9)
        client.take()
        client.socket.close()
        self.wait(lambda: self.counts(control)["running"] == 0)
        self.wait(lambda: self.status(control)["models"]["b"]["slots_used"] == 0)
        self.assertEqual(self.counts(control)["gone_total"], 1)

    def test_hostile_messages(self):
        control = self.serve()
        chance = random.Random(11)
        good = [[b"gen", b'{"id":"a","n":3}', b"x"], [b"cancel", b'{"id":"a"}'], [b"gen", b"[" * 5000, b""],
                [b"gen", b'{"id":' + b"9" * 400 + b"}", b""], [b"gen", b'{"id":"\\ud800"}', b""], [b""], [b"", b"", b""],
                [b"gen"], [b"gen", b"{}"], [b"gen", b"{}", b"x"], [b"gen", b'{"id":null}', b"x"], [b"gen"] * 20,
                [b"gen", b'{"id":{}}', b""], [b"gen", b'{"id":1,"id":2}', b""], [b"gen", b"x" * 20000, b""],
                [b"data", b'{"id":1,"seq":0}', b"x"], [b"cancel", b"{}"], [b"cancel", b"", b""]]
        client = Client(self)
        for frames in good:
            client.socket.send_multipart(frames)
        for _ in range(600):
            frames = [bytearray(frame) for frame in chance.choice(good)]
            for _ in range(chance.randrange(4)):
                frame = chance.choice(frames)
                if frame:
                    frame[chance.randrange(len(frame))] = chance.randrange(256)
            if chance.random() < 0.2:
                frames = frames[: chance.randrange(1, len(frames) + 1)] + [chance.randbytes(chance.randrange(50))]
            client.socket.send_multipart(frames)
        other = Client(self)
        self.assertEqual(other.text(1, n=100, temperature=0), self.generate(b"hello", 100, "--temperature", "0"))
        # this reply comes behind all others of the connection
        client.socket.send_multipart([b"cancel", b'{"id":"the last"}'])
        while json.loads(client.socket.recv_multipart()[1]).get("id") != "the last":
            pass
        counts = self.counts(control)
        self.assertGreater(counts["malformed_total"], 50)
        self.assertGreater(counts["refused_total"], 50)
        too_long = Client(self)
        too_long.socket.send_multipart([b"gen", b'{"id":1}', b"x" * (1 << 21)])  # ends the connection, not the daemon
        self.assertEqual(len(other.text(2, n=10)), 10)
        self.wait(lambda: self.counts(control)["running"] == 0)


class Ends(Service):
    def under_way(self):
        client = Client(self)
        for i in range(3):
            client.ask(i, n=10**6)
        while not all(client.texts.values()):
            client.take()
        return client

    def test_shutdown(self):
        self.serve(more="  shutdown_timeout: 20s\n")
        self.assertEqual(stat.S_IMODE(os.stat(self.path("generate")).st_mode), 0o600)
        client = self.under_way()
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(client.end(0, 1, 2), ["shutdown"] * 3)
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        self.assertFalse(os.path.exists(self.path("generate")))

    def test_reload(self):
        control = self.serve()
        client = self.under_way()
        self.check(run(MAMBACTL, "reload", "--control", control), 0)
        self.assertEqual(client.end(0, 1, 2), ["reload"] * 3)
        self.assertEqual(client.text(0, n=30, temperature=0), self.generate(b"hello", 30, "--temperature", "0"))
        with open(self.config_path, "a") as f:
            f.write("  generate_requests: 7\n")
        self.check(run(MAMBACTL, "reload", "--control", control), 78, "server.generate: ")
        self.assertEqual(len(client.text(1, n=30)), 30)

    def test_a_reload_exchanges_the_model(self):
        control = self.serve()
        client = self.under_way()
        with open(self.config_path) as f:
            text = f.read()
        self.path("c.yaml", text.replace("weights: fp32", "weights: bf16"))
        self.check(run(MAMBACTL, "reload", "--control", control), 0)
        self.assertEqual(client.end(0, 1, 2), ["reload"] * 3)
        want = self.generate(b"hello", 90, "--temperature", "0", "--weights", "bf16")
        self.assertEqual(client.text(0, n=90, temperature=0), want)
        self.assertNotEqual(want, self.generate(b"hello", 90, "--temperature", "0"))
        self.path("c.yaml", text.replace("models: {b:", f"models: {{c: {{path: {MODEL}, device: cpu, weights: fp32}}, b:"))
        self.check(run(MAMBACTL, "reload", "--control", control), 0)
        self.assertIn("model: has to be named", client.refused(1))
        self.assertEqual(client.text(2, n=9, model="c", temperature=0), generate("cpu", b"hello", 9, "--temperature", "0"))
        self.path("c.yaml", text.replace(MODEL, self.model))
        self.check(run(MAMBACTL, "reload", "--control", control), 78, "no model is one of bytes")
        self.assertEqual(len(client.text(3, n=9, model="b")), 9)

    def test_a_model_of_samples_becomes_one_of_bytes(self):
        """Its input is opened anew, which takes bytes only; a stream that ended before has records when it returns."""
        text = (f"models: {{c: {{path: {self.model}, device: cpu, threads: 1}}}}\n"
                "inputs: {s: {type: zmq, pattern: pull, bind: \"ipc://DIR/z\", rate: 100}}\n"
                "outputs: {o: {type: jsonl, path: DIR/out.jsonl}}\n"
                "server: {control: \"ipc://DIR/control\"}\n").replace("DIR", self.dir)
        control = self.start(self.path("c.yaml", text))
        push = self.context.socket(zmq.PUSH)
        self.addCleanup(push.close, 0)
        push.connect("ipc://" + self.path("z"))

        def send(stream, dtype, values, *flags):
            push.send_json({"stream": stream, "dtype": dtype, "shape": [len(values)], "flags": flags}, zmq.SNDMORE)
            push.send(values if dtype == "uint8" else struct.pack(f"<{len(values)}f", *values))

        def taken(n):
            self.wait(lambda: self.status(control)["inputs"]["s"]["accepted_samples_total"] == n)

        send("ended", "float32", [1.0] * 40, "end")
        send("live", "float32", [1.0] * 40)
        taken(80)
        self.path("c.yaml", text.replace(self.model, MODEL))
        self.check(run(MAMBACTL, "reload", "--control", control), 0)
        for stream in "ended", "live":
            send(stream, "float32", [1.0] * 4)
            send(stream, "uint8", b"one\ntwo\n")
        taken(16)
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        with open(self.path("out.jsonl")) as out:
            lines = [json.loads(line) for line in out]
        for stream in "ended", "live":
            self.assertEqual([m["shape"] for m in lines if m["topic"] == f"anomaly/{stream}/" and m["epoch"] == 1], [[2, 3]])

    def test_the_socket_is_taken(self):
        self.serve()
        with open(self.config_path) as f:
            other = self.path("d.yaml", f.read().replace("/control", "/other"))
        self.check(run(MAMBAD, "-c", other), 69, "generation socket DIR/generate: another process serves it")
        self.daemon.kill()
        self.daemon.wait(PATIENCE)
        self.start(self.config_path)  # the file that it left is replaced
        self.assertEqual(len(Client(self).text(0, n=3)), 3)

    def test_no_byte_model(self):
        config = self.config(more="server: {generate: \"ipc://DIR/generate\"}")
        self.check(run(MAMBAD, "-c", config, "--check"), 78, "server.generate: no model is one of bytes")
        self.check(run(MAMBAD, "-c", config), 78, "server.generate: no model is one of bytes")


class Mambactl(Service):
    """`mambactl generate --connect`."""

    def connect(self, *args, **more):
        return subprocess.run([MAMBACTL, "generate", "--connect", "ipc://" + self.path("generate"), *args],
                              capture_output=True, timeout=PATIENCE, **more)

    def test_it_gives_what_it_gives_alone(self):
        self.serve()
        how = ("--seed", "5", "--temperature", "0.7", "--top-k", "30", "--min-p", "0.01", "--repetition-penalty", "1.1")
        done = self.connect("-p", "hello", "-n", "200", *how)
        self.assertEqual((done.returncode, done.stdout), (0, self.generate(b"hello", 200, *how)))
        self.assertRegex(done.stderr, rb"200 bytes in .* bytes/s; .*ipc://")
        doc = json.loads(self.connect("-m", "b", "-p", "x", "-n", "30", "--temperature", "0", "--json", "-q").stdout)
        self.assertEqual(bytes.fromhex(doc["samples"][0]["hex"]), self.generate(b"x", 30, "--temperature", "0"))
        self.assertEqual(doc["samples"][0]["reason"], "length")

    def test_what_cannot_be(self):
        self.serve(bytes=10**9)
        for args, code, text in ((("--stream", "s"), 69, b"stream: there is no such stream"),
                                 (("-m", "c"), 69, b"model: there is no byte model of that id"),
                                 (("--state", "f"), 64, b"--connect: not with"), (("--samples", "2"), 64, b"--connect: not")):
            done = self.connect("-p", "x", *args)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(text, done.stderr)
        self.check(run(MAMBACTL, "generate", "-m", MODEL, "--stream", "s"), 64, "--stream needs --connect")
        self.check(run(MAMBACTL, "generate", "--connect", "ipc://DIR/nobody".replace("DIR", self.dir)), 69, "nobody answers")

    def test_an_interrupt_and_a_death(self):
        control = self.serve(bytes=10**9)
        for end, code in ((lambda child: child.send_signal(signal.SIGINT), 0), (lambda child: self.daemon.kill(), 69)):
            child = subprocess.Popen([MAMBACTL, "generate", "--connect", "ipc://" + self.path("generate"), "-n", "100000000"],
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            child.stdout.read(100)
            end(child)
            _, said = child.communicate(timeout=PATIENCE)
            self.assertEqual(child.returncode, code, said)
            if code == 0:
                self.wait(lambda: self.counts(control)["running"] == 0)
        self.assertIn(b"the daemon went away", said)


@unittest.skipUnless(zmq.has("curve"), "this libzmq has no CURVE")
class Curve(Service):
    def test_only_whose_key_is_listed(self):
        for name in ("server", "friend"):
            self.check(run(MAMBACTL, "keygen", self.path(name)), 0)
        with open(self.path("friend.pub")) as f:
            self.path("clients", f.read())
        port = free_port()
        text = (f"models: {{b: {{path: {MODEL}, device: cpu}}}}\nserver: {{control: \"ipc://DIR/control\", "
                f"generate: \"tcp://127.0.0.1:{port}\", generate_curve_key: DIR/server.key, generate_curve_clients: DIR/clients}}\n")
        config = self.path("c.yaml", text.replace("DIR", self.dir))
        self.check(run(MAMBAD, "-c", config, "--check"), 0)
        self.start(config)
        keys = {}
        for name in ("server.pub", "friend.pub", "friend.key"):
            with open(self.path(name)) as f:
                keys[name] = f.read().split()[-1].encode()
        endpoint = f"tcp://127.0.0.1:{port}"
        stranger_public, stranger_secret = zmq.curve_keypair()
        stranger = Client(self, endpoint, curve_serverkey=keys["server.pub"], curve_publickey=stranger_public,
                          curve_secretkey=stranger_secret, rcvtimeo=500)
        stranger.ask(0, n=3)
        plain = Client(self, endpoint, rcvtimeo=500)
        plain.ask(0, n=3)
        friend = Client(self, endpoint, curve_serverkey=keys["server.pub"], curve_publickey=keys["friend.pub"],
                        curve_secretkey=keys["friend.key"])
        self.assertEqual(len(friend.text(0, n=30)), 30)
        for client in (stranger, plain):
            self.assertRaises(zmq.Again, client.take)
        refused = lambda why: self.counts(self.path("control"))["peers_refused_total"][why]
        # libzmq tells of who does not speak CURVE one way or the other: who hangs up first
        self.wait(lambda: refused("key") == 1 and refused("protocol") + refused("handshake") > 0)
        self.path("clients", "not a key\n")
        self.check(run(MAMBAD, "-c", config, "--check"), 78, "server.generate: ", "clients")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
