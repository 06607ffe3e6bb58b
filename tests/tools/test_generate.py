"""`mambactl generate` and `mambactl eval bytes`, by their command lines: greedy bytes are those that Hugging Face's generate()
gives (tools/make_golden.py), a generation goes on from its state file as if it had not stopped, and bits per byte are those of
the golden logits.   test_generate.py MAMBACTL GOLDEN"""
import json
import math
import os
import pty
import struct
import subprocess
import sys
import tempfile
import unittest

MAMBACTL, GOLDEN = sys.argv[1], sys.argv[2]
MODEL = os.path.join(GOLDEN, "bytes")


def tensors(path):
    with open(path, "rb") as file:
        (n,) = struct.unpack("<Q", file.read(8))
        head, data = json.loads(file.read(n)), file.read()
    kinds = {"F32": "f", "I32": "i"}
    return {
        name: (t["shape"], struct.unpack(f"<{(t['data_offsets'][1] - t['data_offsets'][0]) // 4}{kinds[t['dtype']]}",
                                         data[slice(*t["data_offsets"])]))
        for name, t in head.items() if name != "__metadata__"
    }


EXPECTED = tensors(os.path.join(MODEL, "expected.safetensors"))
PROMPT = bytes(EXPECTED["tokens"][1])
GREEDY = bytes(EXPECTED["greedy"][1])


def run(*args, code=0, stdin=b""):
    done = subprocess.run([MAMBACTL, *args], input=stdin, capture_output=True, timeout=60)
    assert done.returncode == code, (args, done.returncode, done.stderr)
    return done


def generate(*args, **more):
    return run("generate", "-m", MODEL, "-q", "--threads", "1", *args, **more)


def hexes(*args):
    return [bytes.fromhex(s["hex"]) for s in json.loads(generate("--json", *args).stdout)["samples"]]


class Generate(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.prompt = self.path("prompt")
        with open(self.prompt, "wb") as file:
            file.write(PROMPT)

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def test_greedy_is_that_of_transformers(self):
        out = generate("-f", self.prompt, "--temperature", "0", "-n", "1000").stdout
        self.assertEqual(out, GREEDY)
        self.assertEqual(generate("-f", "-", "--temperature", "0", "-n", "1000", stdin=PROMPT).stdout, GREEDY)
        self.assertGreater(len(set(GREEDY)), 8)

    def test_goes_on_from_its_state(self):
        for how in (["--temperature", "0"], ["--seed", "7", "--top-k", "40", "--repetition-penalty", "1.1"]):
            whole, pieces, state = hexes("-f", self.prompt, "-n", "300", *how)[0], b"", self.path("state")
            pieces += hexes("-f", self.prompt, "-n", "0", "--state", state, *how)[0]
            for n in (1, 0, 120, 179):
                pieces += hexes("-n", str(n), "--state", state, *how)[0]
            self.assertEqual(pieces, whole)
            os.remove(state)

    def test_samples_are_independent_and_begin_alike(self):
        lone = hexes("-f", self.prompt, "-n", "50", "--seed", "3")[0]
        many = hexes("-f", self.prompt, "-n", "50", "--seed", "3", "--samples", "5")
        self.assertEqual(many[0], lone)
        self.assertEqual(len(set(many)), 5)
        state = self.path("state")
        first = hexes("-f", self.prompt, "-n", "20", "--seed", "3", "--samples", "5", "--state", state)
        rest = hexes("-n", "30", "--seed", "3", "--state", state)
        self.assertEqual([a + b for a, b in zip(first, rest)], many)

    def test_stop(self):
        stop = GREEDY[40:42]
        at = GREEDY.index(stop)
        if b"\0" in stop:
            self.skipTest("the golden text has a NUL there")
        doc = json.loads(generate("-f", self.prompt, "--temperature", "0", "--json", "--stop", os.fsdecode(stop)).stdout)
        self.assertEqual(bytes.fromhex(doc["samples"][0]["hex"]), GREEDY[: at + 2])
        self.assertEqual(doc["samples"][0]["reason"], "stop")

    def test_a_terminal_sees_whole_characters(self):
        main, worker = pty.openpty()
        child = subprocess.Popen([MAMBACTL, "generate", "-q", "-m", MODEL, "-p", "x", "-n", "400"], stdout=worker,
                                 env={**os.environ, "TERM": "dumb"})
        os.close(worker)
        seen = b""
        while True:
            try:
                piece = os.read(main, 4096)
            except OSError:
                break
            if not piece:
                break
            seen += piece
        self.assertEqual(child.wait(timeout=30), 0)
        text = seen.decode("utf-8")  # fails on half a character
        self.assertIn("\ufffd", text)
        self.assertFalse([c for c in text if ord(c) < 32 and c not in "\r\n\t"])

    def test_a_state_that_does_not_fit(self):
        state = self.path("state")
        hexes("-f", self.prompt, "-n", "5", "--state", state)
        with open(state, "rb") as file:
            good = file.read()
        for at in (0, 9, 12, 20, 40, 60, len(good) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[at] ^= 0x10
            with open(state, "wb") as file:
                file.write(bad)
            self.assertIn(b"state", generate("-n", "1", "--state", state, code=65).stderr)
        for n in (0, 7, 50, len(good) - 1):
            with open(state, "wb") as file:
                file.write(good[:n])
            generate("-n", "1", "--state", state, code=65)
        self.assertIn(b"No such file", generate("--state", self.path("none/state"), code=74).stderr)

    def test_refusals(self):
        run("generate", "--help")
        for args in ([], ["-m"], ["-m", MODEL, "--top-p", "0"], ["-m", MODEL, "-p", "x", "-f", "y"],
                     ["-m", MODEL, "-n", "-1"], ["-m", MODEL, "extra"], ["-m", MODEL, "--weights", "int8"]):
            run("generate", *args, code=64)
        run("generate", "-m", self.path("none"), code=78)
        self.assertIn(b"no model of bytes", run("generate", "-m", os.path.join(GOLDEN, "plain"), code=78).stderr)
        generate("-f", self.path("none"), code=66)


class EvalBytes(unittest.TestCase):
    def bits(self):
        (rows, vocab), logits = EXPECTED["logits"]
        bits = [8.0]
        for i in range(1, rows):
            row = logits[(i - 1) * vocab : i * vocab]
            most = max(row)
            bits.append((math.log(sum(math.exp(v - most) for v in row)) + most - row[PROMPT[i]]) / math.log(2))
        return bits

    def evaluate(self, *args, text=PROMPT):
        return json.loads(run("eval", "bytes", "-m", MODEL, "--threads", "1", "--json", *args, "-", stdin=text).stdout)

    def test_bits_of_the_golden_logits(self):
        bits = self.bits()
        self.assertAlmostEqual(self.evaluate()["bits_per_byte"], sum(bits) / len(bits), places=5)
        doc = self.evaluate("--skip", "10")
        self.assertAlmostEqual(doc["bits_per_byte"], sum(bits[10:]) / len(bits[10:]), places=5)
        self.assertEqual(doc["bytes"], len(bits) - 10)

    def test_one_state_or_one_a_window(self):
        text = PROMPT * 300
        whole, windows = self.evaluate(text=text), self.evaluate("--window", str(len(PROMPT)), text=text)
        self.assertAlmostEqual(windows["bits_per_byte"], sum(self.bits()) / len(PROMPT), places=5)
        self.assertNotAlmostEqual(whole["bits_per_byte"], windows["bits_per_byte"], places=3)
        self.assertEqual(whole["bytes"], len(text))

    def test_refusals(self):
        run("eval", "bytes", "--help")
        run("eval", "bytes", "-m", MODEL, code=64)
        run("eval", "bytes", "-m", MODEL, "/nonexistent", code=66)
        self.assertIn(b"empty", run("eval", "bytes", "-m", MODEL, "-", code=65).stderr)
        run("eval", "bytes", "-m", os.path.join(GOLDEN, "plain"), "-", code=78)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
