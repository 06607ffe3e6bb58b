#!/usr/bin/python3
"""CURVE with the real mambad and mambactl and with pyzmq as peer: who has the right keys is let in, everybody else is
refused and counted, key files that are open to others are not taken.   test_curve.py MAMBAD MAMBACTL"""
import json
import os
import socket
import stat
import subprocess
import sys
import unittest

import zmq

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import MAMBACTL, MAMBAD, PATIENCE, Case, Running, free_port, run  # noqa: E402

if not zmq.has("curve"):
    sys.exit(77)


class Keygen(Case):
    def test_a_pair(self):
        self.check(run(MAMBACTL, "keygen", self.path("a")), 0, "DIR/a.key", "DIR/a.pub")
        self.assertEqual(stat.S_IMODE(os.stat(self.path("a.key")).st_mode), 0o600)
        with open(self.path("a.key")) as secret, open(self.path("a.pub")) as public:
            self.assertEqual(zmq.curve_public(secret.read().strip().encode()), public.read().strip().encode())

    def test_json(self):
        said = run(MAMBACTL, "keygen", self.path("a"), "--json")
        self.check(said, 0)
        with open(self.path("a.pub")) as public:
            self.assertEqual(json.loads(said.stdout), {"secret": self.path("a.key"), "public": self.path("a.pub"),
                                                       "key": public.read().strip()})

    def test_nothing_is_overwritten(self):
        for there, other in (("a.key", "a.pub"), ("b.pub", "b.key")):
            self.path(there, "precious")
            self.check(run(MAMBACTL, "keygen", self.path(there[0])), 74, there, "is there and is not overwritten")
            with open(self.path(there)) as f:
                self.assertEqual(f.read(), "precious")
            self.assertFalse(os.path.exists(self.path(other)), "no half pair")

    def test_usage(self):
        for args in ([], ["a", "b"], ["--frob", "a"]):
            self.check(run(MAMBACTL, "keygen", *args), 64, "usage: mambactl keygen")
        self.check(run(MAMBACTL, "keygen", self.path("no/a")), 74, "No such file or directory")


class KeyFiles(Case):
    """What is wrong with a key file is said with its name, by --check too, and ends with 78."""

    def setUp(self):
        super().setUp()
        self.check(run(MAMBACTL, "keygen", self.path("s")), 0)
        self.path("clients", "# nobody yet\n\n")
        self.wav("a.wav", 100)

    def wrong(self, keys, *texts):
        config = self.config("i: {type: audio, files: DIR/a.wav}", f"o: {{type: zmq, bind: \"tcp://127.0.0.1:{free_port()}\", {keys}}}")
        self.check(run(MAMBAD, "-c", config, "--check"), 78, "c.yaml:3:", "outputs.o: ", *texts)
        self.check(run(MAMBAD, "-c", config, "--once"), 78, "output o", *texts)

    def test_mode(self):
        for mode in (0o640, 0o604, 0o660):
            os.chmod(self.path("s.key"), mode)
            self.wrong("curve_key: DIR/s.key, curve_clients: DIR/clients", "DIR/s.key: ", "its mode must be 0600")
        os.chmod(self.path("s.key"), 0o400)
        self.check(run(MAMBAD, "-c", self.config("i: {type: audio, files: DIR/a.wav}",
                                                 f"o: {{type: zmq, bind: \"tcp://127.0.0.1:{free_port()}\", curve_key: DIR/s.key, curve_clients: DIR/clients}}"), "--once"), 0)

    def test_content(self):
        self.wrong("curve_key: DIR/none.key, curve_clients: DIR/clients", "DIR/none.key: No such file or directory")
        self.wrong("curve_key: DIR, curve_clients: DIR/clients", "DIR: is not a file")
        self.wrong("curve_key: DIR/s.key, curve_clients: DIR/none", "DIR/none: No such file or directory")
        self.path("clients", "# one\nabc\n")
        self.wrong("curve_key: DIR/s.key, curve_clients: DIR/clients", "DIR/clients:2: is not a key")
        self.path("clients", "x" * 10000)
        self.wrong("curve_key: DIR/s.key, curve_clients: DIR/clients", "DIR/clients:1: the line is too long")
        for content, text in (("", ": holds no key"), ("a" * 40 + "\n" + "b" * 40, ":2: a second key"), ("\"" * 40, ":1: is not a key")):
            os.chmod(self.path("s.key", content), 0o600)
            self.wrong("curve_key: DIR/s.key, curve_clients: DIR/clients", "DIR/s.key" + text)


class Sockets(Running):
    def setUp(self):
        super().setUp()
        for name in ("server", "good", "bad", "other"):
            self.check(run(MAMBACTL, "keygen", self.path(name)), 0)
        self.allow("good")
        self.context = zmq.Context()
        self.addCleanup(self.context.destroy, 0)
        self.port, self.out = free_port(), free_port()

    def key(self, name, kind):
        with open(self.path(f"{name}.{kind}")) as f:
            return f.read().strip().encode()

    def allow(self, *names):
        self.path("clients", "# who may\n" + "".join(f"{self.key(n, 'pub').decode()} {n}\n" for n in names))

    def serve(self, inputs=None, outputs=None):
        curve = "curve_key: DIR/server.key, curve_clients: DIR/clients"
        return self.start(self.config(inputs or f"i: {{type: zmq, pattern: pull, bind: \"tcp://127.0.0.1:{self.port}\", {curve}}}",
                                      outputs or f"o: {{type: zmq, bind: \"tcp://127.0.0.1:{self.out}\", {curve}}}",
                                      more="server: {control: \"ipc://DIR/control\"}"))

    def peer(self, kind, port, name, server="server"):
        s = self.context.socket(kind)
        self.addCleanup(s.close)
        s.linger = 0
        s.immediate = True
        s.sndtimeo = s.rcvtimeo = PATIENCE * 1000
        if name:
            s.curve_secretkey, s.curve_publickey = self.key(name, "key"), self.key(name, "pub")
            s.curve_serverkey = self.key(server, "pub")
        s.connect(f"tcp://127.0.0.1:{port}")
        return s

    def refused(self, control, section, name):
        return self.status(control)[section][name]["peers_refused_total"]

    def push(self, s, stream):
        s.send_json({"stream": stream, "dtype": "float32", "shape": [8]}, zmq.SNDMORE)
        s.send(bytes(32))

    def test_only_the_right_key(self):
        control = self.serve()
        good = self.peer(zmq.PUSH, self.port, "good")
        self.push(good, "s")
        self.wait(lambda: self.status(control)["inputs"]["i"]["accepted_samples_total"] == 8)
        self.assertEqual(self.refused(control, "inputs", "i"), {"key": 0, "protocol": 0, "handshake": 0})
        strangers = [self.peer(zmq.PUSH, self.port, "bad"), self.peer(zmq.PUSH, self.port, "good", "other"), self.peer(zmq.PUSH, self.port, None)]
        self.wait(lambda: self.refused(control, "inputs", "i")["key"] >= 1 and self.refused(control, "inputs", "i")["protocol"] >= 1)
        handshakes = self.refused(control, "inputs", "i")["handshake"]
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            s.send(b"\xff\0\0")
        self.wait(lambda: self.refused(control, "inputs", "i")["handshake"] > handshakes)
        for s in strangers:
            self.assertEqual(s.poll(0, zmq.POLLOUT), 0, "not connected")
        self.push(good, "s")
        self.wait(lambda: self.status(control)["inputs"]["i"]["accepted_samples_total"] == 16)
        self.assertEqual(self.status(control)["inputs"]["i"]["input_messages_total"], 2)
        said = self.said()
        self.assertIn("127.0.0.1: key " + self.key("bad", "pub").decode() + " is not in " + self.path("clients"), said.replace("\\/", "/"))
        self.assertNotIn(self.key("server", "key").decode(), said)

    def test_the_list_is_read_anew(self):
        control = self.serve()
        self.allow("good", "other")
        self.push(self.peer(zmq.PUSH, self.port, "other"), "s")
        self.wait(lambda: self.status(control)["inputs"]["i"]["accepted_samples_total"] == 8)
        os.remove(self.path("clients"))
        good = self.peer(zmq.PUSH, self.port, "good")
        self.wait(lambda: self.refused(control, "inputs", "i")["key"] >= 1)
        self.assertEqual(good.poll(0, zmq.POLLOUT), 0)

    def test_subscribers(self):
        control = self.serve()
        strangers = [self.peer(zmq.SUB, self.out, "bad"), self.peer(zmq.SUB, self.out, None)]
        for sub in strangers:
            sub.subscribe(b"")

        def both():  # whichever end sees first that one of them speaks no CURVE hangs up
            refused = self.refused(control, "outputs", "o")
            return refused["key"] >= 1 and refused["protocol"] + refused["handshake"] >= 1
        self.wait(both)
        good = self.peer(zmq.SUB, self.out, "good")
        good.subscribe(b"sys/")
        self.assertEqual(good.recv_multipart()[0], b"sys/heartbeat/")
        for sub in strangers:
            self.assertEqual(sub.poll(100), 0, "a stranger hears nothing")

    def test_the_daemon_as_client(self):
        pub = self.context.socket(zmq.PUB)
        self.addCleanup(pub.close)
        pub.linger = 0
        pub.curve_server = True
        pub.curve_secretkey = self.key("server", "key")
        port = pub.bind_to_random_port("tcp://127.0.0.1")
        sub = f"type: zmq, pattern: sub, connect: \"tcp://127.0.0.1:{port}\", curve_key: DIR/good.key, curve_server: "
        control = self.serve(f"i: {{{sub} DIR/server.pub}}, j: {{{sub} DIR/other.pub}}", "o: {type: jsonl, path: DIR/out.jsonl}")

        def arrives():
            pub.send_multipart([b"s", json.dumps({"stream": "s", "dtype": "float32", "shape": [8]}).encode(), bytes(32)])
            return self.status(control)["inputs"]["i"]["accepted_samples_total"] >= 8
        self.wait(arrives)
        self.wait(lambda: self.refused(control, "inputs", "j")["handshake"] >= 1)
        self.assertEqual(self.status(control)["inputs"]["j"]["input_messages_total"], 0)

    def test_feed_and_tail(self):
        control = self.serve()
        address, curve = f"tcp://127.0.0.1:{self.port}", ["--key", self.path("good.key"), "--server-key", self.path("server.pub")]
        bad = ["--key", self.path("bad.key"), "--server-key", self.path("server.pub")]
        wav = self.wav("a.wav", 4000)
        self.check(run(MAMBACTL, "feed", "--connect", address, "--wait", "0.5", wav), 69, "no peer takes messages")
        self.check(run(MAMBACTL, "feed", "--connect", address, "--wait", "0.5", *bad, wav), 69, "no peer takes messages")
        self.check(run(MAMBACTL, "feed", "--connect", address, *curve, wav), 0)
        self.wait(lambda: self.status(control)["inputs"]["i"]["accepted_samples_total"] == 4000)
        address = f"tcp://127.0.0.1:{self.out}"
        said = run(MAMBACTL, "tail", address, "--count", "1", "--family", "sys", *curve)
        self.check(said, 0)
        self.assertEqual(json.loads(said.stdout)["topic"], "sys/heartbeat/")
        self.check(run(MAMBACTL, "tail", address, "--for", "6s", *bad), 69, "does not let this key in")
        self.check(run(MAMBACTL, "tail", address, "--key", self.path("good.key")), 64, "go together")
        self.check(run(MAMBACTL, "feed", "--connect", address, "--key", self.path("good.key"), wav), 64, "needs --key and --server-key")
        os.chmod(self.path("good.key"), 0o644)
        self.check(run(MAMBACTL, "feed", "--connect", address, *curve, wav), 78, "mode must be 0600")
        self.check(run(MAMBACTL, "tail", address, *curve), 78, "mode must be 0600")

    def test_reliable_senders(self):
        """Router and CURVE together: what a daemon that was killed had not made durable comes again, from who is let in."""
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
        try:
            from reliable_client import ReliableSender
        except ImportError:
            self.skipTest("no numpy")
        more = "state: {dir: DIR/state, interval: 1h}\nserver: {control: \"ipc://DIR/control\"}"
        config = self.config(f"i: {{type: zmq, pattern: router, bind: \"tcp://127.0.0.1:{self.port}\", curve_key: DIR/server.key, curve_clients: DIR/clients}}",
                             "o: {type: jsonl, path: DIR/out.jsonl, families: [anomaly, event]}", more=more)
        control, address = self.start(config), f"tcp://127.0.0.1:{self.port}"
        curve = [self.key("good", "key"), self.key("good", "pub"), self.key("server", "pub")]
        feed = subprocess.Popen([MAMBACTL, "feed", "--reliable", "--connect", address, "--key", self.path("good.key"),
                                 "--server-key", self.path("server.pub"), "--stream", "a", self.wav("a.wav", 4000)], stderr=subprocess.PIPE, text=True)
        self.addCleanup(feed.kill)
        sender = ReliableSender(address, "python", curve=curve, rate=8000)
        for k in range(100):
            sender.send([k % 7] * 40)
        self.pump(sender, lambda: self.status(control)["inputs"]["i"]["accepted_samples_total"] == 8000)
        stranger = self.peer(zmq.DEALER, self.port, "bad")
        self.wait(lambda: self.refused(control, "inputs", "i")["key"] >= 1)
        self.assertEqual(stranger.poll(0, zmq.POLLOUT), 0, "not connected")
        self.assertEqual((sender.durable, feed.poll()), (0, None), "nothing is durable yet")
        self.daemon.kill()
        self.daemon.wait(PATIENCE)
        self.start(config)
        self.pump(sender, lambda: self.status(control)["inputs"]["i"]["accepted_samples_total"] == 8000)
        while feed.poll() is None or sender.durable < 4000:
            self.check(run(MAMBACTL, "snapshot", "--control", control), 0)
            self.pump(sender, lambda: True)
        self.assertEqual(feed.wait(PATIENCE), 0, feed.stderr.read())
        feed.stderr.close()
        self.daemon.terminate()
        self.assertEqual(self.daemon.wait(PATIENCE), 0)
        with open(self.path("out.jsonl")) as f:
            lines = [json.loads(line) for line in f]
        for stream in ("python", "a"):
            rows = [m["seq"] + k for m in lines if m["topic"] == f"anomaly/{stream}/" for k in range(len(m["data"]))]
            self.assertEqual(rows, list(range(4000)), stream)
        self.assertEqual({m["stream"] for m in lines}, {"python", "a"})

    def pump(self, sender, condition):
        def heard():
            sender.pump()
            return condition()
        self.wait(heard)

    def test_feed_that_binds(self):
        sub = f"type: zmq, pattern: sub, connect: \"tcp://127.0.0.1:{self.port}\", curve_key: DIR/good.key, curve_server: DIR/server.pub"
        control = self.serve(f"i: {{{sub}}}", "o: {type: jsonl, path: DIR/out.jsonl}")
        self.check(run(MAMBACTL, "feed", "--bind", f"tcp://127.0.0.1:{self.port}", "--pattern", "pub", "--wait", str(PATIENCE),
                       "--key", self.path("server.key"), "--clients", self.path("clients"), self.wav("a.wav", 4000)), 0)
        self.wait(lambda: self.status(control)["inputs"]["i"]["accepted_samples_total"] == 4000)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=1)
