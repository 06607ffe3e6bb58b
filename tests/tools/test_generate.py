"""`mambactl generate` and `mambactl eval bytes`, by their command lines: greedy bytes are those that Hugging Face's generate()
gives (tools/make_golden.py), a generation goes on from its state file as if it had not stopped, and bits per byte are those of
the golden logits.   test_generate.py MAMBACTL GOLDEN"""
import collections
import json
import math
import os
import pty
import random
import shutil
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

    def test_ends_when_nobody_reads_on(self):
        state = self.path("state")
        child = subprocess.Popen([MAMBACTL, "generate", "-q", "-m", MODEL, "-n", "100000000", "--state", state],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(child.kill)
        self.assertEqual(len(child.stdout.read(1)), 1)
        child.stdout.close()
        self.assertEqual(child.wait(timeout=20), 74)
        self.assertEqual(child.stderr.read(), b"")
        child.stderr.close()
        self.assertFalse(os.path.exists(state))  # it would be ahead of what was read

    def test_a_state_that_could_not_be_saved(self):
        """Told before anything is generated, not after."""
        result = generate("-n", "100000000", "--state", self.path("none/state"), code=73)
        self.assertIn(b"none/state: No such file or directory", result.stderr)
        self.assertEqual(result.stdout, b"")

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

    def test_refusals(self):
        run("generate", "--help")
        for args in ([], ["-m"], ["-m", MODEL, "--top-p", "0"], ["-m", MODEL, "-p", "x", "-f", "y"],
                     ["-m", MODEL, "-n", "-1"], ["-m", MODEL, "extra"], ["-m", MODEL, "--weights", "int8"]):
            run("generate", *args, code=64)
        self.assertIn(b"257 is no integer from 0 to 256", generate("--top-k", "257", code=64).stderr)
        self.assertIn(b"2 is no number from 0 to 1", generate("--min-p", "2", code=64).stderr)
        run("generate", "-m", self.path("none"), code=78)
        self.assertIn(b"no model of bytes", run("generate", "-m", os.path.join(GOLDEN, "plain"), code=78).stderr)
        generate("-f", self.path("none"), code=66)


def two_samples(a, b):
    """Chi-square of two counts of the same things, and its degrees of freedom; rare things are taken together."""
    cells, rare = [], [0, 0]
    for key in set(a) | set(b):
        pair = a[key], b[key]
        if sum(pair) >= 20:
            cells.append(pair)
        else:
            rare = [r + n for r, n in zip(rare, pair)]
    cells += [rare] if sum(rare) else []
    n, m = sum(a.values()), sum(b.values())
    return sum((x * math.sqrt(m / n) - y * math.sqrt(n / m)) ** 2 / (x + y) for x, y in cells), len(cells) - 1


class Drafts(unittest.TestCase):
    """Drafts of the golden model itself with noise on its weights: the more, the fewer of them stand."""

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.dir.cleanup)
        cls.same = MODEL
        cls.good, cls.bad = (cls.noisy(name, noise) for name, noise in (("good", 0.03), ("bad", 2.0)))
        cls.prompt = os.path.join(cls.dir.name, "prompt")
        with open(cls.prompt, "wb") as file:
            file.write(PROMPT)

    @classmethod
    def noisy(cls, name, noise):
        path, chance = os.path.join(cls.dir.name, name), random.Random(7)
        os.mkdir(path)
        shutil.copy(os.path.join(MODEL, "config.json"), path)
        with open(os.path.join(MODEL, "model.safetensors"), "rb") as file:
            length = file.read(8)
            head, data = file.read(*struct.unpack("<Q", length)), bytearray(file.read())
        for key, t in json.loads(head).items():
            if key == "__metadata__" or key.endswith("A_log"):
                continue
            begin, end = t["data_offsets"]
            weights = struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
            size = noise * math.sqrt(sum(w * w for w in weights) / len(weights))
            data[begin:end] = struct.pack(f"<{len(weights)}f", *(w + chance.gauss(0, size) for w in weights))
        with open(os.path.join(path, "model.safetensors"), "wb") as file:
            file.write(length + head + data)
        return path

    def path(self, name):
        return os.path.join(self.dir.name, self.id() + name)

    def document(self, *args):
        return json.loads(generate("--json", *args).stdout)

    def test_greedy_is_the_models_own(self):
        share = {}
        for weights in ("fp32", "bf16"):
            how = ("-f", self.prompt, "--temperature", "0", "-n", "1000", "--weights", weights)
            alone = hexes(*how)[0]
            for draft in (self.same, self.good, self.bad):
                for length in ("1", "3", "4", "7"):
                    doc = self.document(*how, "--draft", draft, "--draft-length", length)
                    self.assertEqual(bytes.fromhex(doc["samples"][0]["hex"]), alone, (weights, draft, length))
                    d = doc["drafts"]
                    self.assertTrue(0 <= d["accepted"] <= d["bytes"] and d["accepted"] + d["rounds"] == 1000, d)
                    share[weights, draft, length] = d["accepted"] / d["bytes"]
        self.assertEqual(hexes(*how[:-1], "fp32")[0], GREEDY)
        for length in ("1", "7"):
            self.assertEqual(share["fp32", self.same, length], 1)
            self.assertTrue(0.3 < share["fp32", self.good, length] < 1, share)
            self.assertLess(share["fp32", self.bad, length], 0.1, share)

    def test_what_is_drawn_has_the_models_distribution(self):
        for how in (["--top-k", "5", "--temperature", "1.5"],
                    ["--top-p", "0.5", "--temperature", "0.6", "--repetition-penalty", "1.3", "--min-p", "0.1"]):
            counts = []
            for seed, more in enumerate(([], ["--draft", self.same], ["--draft", self.good, "--draft-length", "2"],
                                         ["--draft", self.bad, "--draft-length", "7"])):
                texts = hexes("-f", self.prompt, "-n", "3", "--samples", "4096", "--seed", str(seed), *how, *more)
                self.assertEqual(len(texts), 4096)
                counts.append(collections.Counter(texts))
            for drafted in counts[1:]:
                chi, freedom = two_samples(counts[0], drafted)
                self.assertGreater(freedom, 5)
                # as a normal variable (Wilson and Hilferty); five standard deviations
                z = ((chi / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
                self.assertLess(z, 5, (how, chi, freedom))

    def test_the_state_is_that_of_the_text(self):
        stop = os.fsdecode(GREEDY[40:42])
        for more in ([], ["--stop", stop], ["--repetition-penalty", "1.2"], ["--samples", "3"]):
            states, texts = [], []
            for draft in (), ("--draft", self.good), ("--draft", self.bad, "--draft-length", "7"):
                state = self.path("state")
                texts.append([hexes("-f", self.prompt, "--temperature", "0", "-n", "101", "--state", state, *more, *draft),
                              hexes("--temperature", "0", "-n", "57", "--state", state, *more, *draft)])
                with open(state, "rb") as file:
                    states.append(file.read())
                os.remove(state)
            self.assertEqual(texts[0], texts[1])
            self.assertEqual(texts[0], texts[2])
            self.assertEqual(states[0], states[1])
            self.assertEqual(states[0], states[2])

    def test_the_same_seed_gives_the_same_bytes(self):
        how = ("-f", self.prompt, "-n", "60", "--seed", "3", "--draft", self.good)
        many = hexes(*how, "--samples", "5")
        self.assertEqual(hexes(*how, "--samples", "5"), many)
        self.assertEqual(hexes(*how)[0], many[0])
        self.assertEqual(len(set(many)), 5)

    def test_text_for_people(self):
        done = run("generate", "-m", MODEL, "-f", self.prompt, "-n", "50", "--temperature", "0", "--draft", self.good)
        self.assertEqual(done.stdout, GREEDY[:50])
        self.assertRegex(done.stderr, rb"bytes drafted, of which [0-9.]+ % stood")
        self.assertEqual(generate("-p", "x", "-n", "0", "--draft", self.good).stdout, b"")

    def test_refusals(self):
        generate("-p", "x", "--draft", os.path.join(GOLDEN, "plain"), code=78)
        for length in ("0", "8", "x"):
            generate("-p", "x", "--draft", self.good, "--draft-length", length, code=64)


class Bench(unittest.TestCase):
    def bench(self, *args, **more):
        return run("bench", "generate", "-m", MODEL, "--seconds", "0.02", "--runs", "3", *args, **more)

    def test_drafts_are_reported(self):
        doc = json.loads(self.bench("--json", "--draft", MODEL, "--draft-length", "3", "--streams", "2").stdout)
        self.assertEqual(doc["draft"]["accepted"], 1)
        self.assertTrue(2 <= doc["draft"]["bytes_per_round"] < 4)  # random weights are hardly ever sure: rounds are short
        self.assertGreater(doc["draft"]["speedup"], 0)
        doc = json.loads(self.bench("--json", "--draft", "16x1,4,256", "--seconds", "0.3").stdout)  # so many drafts that not all fall alike
        self.assertTrue(0 < doc["draft"]["accepted"] < 1)
        doc = json.loads(self.bench("--json", "--peer", "echo 7.5 #").stdout)
        self.assertEqual(doc["peer_bytes_per_s"], 7.5)
        self.assertAlmostEqual(doc["ratio"], doc["bytes_per_s"] / 7.5, delta=0.001 * doc["ratio"])
        self.assertNotIn("draft", json.loads(self.bench("--json").stdout))
        self.assertIn(b"no model of 256 ids", self.bench("--draft", "16x1,4,300", code=69).stderr)


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
        for what in ("bytes", "logs"):
            self.assertIn(b"Is a directory", run("eval", what, "-m", MODEL, MODEL, code=74).stderr)
        self.assertIn(b"empty", run("eval", "bytes", "-m", MODEL, "-", code=65).stderr)
        run("eval", "bytes", "-m", os.path.join(GOLDEN, "plain"), "-", code=78)


class EvalLogs(unittest.TestCase):
    """The golden model is of random weights: what it is worth cannot be tested, what is asked of it can."""

    @classmethod
    def setUpClass(cls):
        cls.log = os.path.join(tempfile.mkdtemp(), "app.log")
        with open(cls.log, "w", encoding="utf-8") as f:
            f.writelines(f"2026-11-28 12:{i % 3600 // 60:02}:{i % 60:02} host job[{i * 7 % 900}]: step {i % 5} is {'done' if i % 3 else 'begun'}\n"
                         for i in range(1200))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(os.path.dirname(cls.log))

    def evaluate(self, *args):
        return json.loads(run("eval", "logs", "-m", MODEL, "--json", "--after", "300", "--every", "10", *args, self.log).stdout)["files"][0]

    def test_faults_are_counted_and_ranked(self):
        doc = self.evaluate()
        self.assertEqual(doc["lines"], 1200 + doc["faults"])
        self.assertEqual(doc["faults"], sum(kind["lines"] for kind in doc["kinds"].values()))
        self.assertTrue(60 < doc["faults"] < 120)  # 900 lines, one in ten
        for figures in (doc, *doc["kinds"].values()):
            self.assertTrue(0 < figures["auprc"] <= 1 and 0 < figures["auprc_rare_words"] <= 1)
        self.assertGreater(doc["kinds"]["foreign"]["auprc_rare_words"], 0.9)

    def test_the_seed_makes_the_faults(self):
        self.assertEqual(self.evaluate(), self.evaluate("--threads", "2"))
        self.assertNotEqual(self.evaluate(), self.evaluate("--seed", "2"))

    def test_refusals(self):
        run("eval", "logs", "--help")
        run("eval", "logs", "-m", MODEL, code=64)
        run("eval", "logs", "-m", MODEL, "--after", "10", self.log, code=64)
        run("eval", "logs", "-m", MODEL, "/nonexistent", code=66)
        self.assertIn(b"no more lines", run("eval", "logs", "-m", MODEL, "--after", "5000", self.log, code=65).stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
