"""models/bytes-s does what its card says: bits per byte of a file of this repository, and the text that it goes on with.
test_bytes_s.py MAMBACTL ROOT"""
import json
import os
import re
import subprocess
import sys
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


if __name__ == "__main__":
    unittest.main()
