"""models/bytes-s does what its card says: bits per byte of a file of this repository, and the text that it goes on with.
test_bytes_s.py MAMBACTL ROOT"""
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest

MAMBACTL, ROOT = os.path.abspath(sys.argv[1]), sys.argv[2]
sys.argv[1:] = []


def call(*args):
    return subprocess.run([MAMBACTL, *args], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True).stdout


class Card(unittest.TestCase):
    def setUp(self):
        with open(os.path.join(ROOT, "models", "bytes-s", "README.md"), encoding="utf-8") as f:
            self.card = f.read()

    def test_bits_per_byte(self):
        said = re.search(r"\| LICENSE of this repository \| ([\d.]+) \|", self.card)
        bits = json.loads(call("eval", "bytes", "-q", "--json", "-m", "models/bytes-s", "LICENSE"))["bits_per_byte"]
        self.assertAlmostEqual(bits, float(said[1]), delta=1e-3)

    def test_what_it_writes(self):
        prompt, n, text = re.search(r"generate -m models/bytes-s -p '(.*?)' -n (\d+) --temperature 0\n(.*?)\n\n(?=\S)", self.card, re.DOTALL).groups()
        wrote = call("generate", "-m", "models/bytes-s", "-p", prompt, "-n", n, "--temperature", "0")
        self.assertEqual(wrote.decode(), re.sub(r"^    ", "", text, flags=re.MULTILINE))

    def test_faults_in_a_log_unlike_those_of_its_training(self):
        rng = random.Random(1)
        with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
            for i in range(700):
                log.write(f"@{i // 7:05} pump={rng.randint(1, 40)} {rng.choice(('opens', 'closes', 'idles'))} <{rng.getrandbits(32):08x}>\n")
            log.flush()
            doc = json.loads(call("eval", "logs", "--json", "-m", "models/bytes-s", "--after", "300", "--every", "10", log.name))["files"][0]
        self.assertGreater(doc["auprc"], max(0.8, doc["auprc_rare_words"]))


if __name__ == "__main__":
    unittest.main()
