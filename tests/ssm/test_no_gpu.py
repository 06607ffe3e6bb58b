#!/usr/bin/python3
"""mambad where no GPU can be had: `device: auto` says so once and runs on the CPU; `device: cuda` is exit 69 with the
reason.   test_no_gpu.py MAMBAD"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "daemon"))
import signal_model  # noqa: E402

MAMBAD = os.path.abspath(sys.argv.pop(1))


class NoGpu(unittest.TestCase):
    def run_on(self, device):
        with tempfile.TemporaryDirectory(prefix="mambad-no-gpu-") as home:
            model = signal_model.write(os.path.join(home, "model"))
            with open(os.path.join(home, "x.csv"), "w", encoding="utf-8") as out:
                out.write("a\n" + "".join(f"{i % 7}\n" for i in range(100)))
            config = os.path.join(home, "c.yaml")
            with open(config, "w", encoding="utf-8") as out:
                out.write(f"models: {{m: {{path: {model}, device: {device}}}}}\n"
                          f"inputs: {{i: {{type: csv, files: [{home}/x.csv]}}}}\n"
                          f"outputs: {{o: {{type: jsonl, path: {home}/out.jsonl}}}}\n"
                          "log: {format: json}\n")
            done = subprocess.run([MAMBAD, "-c", config, "--once"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, timeout=60, check=False)
            self.assertNotIn("Sanitizer", done.stderr)
            return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]

    def test_auto_is_the_cpu_and_says_so_once(self):
        code, said = self.run_on("auto")
        self.assertEqual(code, 0, said)
        notes = [line for line in said if "device auto is the CPU: " in line["message"]]
        self.assertEqual(len(notes), 1, said)
        self.assertGreater(len(notes[0]["message"]), 40)
        self.assertTrue(any(" on cpu " in line["message"] for line in said), said)

    def test_cuda_is_69_with_the_reason(self):
        for device in ("cuda", "cuda:1"):
            code, said = self.run_on(device)
            self.assertEqual(code, 69, said)
            errors = [line["message"] for line in said if line["level"] == "error"]
            self.assertEqual(len(errors), 1, said)
            self.assertGreater(len(errors[0]), 30)
            self.assertNotIn("\n", errors[0])

    def test_cpu_says_nothing_of_it(self):
        code, said = self.run_on("cpu")
        self.assertEqual(code, 0, said)
        self.assertFalse([line for line in said if "auto" in line["message"]], said)


if __name__ == "__main__":
    unittest.main(verbosity=2)
