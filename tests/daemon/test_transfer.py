#!/usr/bin/python3
"""One stream's state out of a real mambad and into another: moved, forked, begun with, refused.
test_transfer.py MAMBAD MAMBACTL"""
import json
import os
import random
import struct
import sys
import unittest

import zmq

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import signal_model  # noqa: E402
from cases import MAMBACTL, run  # noqa: E402
from daemons import Several  # noqa: E402


class Transfer(Several):
    def setUp(self):
        super().setUp()
        chance = random.Random(5)
        self.data = [(chance.gauss(1, 2), chance.gauss(-3, 1)) for _ in range(1200)]

    def whole(self):
        """An undisturbed run over all of the data."""
        d = self.daemon("whole")
        d.push("s", self.data)
        d.stop()
        return d.rows("s")

    def save(self, d, stream="s", name="state"):
        path = self.path(name)
        self.check(d.ctl("snapshot", "--stream", stream, "-o", path), 0, path)
        self.assertFalse(os.path.exists(path + ".part"))
        return path

    def joined(self, a, b):
        return {family: a.get(family, []) + b.get(family, []) for family in set(a) | set(b)}

    def test_moved_and_forked(self):
        """Half here, half there: the rows are those of a run that nothing disturbed, by every way that the state can go."""
        whole, half = self.whole(), 599  # inside a patch
        a = self.daemon("a", more="state: {dir: DIR/state}")
        a.push("s", self.data[:half])
        a.push("other", self.data[100:300])
        state = self.save(a)
        a.stop()
        first = a.rows("s")
        b = self.daemon("b")
        self.check(b.ctl("restore", state), 0, "s waits for its source")
        self.check(b.ctl("restore", state, "--as", "fork/ä"), 0, "fork/ä waits")
        seen = {s: (v["state"], v["next_seq"], v["p_value"]) for s, v in b.streams().items()}
        self.assertEqual(seen, {"s": ("waiting", half, None), "fork/ä": ("waiting", half, None)})
        snapshot, = (p for p in os.listdir(a.dir + "/state") if p.endswith("2"))
        folder = os.path.join(a.dir, "state", snapshot)
        self.check(b.ctl("restore", folder), 64, "holds several streams")
        self.check(b.ctl("restore", folder, "--stream", "nobody"), 66, "holds no stream nobody")
        self.check(b.ctl("restore", folder, "--stream", "s", "--as", "third"), 0, "third waits")
        b.push("other", self.data[:50])
        for stream in ("s", "fork/ä", "third"):
            b.push(stream, self.data[half:])
        self.check(b.ctl("restore", state), 69, "s: is live")
        b.stop()
        for stream in ("s", "fork/ä", "third"):
            with self.subTest(stream):
                self.assertEqual(self.joined(first, b.rows(stream)), whole)
                self.assertEqual(b.events(stream)[0], "restore")

    def test_while_rows_come(self):
        """A busy stream is copied between two batches, and does not notice."""
        a, b = self.daemon("a"), self.daemon("b")
        header = {"stream": "s", "dtype": "float32", "shape": [1, 2]}
        whole, states = self.whole(), []
        for i, row in enumerate(self.data):
            a.socket.send_json(header, zmq.SNDMORE)
            a.socket.send(struct.pack("<2f", *row))
            if i % 300 == 150:
                a.wait(lambda: "s" in a.streams() and a.streams()["s"]["rows"] >= 4)  # a patch: it has rows out
                states.append(self.save(a, name=f"state-{i}"))
        a.wait(lambda: a.streams()["s"]["rows"] == len(self.data))
        a.stop()
        self.assertEqual(a.rows("s"), whole)
        for n, state in enumerate(states):
            doc = json.loads(run(MAMBACTL, "inspect", state, "--json").stdout)
            at, numbers = doc["streams"][0]["next_seq"], doc["streams"][0]["out_seq"]
            self.check(b.ctl("restore", state, "--as", f"s{n}"), 0)
            b.push(f"s{n}", self.data[at:])
            b.wait(lambda: len(b.rows(f"s{n}").get("anomaly", ())) + numbers["anomaly"] == len(whole["anomaly"]))
            for family, rows in b.rows(f"s{n}").items():
                self.assertEqual(rows, whole[family][numbers[family]:])

    def test_again_after_a_restart(self):
        """A state that was put in and has not begun is in the next snapshot."""
        whole = self.whole()
        a = self.daemon("a")
        a.push("s", self.data[:500])
        state = self.save(a)
        a.stop()
        b = self.daemon("b", more="state: {dir: DIR/state}")
        self.check(b.ctl("restore", state), 0)
        b.stop()
        b = self.daemon("b", more="state: {dir: DIR/state}")
        b.push("s", self.data[500:])
        b.stop()
        self.assertEqual(self.joined(a.rows("s"), b.rows("s")), whole)

    def test_a_reset_that_is_still_to_come(self):
        """Asked for behind the last rows, it is in the snapshot, and in the state that is taken out."""
        for how in ("reset", None):
            a = self.daemon(f"a-{how}", more="state: {dir: DIR/state}")
            a.push("s", self.data[:500])
            if how:
                self.check(a.ctl("reset", "s"), 0)
            state = self.save(a, name=f"state-{how}")
            a.stop()
            self.check(a.ctl("status"), 69)
            b = self.daemon(f"a-{how}", more="state: {dir: DIR/state}")
            self.check(b.ctl("restore", state, "--as", "fork"), 0)
            for stream in ("s", "fork"):
                b.push(stream, self.data[500:600])
                b.push(stream, self.data[600:])
            b.stop()
            for stream in ("s", "fork"):
                found = [(m["event"], m["epoch"], m.get("reason")) for m in b.lines(stream) if m.get("event") in ("restore", "reset")]
                self.assertEqual(found, [("restore", 1, None), ("reset", 1, "sender")] if how else [("restore", 0, None)])

    def test_a_reset_before_rows_that_wait(self):
        """It comes before rows that are queued already: here, and where the state is gone on from with the same rows."""
        a, b = self.daemon("a", more="batch: {max_delay: 1min}"), self.daemon("b")
        a.push("quiet", self.data[:1])  # whose rows the engine waits for from here on, but where a state is asked for
        for n, part in ((1, self.data[:500]), (501, self.data[500:600])):
            a.socket.send_json({"stream": "s", "dtype": "float32", "shape": [len(part), 2]}, zmq.SNDMORE)
            a.socket.send(b"".join(struct.pack("<2f", *row) for row in part))
            a.wait(lambda: a.samples() == 2 * (n + len(part)))
            if n == 1:
                self.save(a, "quiet")
                a.wait(lambda: a.streams()["s"]["rows"] == 500)
                self.save(a, "quiet")  # behind that batch, after which the engine looks once more
        self.check(a.ctl("reset", "s"), 0)
        state = self.save(a)
        self.assertEqual(a.streams()["s"]["rows"], 500)
        a.stop()
        self.check(b.ctl("restore", state), 0)
        b.push("s", self.data[500:600])
        b.stop()
        for d in a, b:
            self.assertEqual([(m["seq"], m["reason"]) for m in d.lines("s") if m.get("event") == "reset"], [(500, "sender")])
        self.assertEqual(*({family: [r for r in rows if r[0] == 1] for family, rows in d.rows("s").items()} for d in (a, b)))

    def test_killed(self):
        """Rows of `pull` cannot be had again: log, list and events agree on what becomes of the stream."""
        d = self.daemon("d", more="state: {dir: DIR/state}")
        d.push("s", self.data[:500])
        self.check(d.ctl("snapshot"), 0)
        d.kill()
        d = self.daemon("d", more="state: {dir: DIR/state}")
        self.assertIn("streams that go on: 0, that begin new epochs: 1, that had ended: 0, that fit no input: 0", d.said())
        self.assertEqual(d.streams()["s"]["state"], "ended")
        d.push("s", self.data[500:600])
        d.stop()
        self.assertEqual([(m["event"], m["epoch"], m.get("reason")) for m in d.lines("s") if m.get("event") in ("start", "restore", "gap")],
                         [("start", 0, None), ("start", 1, None), ("gap", 1, "restart")])

    def test_a_state_to_begin_with(self):
        """--renumber: the sender's numbers stand; the values are those of the stream that went on."""
        whole, d = self.whole(), self.daemon("d")
        d.push("s", self.data[:600])
        state = self.save(d)
        self.check(d.ctl("restore", state, "--as", "new", "--renumber"), 0)
        d.push("new", self.data[600:], seq=0)
        d.stop()
        self.assertEqual(d.events("new")[0], "restore")
        for family, rows in d.rows("new").items():
            self.assertEqual([r[3:] for r in rows], [r[3:] for r in whole[family][-len(rows):]])
            self.assertEqual([r[2] for r in rows], list(range(len(rows))))
        self.assertEqual(d.rows("new")["embedding"][0][1], 0)

    def test_ended(self):
        """Of an ended stream the numbers go: the next rows begin the next epoch. A remembered one is replaced."""
        d = self.daemon("d")
        d.push("s", self.data[:100])
        live = self.save(d, name="live")
        d.push("s", self.data[100:200], flags=["end"])
        d.wait(lambda: d.streams()["s"]["state"] == "ended")
        ended = self.save(d, name="ended")
        self.check(run(MAMBACTL, "inspect", ended), 0, "ended")
        self.check(d.ctl("restore", ended, "--as", "t"), 0)
        d.push("t", self.data[:100])
        d.wait(lambda: {(m["epoch"], m["topic"].split("/")[0]) for m in d.lines("t")} - {(1, "event")} ==
               {(1, "anomaly"), (1, "embedding"), (1, "prediction")})
        self.check(d.ctl("restore", live), 0)
        d.push("s", self.data[100:140])
        d.wait(lambda: [e for e in d.events("s") if "anomaly" not in e] == ["start", "end", "restore"])

    def test_refusals(self):
        d = self.daemon("d")
        d.push("s", self.data[:100])
        state = self.save(d)
        with open(state, "rb") as f:
            good = f.read()
        self.check(d.ctl("snapshot", "--stream", "nobody", "-o", self.path("x")), 69, "nobody: no such stream")
        self.check(d.ctl("snapshot", "--stream", "s", "-o", self.path("no/x")), 74, "no/x")
        self.check(d.ctl("snapshot", "--stream", "s"), 64, "usage")
        self.check(d.ctl("snapshot", "-o", "x"), 64, "usage")
        self.check(d.ctl("restore"), 64, "usage")
        self.check(d.ctl("restore", self.path("nothing")), 66, "nothing")
        self.check(d.ctl("restore", self.path("text", "no state")), 65, "not a snapshot")
        self.check(d.ctl("restore", self.path("short", good[:-8])), 65, "not of the size that it says")
        self.check(d.ctl("restore", self.path("torn", good[:2000] + b"x" + good[2001:])), 65, "damaged (checksum)")
        self.check(d.ctl("restore", state), 69, "s: is live")
        self.check(d.ctl("restore", state, "--as", "a\nb"), 69, "not a valid id")
        self.check(d.ctl("restore", state, "--as", "t", "--input", "y"), 69, "t: no input 'y' here")
        weights = bytearray(signal_model.safetensors())
        weights[-1] ^= 1
        e = self.daemon("e", model=signal_model.write(self.path("model"), weights=bytes(weights)))
        self.check(e.ctl("restore", state), 69, "s: the state is of another model, or of other weights")
        self.assertEqual(e.streams(), {})
        self.check(run(MAMBACTL, "inspect", state), 0, "model m, weights", "s ", "live", "channels: 2 of ")
        self.check(run(MAMBACTL, "inspect", self.path("torn")), 65, "damaged (checksum)")

    def test_unlike_its_source(self):
        """Of other rates or channels than its rows: refused where the input's keys tell, else said when the rows come."""
        a = self.daemon("a")
        a.push("s", self.data[:100])
        state = self.save(a)
        b = self.daemon("b", input_keys=", rate: 50")
        self.check(b.ctl("restore", state), 69, "s: the state is of rows at 100 Hz, those of input z come at 50 Hz")
        c = self.daemon("c", input_keys=", format: raw, channels: 3")
        self.check(c.ctl("restore", state), 69, "s: the state's channels: 2, those of input z's streams: 3")
        self.assertEqual((b.streams(), c.streams()), ({}, {}))
        d = self.daemon("d")
        self.check(d.ctl("restore", state), 0)
        d.push("s", [(*row, 0.5) for row in self.data[100:200]])
        d.stop()
        self.assertEqual(d.events("s")[:2], ["start", "gap"])
        gap = next(m for m in d.lines("s") if m.get("event") == "gap")
        self.assertEqual((gap["epoch"], gap["reason"], gap["from_seq"]), (1, "restart", 100))
        self.assertIn("is not what its state is of (input z, channels: 2, rate: 100 Hz)", d.said())

    def test_another_op_table(self):
        """Allowed, and said in every message, until the state is reset."""
        a = self.daemon("a", keys=", weights: fp32")
        a.push("s", self.data[:400])
        state = self.save(a)
        b = self.daemon("b", keys=", weights: bf16")
        self.check(b.ctl("restore", state), 0, "not exact")
        b.push("s", self.data[400:500])
        again = self.save(b, name="again")
        self.check(b.ctl("restore", again, "--as", "t"), 0, "not exact")
        b.push("s", self.data[500:600], flags=["reset"])
        b.stop()
        lines = b.lines("s")
        self.assertEqual({m.get("exact") for m in lines if m["epoch"] == 0}, {False})
        self.assertEqual({m.get("exact") for m in lines if m["epoch"] == 1 and "event" not in m}, {None})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
