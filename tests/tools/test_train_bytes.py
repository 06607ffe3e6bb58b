"""tools/train for byte models: what text.py leaves out, what layout.py keeps, the Triton scan (in Triton's interpreter) against the
plain loop, and a model trained in a few updates, resumed and exported, of which `mambactl eval bytes` must say what PyTorch says.
test_train_bytes.py MAMBACTL TRAIN_FOLDER"""
import json
import os
import random
import subprocess
import sys
import tempfile
import unittest

MAMBACTL, TRAIN = sys.argv[1], sys.argv[2]
os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, TRAIN)
try:
    import torch
except ImportError:
    torch = None

import layout  # noqa: E402
import logs  # noqa: E402
import text  # noqa: E402

SMALL = ("--set", "model.hidden_size=32", "--set", "model.num_hidden_layers=2", "--set", "training.lanes=2", "--set", "training.segment=32",
         "--set", "training.noise=0.1", "--set", "training.dropout=0.1", "--set", "training.lr=0.02")


class Text(unittest.TestCase):
    def test_what_is_to_stay_unseen_is_left_out(self):
        unseen = "".join(random.Random(1).choices("abcdefgh ", k=5000))
        other = "".join(random.Random(2).choices("abcdefgh \n", k=60000))
        for shared, kept in ((63, True), (64, False), (200, False)):
            sieve = text.Sieve([unseen.encode()])
            document = other[:30000] + "\n\n" + unseen[1001:1001 + shared] + "\n\n" + other[30000:]
            self.assertEqual(sieve(document) == document, kept)
            self.assertEqual(sieve.dropped == 0, kept)
            self.assertGreater(len(sieve(document)), 30000)  # only the pieces about it
        sieve = text.Sieve([unseen.encode()])
        sieve("\r\n".join(unseen[:2000].split()))  # the same words in other lines
        self.assertGreater(sieve.dropped, 0)

    def test_another_layout_keeps_the_words(self):
        old = 'CHAPTER I\n\n"Oh dear!" said he; "I shall be\nlate."  He ran--and ran. On\nand on he went, it is said.\n\n  Verse\n  of two\n' * 20
        forms = {layout.anew(old, random.Random(seed)) for seed in range(30)}
        self.assertGreater(len(forms), 10)
        plain = lambda s: [w.strip("\"'`“”,.") for w in s.split()]
        for form in forms:
            self.assertEqual(plain(form), plain(old))

    def test_logs_are_the_same_again(self):
        self.assertEqual(logs.documents(50_000, 3), logs.documents(50_000, 3))
        for kind in logs.LINES:
            self.assertNotIn("{", logs.document(random.Random(1), kind, 20_000))


@unittest.skipUnless(torch, "PyTorch is not installed")
class Model(unittest.TestCase):
    def test_the_kernel_is_the_loop(self):
        import scan
        if not scan.triton:
            self.skipTest("Triton is not installed")
        for size in ({}, {"T": 8}, {"S": 3, "T": 1}, {"S": 1, "T": 7, "D": 48, "N": 4}):
            self.assertLess(scan.agree("cpu", **size), 1e-5)

    def test_trained_resumed_and_scored(self):
        def train(out, *more):
            subprocess.run([sys.executable, os.path.join(TRAIN, "bytes.py"), "--config", os.path.join(TRAIN, "bytes-s.json"), "--device", "cpu",
                            "--text", path("text"), "--held", path("held"), "--out", out, *SMALL, *more],
                           check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
            with open(os.path.join(out, "bytes-s", "training.json"), encoding="utf-8") as f:
                return json.load(f)

        with tempfile.TemporaryDirectory() as folder:
            path = lambda name: os.path.join(folder, name)
            for name, size in (("text", 20_000), ("held", 3_000)):
                with open(path(name), "wb") as f:
                    f.write(logs.document(random.Random(size), "web", size).encode())
            first = train(path("a"), "--steps", "5")
            again = train(path("b"), "--steps", "60", "--resume", os.path.join(path("a"), "checkpoint.pt"))
            self.assertEqual((first["steps"], again["steps"]), (5, 60))
            bits = again["held_back_bits_per_byte"]["held"]
            self.assertLess(bits, first["held_back_bits_per_byte"]["held"])
            done = subprocess.run([MAMBACTL, "eval", "bytes", "-q", "--json", "-m", os.path.join(path("b"), "bytes-s"), path("held")],
                                  check=True, capture_output=True)
            self.assertLess(abs(json.loads(done.stdout)["bits_per_byte"] - bits), 1e-3)
            with open(os.path.join(path("b"), "bytes-s", "README.md"), encoding="utf-8") as f:
                self.assertIn(f"| held | {bits:.3f} |", f.read())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
