"""mambactl run: files through the whole pipeline.   test_run.py MAMBACTL SIGNAL_MODEL_FOLDER [MAKE_SOUNDS]"""
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np

MAMBACTL, HELPERS = os.path.abspath(sys.argv[1]), sys.argv[2]
MAKE_SOUNDS = os.path.abspath(sys.argv[3]) if len(sys.argv) > 3 else None
sys.argv[1:] = []
sys.path.insert(0, HELPERS)
import signal_model  # noqa: E402

HOME = tempfile.TemporaryDirectory()
MODEL = signal_model.write(os.path.join(HOME.name, "model"))
FAMILIES = ("prediction", "embedding", "anomaly")


def path(name):
    return os.path.join(HOME.name, name)


def write(name, text):
    with open(path(name), "w", encoding="utf-8") as f:
        f.write(text)
    return path(name)


def run(*args, stdin=b"", model=MODEL):
    return subprocess.run([MAMBACTL, "run", "-m", model, *args], input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60)


def outputs(text):
    """stream → family → {out_seq: row}; and what happened to streams, in order."""
    rows, events = {}, []
    for line in text.decode().splitlines():
        m = json.loads(line)
        family = m["topic"].split("/")[0]
        if family == "event" and m["event"] in ("start", "end", "error"):
            events.append((m["stream"], m["event"]))
        if family == "event":
            continue
        of_family = rows.setdefault(m["stream"], {}).setdefault(family, {})
        for i, row in enumerate(m["data"]):
            assert m["out_seq"] + i not in of_family, "a row came twice"
            of_family[m["out_seq"] + i] = (m["seq"] + i * m["stride"], m["t_ns"] if i == 0 else None, json.dumps(row))
    return rows, events


def values(of_family):
    return [(of_family[k][0], of_family[k][2]) for k in sorted(of_family)]


SIGNAL = [round(math.sin(i * 0.1) + (5 if i == 700 else 0), 5) for i in range(1000)]


class Run(unittest.TestCase):
    def ok(self, *args, **more):
        result = run(*args, **more)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, b"")
        return outputs(result.stdout)

    def test_csv(self):
        csv = write("a.csv", "v\n" + "".join(f"{x}\n" for x in SIGNAL))
        rows, events = self.ok(csv)
        self.assertEqual(events, [("csv:a.csv", "start"), ("csv:a.csv", "end")])
        families = rows["csv:a.csv"]
        self.assertEqual(sorted(families), sorted(FAMILIES))
        self.assertEqual([seq for seq, _ in values(families["anomaly"])], list(range(1000)))
        steps = 1000 // signal_model.PATCH
        self.assertEqual([len(families[f]) for f in ("prediction", "embedding")], [steps, steps])
        self.assertEqual(values(families["prediction"])[0][0], signal_model.PATCH)

    def test_one_signal_from_everywhere(self):
        """The same samples from a CSV file, an HDF5 dataset, a raw file and standard input give the same rows, bitwise."""
        x = np.array(SIGNAL, "<f4")
        write("v.csv", "v\n" + "".join("%.17g\n" % v for v in x))
        with h5py.File(path("v.h5"), "w") as f:
            f["group/ecg"] = x
            f["text"] = "no numbers"
        x.tofile(path("v.raw"))
        rows, _ = self.ok(path("v.csv"), path("v.h5"), path("v.raw"), "--rate", "100")
        again, _ = self.ok("-", "--rate", "100", stdin=x.tobytes())
        one, _ = self.ok(path("v.h5") + ":/group/ecg", "--rate", "100", "--stream", "{stem}")
        rows.update(again)
        rows.update(one)
        self.assertEqual(len(rows), 5, rows.keys())
        self.assertIn("v", rows)
        want = {f: values(rows["csv:v.csv"][f]) for f in FAMILIES}
        for stream, families in rows.items():
            for f in FAMILIES:
                self.assertEqual(values(families[f]), want[f], (stream, f))

    def test_ended_while_nobody_reads(self):
        """Its output's thread is given up, and nothing is freed under it."""
        big = write("big.csv", "v\n" + "1\n2\n3\n" * 100000)
        with subprocess.Popen([MAMBACTL, "run", "-m", MODEL, big], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            child.stdout.read(1)
            child.send_signal(signal.SIGTERM)
            said = child.stderr.read().decode()
            self.assertEqual(child.wait(60), -signal.SIGTERM, said)
        self.assertIn("given up after 1.0 s", said)
        self.assertNotIn("Sanitizer", said)

    @unittest.skipUnless(MAKE_SOUNDS, "no libsndfile")
    def test_ten_formats(self):
        os.makedirs(path("sounds"))
        subprocess.run([MAKE_SOUNDS, path("sounds")], check=True)
        rows, events = self.ok(path("sounds/*"), "--families", "prediction,anomaly,event", "--stream", "{path}",
                               "--set", "streams.*={publish: {prediction: {every: 64}}}")
        self.assertEqual(len(rows), 10)
        self.assertEqual(sorted(events), sorted((s, e) for s in rows for e in ("start", "end")))
        wav = rows["s.wav"]
        self.assertEqual(len(wav["anomaly"]), 24000)
        for name, families in rows.items():
            if name.split(".")[1] in ("ogg", "opus", "mp3"):
                self.assertGreaterEqual(len(families["anomaly"]), 24000)
                continue
            for f in ("prediction", "anomaly"):
                self.assertEqual(values(families[f]), values(wav[f]), (name, f))

    @unittest.skipUnless(MAKE_SOUNDS, "no libsndfile")
    def test_resample_and_channels(self):
        (np.arange(44100 * 2) % 777).astype("<i2").tofile(path("cd.raw"))
        rows, _ = self.ok(path("cd.raw"), "--dtype", "int16", "--channels", "2", "--channel", "2", "--resample",
                          "--source-rate", "44100", "--rate", "16000", "--families", "anomaly")
        self.assertEqual(len(rows["raw:cd.raw"]["anomaly"]), 16000)

    def test_bytes(self):
        """A model of bytes takes any file as such; a record is a line. From standard input it is the same."""
        text = "".join(f"a line, number {i}\n" for i in range(300)) + "no end"
        model = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "ssm", "golden", "bytes")
        result = subprocess.run([MAMBACTL, "run", "-m", model, write("a.log", text), write("b.csv", text), "-"],
                                input=text.encode(), capture_output=True)
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        seen = {}
        for line in result.stdout.splitlines():
            m = json.loads(line)
            if m["topic"].startswith("anomaly/"):
                seen.setdefault(m["stream"], []).extend(zip(m["spans"], map(tuple, m["data"])))
            elif m.get("event") == "end":
                self.assertEqual(m["count"], len("no end"))
            else:
                self.assertEqual(m.get("event"), "start")
        self.assertEqual(sorted(seen), ["bytes:-", "bytes:a.log", "bytes:b.csv"])
        self.assertEqual([span for span, _ in seen["bytes:-"]], [len(line) for line in text.splitlines(True)][:-1])
        self.assertEqual(seen["bytes:a.log"], seen["bytes:-"])
        self.assertEqual(seen["bytes:b.csv"], seen["bytes:-"])
        self.assertTrue(all(p is None for _, (_, p, _) in seen["bytes:-"][:256]))
        self.assertTrue(all(0 < p <= 1 for _, (_, p, _) in seen["bytes:-"][256:]))

    def test_files_out(self):
        csv = write("b.csv", "".join(f"{x}\n" for x in SIGNAL))
        out = write("out.jsonl", "what was there\n")
        result = run(csv, "-o", out, "-o", "-")
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        with open(out, "rb") as f:
            self.assertEqual(outputs(f.read()), outputs(result.stdout))

    def test_hdf5_out(self):
        csv = write("c.csv", "".join(f"{x}\n" for x in SIGNAL))
        rows, _ = self.ok(csv, "-o", "-", "-o", path("out.h5"))
        with h5py.File(path("out.h5"), "r") as f:
            self.assertEqual(len(f["anomaly"]), len(rows["csv:c.csv"]["anomaly"]))
            self.assertEqual(len(f["prediction"]), len(rows["csv:c.csv"]["prediction"]))
        os.remove(path("out.h5"))
        self.assertEqual(run(write("d.csv", "1\n2\n3\nx\n"), "-o", path("out.h5")).returncode, 65)
        self.assertFalse(os.path.exists(path("out.h5")), "a run that failed leaves no file")
        self.assertEqual([n for n in os.listdir(HOME.name) if n.startswith(".")], [])

    def test_a_run_that_failed_leaves_what_was_there(self):
        good, bad = write("e.csv", "1\n2\n3\n4\n5\n"), write("f.csv", "1\n2\n3\nx\n")
        out = write("kept.jsonl", "what was there\n")
        for inputs in ((good, write("text.wav", "not a sound")), (good, bad)):
            self.assertEqual(run(*inputs, "-o", out).returncode, 65)
            with open(out, encoding="utf-8") as f:
                self.assertEqual(f.read(), "what was there\n")
        os.mkfifo(path("pipe.jsonl"))  # written in place
        with subprocess.Popen(["cat", path("pipe.jsonl")], stdout=subprocess.PIPE) as reader:
            self.assertEqual(run(good, "-o", path("pipe.jsonl")).returncode, 0)
            self.assertIn("csv:e.csv", outputs(reader.stdout.read())[0])
        self.assertEqual([n for n in os.listdir(HOME.name) if n.startswith(".")], [])

    def test_irregular_times_in_hdf5(self):
        times = [10 * i * i for i in range(200)]
        csv = write("i.csv", "time,v\n" + "".join(f"{t},{x}\n" for t, x in zip(times, SIGNAL)))
        self.ok(csv, "-o", path("i.h5"))
        with h5py.File(path("i.h5"), "r") as f:
            rows, ahead = f["anomaly"][:], f["prediction"][:]
        self.assertEqual([t // 10**9 for t in rows["t_ns"]], times, "every row has its own time")
        self.assertEqual([t // 10**9 for t in ahead["t_ns"]], [t + 10 for t in times[3::4]], "the last one's and the interval")

    def test_bad_line(self):
        result = run(write("bad.csv", "v\n1\n2\n3\n4\n5\nx\n"))
        self.assertEqual(result.returncode, 65)
        self.assertIn(b"bad.csv:7", result.stderr)
        rows, events = outputs(result.stdout)
        self.assertEqual(len(rows["csv:bad.csv"]["anomaly"]), 4)
        self.assertIn(("csv:bad.csv", "error"), events)

    def test_errors(self):
        good = write("good.csv", "1\n2\n3\n")
        text = write("text.wav", "not a sound")
        not_hdf5 = write("text.h5", "not HDF5")
        cases = [
            (64, "a model is needed", [MAMBACTL, "run", good]),
            (64, "an input is needed", []),
            (64, "ends in .jsonl or .h5", [good, "-o", "x.txt"]),
            (64, "--set", [good, "--set", "x"]),
            (65, "text.wav", [text]),
            (65, "text.h5", [not_hdf5]),
            (65, "nothere", [path("h.h5") + ":/nothere"]),
            (66, "none.csv", [path("none.csv")]),
            (66, "none*.wav", [path("none*.wav")]),
            (74, "dir/x.jsonl", [good, "-o", path("dir/x.jsonl")]),
            (74, "dir/x.h5", [good, "-o", path("dir/x.h5")]),
            (78, "rate", [good, "--rate", "fast"]),
            (78, "famly", [good, "--families", "famly"]),
            (78, "inputs.csv.delimter", [good, "--set", "inputs.csv.delimter=tab"]),
        ]
        with h5py.File(path("h.h5"), "w") as f:
            f["here"] = [1.0, 2.0]
        for code, said, args in cases:
            result = subprocess.run(args, stderr=subprocess.PIPE) if args[:1] == [MAMBACTL] else run(*args)
            self.assertEqual(result.returncode, code, (args, result.stderr))
            self.assertIn(said, result.stderr.decode(), args)
        result = run(good, model=path("no-model"))
        self.assertEqual(result.returncode, 78)
        self.assertIn(b"no-model", result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
