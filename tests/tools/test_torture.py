#!/usr/bin/python3
"""A short run of tools/torture: what counts meets its bar; what is timed is there, whatever a busy machine makes of it.
test_torture.py TORTURE BUILD"""
import os
import re
import subprocess
import sys
import tempfile
import unittest

TORTURE, BUILD = sys.argv[1:3]
TIMED = {"snapshots", "restart"}


def run(*args):
    return subprocess.run([TORTURE, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=False)


class Torture(unittest.TestCase):
    def test_a_short_run(self):
        said = run("--build", BUILD, "--time", "10")
        rows = dict(re.findall(r"^(\w+)\b.*? ((?:NOT )?met)$", said.stdout, re.M))
        self.assertEqual(set(rows), {"kills", "snapshots", "restart", "faults", "fuzz", "overload", "hostile"}, said.stdout + said.stderr)
        self.assertLessEqual({row for row, met in rows.items() if met != "met"}, TIMED, said.stdout)
        self.assertEqual(said.returncode, int("NOT met" in rows.values()))
        self.assertRegex(said.stdout, r"\n\w+ .*[1-9]\d* kills, [1-9]\d* rows: 0 lost, 0 double, 0 different")
        self.assertRegex(said.stdout, r"[1-9]\d* of [1-9]\d* messages/s, .* longest [0-9.]+ ms")
        self.assertRegex(said.stdout, r"all 1000 streams after [0-9.]+ s")

    def test_a_row_that_misses(self):
        with tempfile.TemporaryDirectory() as build:
            os.mkdir(build + "/daemon")
            os.symlink("/bin/false", build + "/daemon/mambad")
            open(build + "/build.ninja", "w").close()
            said = run("--build", build, "--time", "1", "restart", "faults")
        self.assertEqual(said.returncode, 1, said.stdout + said.stderr)
        self.assertEqual(re.findall(r"^(\w+).* NOT met$", said.stdout, re.M), ["restart", "faults"], said.stdout + said.stderr)

    def test_the_command_line(self):
        for args, text in ((["--tim", "1"], "--tim"), (["--time"], "--time"), (["--time", "0"], "'0'"), (["--time", "soon"], "'soon'"),
                           (["kils"], "no row 'kils'"), (["--build", "/"], "'/' is no build folder")):
            said = run(*args)
            self.assertEqual((said.returncode, said.stdout), (64, ""), args)
            self.assertIn(text, said.stderr)
            self.assertIn("see --help", said.stderr)
        said = run("--help")
        self.assertEqual((said.returncode, said.stderr), (0, ""))
        self.assertTrue(said.stdout.startswith("usage: tools/torture"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
