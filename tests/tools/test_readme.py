"""The README's producer and subscriber, pasted as they stand, against configs/minimal.yaml; and what the documents have one type.
test_readme.py MAMBAD ROOT"""
import glob
import os
import re
import subprocess
import sys
import tempfile
import unittest

MAMBAD, ROOT = os.path.abspath(sys.argv[1]), sys.argv[2]
sys.argv[1:] = []


def pasted():
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        return re.findall(r"```python\n(.*?)```", f.read(), re.DOTALL)


class Readme(unittest.TestCase):
    def start(self, *command, **options):
        process = subprocess.Popen(command, cwd=ROOT, **options)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_producer_and_subscriber(self):
        producer, subscriber = pasted()
        log = tempfile.TemporaryFile(mode="w+")
        daemon = self.start(MAMBAD, "-c", "configs/minimal.yaml", stderr=log)
        lines = self.start("/usr/bin/python3", "-u", "-c", subscriber, stdout=subprocess.PIPE, text=True)
        self.start("/usr/bin/python3", "-c", producer)
        said = []
        for line in lines.stdout:
            said.append(line.split(" ", 1))
            if "warming" not in line:
                break
        seqs = [int(seq) for seq, _ in said]
        self.assertEqual(seqs, sorted(set(seqs)))
        self.assertTrue(0 <= float(said[-1][1]) <= 1, said[-1])
        daemon.terminate()
        log.seek(0)
        self.assertEqual(daemon.wait(20), 0, log.read())

    def test_what_is_typed_can_be_run(self):
        documents = [d for d in glob.glob(os.path.join(ROOT, "**", "*.md"), recursive=True) if "/build/" not in d]
        typed = set()
        for document in documents:
            with open(document, encoding="utf-8") as f:
                typed.update(re.findall(r"^ +(tools/[\w./-]+)", f.read(), re.MULTILINE))
        self.assertIn("tools/train/bytes-s.sh", typed)
        self.assertEqual([t for t in sorted(typed) if not os.access(os.path.join(ROOT, t), os.X_OK)], [])


if __name__ == "__main__":
    unittest.main()
