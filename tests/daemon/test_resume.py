#!/usr/bin/python3
"""Kills the real mambad at random moments, starts it again, and compares what its outputs hold in the end with those of a
run that nothing disturbed: no row lost, double or different. On standard output a line of JSON for each kind of input: how
often it was killed, and how many rows were compared.   test_resume.py MAMBAD [SEED [KILLS [TEST]...]]"""
import collections
import glob
import itertools
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import wave

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import signal_model  # noqa: E402

MAMBAD = os.path.abspath(sys.argv[1])
SEED, KILLS = (int(sys.argv[i]) if len(sys.argv) > i else fallback for i, fallback in ((2, 20260101), (3, 4)))
BYTES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "ssm", "golden", "bytes")
CLIENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "reliable_client.py")
MAMBACTL = os.path.join(os.path.dirname(MAMBAD), "..", "tools", "mambactl")
PATIENCE = 300
EXCEPTED = ("latency_us", "run", "out_seq", "seq", "t_ns", "shape", "data", "topic", "spans")  # times: on a message's first row only
TELLING = ("restore", "error")  # events that speak of the restart

try:
    import h5py
    import numpy
except ImportError:
    h5py = None
try:
    import zmq
except ImportError:
    zmq = None


def rows_of_lines(path):
    """{(stream, family): [(what a row is known by: (epoch or event, seq); the rest)]} in their order; whatever the grouping."""
    rows = {}
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f):
            if not line.endswith("\n"):
                break  # on its way
            m = json.loads(line)
            family = m["topic"].split("/")[0]
            if family == "sys" or (family == "event" and m["event"] in TELLING):
                continue
            keys = json.dumps({k: v for k, v in m.items() if k not in EXCEPTED}, sort_keys=True)
            to = rows.setdefault((m["stream"], family), [])
            if family == "event":
                to.append(((m["event"], m["seq"]), (m["t_ns"], keys)))
            spans = m.get("spans") or [m["stride"]] * len(m["data"])
            for i, row in enumerate(m["data"]):
                to.append(((m["epoch"], m["seq"] + sum(spans[:i])), (m["out_seq"] + i, hash((keys, spans[i], json.dumps(row))))))
    return rows


def rows_of_tables(base):
    """The same from the segments of an HDF5 output, in their order."""
    rows = {}
    for path in sorted(glob.glob(base + "-*.h5")):
        with h5py.File(path, "r") as f:
            names = [n.decode() for n in f["streams"][:]]
            for family in ("prediction", "embedding", "anomaly", "surprise", "event"):
                table = f[family][:]
                beside = {"prediction": "prediction_values", "embedding": "embedding_values"}.get(family)
                values = f[beside][:] if beside else [None] * len(table)
                levels = f["quantiles"][:]
                for row, value in zip(table, values):
                    name = row["event"].decode() if family == "event" else int(row["epoch"])
                    if name in TELLING:
                        continue
                    fields = {n: row[n] for n in table.dtype.names if n not in ("stream", "latency_us", "run", "levels")}
                    if "levels" in table.dtype.names and len(levels):
                        fields["levels"] = levels[row["levels"]].tobytes()
                    rows.setdefault((names[row["stream"]], family), []).append(
                        ((name, row["seq"]), hash((repr(fields), value.tobytes() if value is not None else b""))))
    return rows


def difference(a, b):
    """How many of a list of rows the other one lacks, has too often, or has otherwise or elsewhere."""
    had, has = (collections.Counter(known for known, _ in rows) for rows in (a, b))
    lost, double = (had - has).total(), (has - had).total()
    if lost or double:
        different = (collections.Counter(b) - collections.Counter(a)).total() - double
    else:
        different = sum(x != y for x, y in zip(a, b))
    return {"lost": lost, "double": double, "different": different}


class Resume(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = tempfile.mkdtemp(prefix="mambad-test-resume-")
        cls.model = signal_model.write(os.path.join(cls.home, "model"))
        cls.random = random.Random(SEED)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.home)

    def setUp(self):
        self.dir = tempfile.mkdtemp(dir=self.home)
        self.rng = random.Random(f"{SEED} {self.id()}")

    def csvs(self, files, rows):
        for k in range(files):
            with open(os.path.join(self.dir, f"in-{k}.csv"), "w", encoding="utf-8") as out:
                out.write("a,b\n")
                for i in range(rows + 97 * k):
                    a = "" if self.rng.random() < 0.01 else f"{self.rng.gauss(k, 1):.6g}"
                    out.write(f"{a},{self.rng.gauss(-k, 2):.6g}\n")

    def logs(self, files, lines):
        """Of lines that repeat themselves, some longer than the limit on records."""
        for k in range(files):
            with open(os.path.join(self.dir, f"in-{k}.log"), "w", encoding="utf-8") as out:
                for i in range(lines + 31 * k):
                    out.write(f"host{k} job[{i}]: " + self.rng.choice(("done", "started", "took %d ms" % self.rng.randrange(99), "x" * 150)) + "\n")

    def bytes_model(self):
        self.model = BYTES
        self.publish = "{prediction: {every: 500}, surprise: {every: 7}, anomaly: true}"
        return "type: bytes, max_record: 100"

    def wavs(self, files, rows):
        for k in range(files):
            with wave.open(os.path.join(self.dir, f"in-{k}.wav"), "wb") as out:
                out.setnchannels(1)
                out.setsampwidth(2)
                out.setframerate(8000)
                out.writeframes(self.rng.randbytes(2 * rows))

    def hdf5s(self, files, rows):
        for k in range(files):
            with h5py.File(os.path.join(self.dir, f"in-{k}.h5"), "w") as f:
                n = rows + 131 * k
                draw = numpy.random.default_rng(SEED + k)
                f["x"] = draw.normal(size=n)
                f["t"] = numpy.cumsum(draw.choice((1, 1, 1, 7), n)) * 0.01 + 1.6e9

    def config(self, name, inputs, outputs, state, slots=64, more=""):
        path = os.path.join(self.dir, name)
        state = f"state: {{dir: {self.dir}/{name}.state, interval: 20ms, keep: 2}}\n" if state else ""
        with open(path, "w", encoding="utf-8") as out:
            out.write(f"models: {{m: {{path: {self.model}, slots: {slots}, threads: 1}}}}\ninputs: {{i: {inputs}}}\n"
                      f"outputs:\n{outputs.replace('OUT', os.path.join(self.dir, name))}"
                      "batch: {max_streams: 3}\n"
                      f"streams: {{'*': {{publish: {self.publish}}}}}\n" + state + more)
        return path

    publish = "{prediction: {every: 50, horizon: 2}, embedding: {every: 7}}"
    senders = []  # commands that send to the input and end when all is durable; without any, the input is files

    def start(self, config, once=True):
        return subprocess.Popen([MAMBAD, "-c", config, *(["--once"] if once and not self.senders else [])], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def send(self):
        sending = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in self.senders]
        for sender in sending:
            self.addCleanup(sender.kill)
        return sending

    def finish(self, config, sending=None):
        p, begun = self.start(config), time.monotonic()
        for sender in self.send() if sending is None else sending:
            _, err = sender.communicate(timeout=PATIENCE)
            self.assertEqual(sender.returncode, 0, err)
        length = time.monotonic() - begun
        if self.senders:
            self.await_socket(p)
            p.terminate()
        _, err = p.communicate(timeout=PATIENCE)
        self.assertEqual(p.returncode, 0, err)
        return length

    def killed(self, config, kills, length):
        """Starts and kills, so many times if it does not end before. Returns who still sends."""
        done, sending = 0, self.send()
        while done < kills and not (sending and all(s.poll() is not None for s in sending)):
            p = self.start(config)
            while not glob.glob(config + ".state/snapshot-*[0-9]") and p.poll() is None:
                time.sleep(0.01)  # before the first one nothing was written, and a torn file is the user's to remove
            self.await_rows(config + ".jsonl", sending)
            try:
                p.wait(timeout=0.02 + self.rng.uniform(0.0, 1.0) * (0.1 if sending else length / kills))
            except subprocess.TimeoutExpired:
                p.send_signal(signal.SIGKILL)
            _, err = p.communicate(timeout=PATIENCE)
            if p.returncode != -signal.SIGKILL:
                self.assertEqual(p.returncode, 0, err)
                break
            done += 1
        self.assertGreater(done, kills / 4, "the run was over before it could be killed")
        print(f"killed {done} times,", end=" ", file=sys.stderr, flush=True)
        self.measured["kills"] += done
        return sending

    def await_socket(self, process):
        """Where the senders had ended before, the daemon may have just begun: a signal would find no handler yet."""
        with socket.socket(socket.AF_UNIX) as s:
            while s.connect_ex(f"{self.dir}/in") and process.poll() is None:
                time.sleep(0.01)

    def await_rows(self, path, sending):
        """Senders take a moment to find the daemon again, in which there is nothing to be torn."""
        size = os.path.getsize(path)
        while any(s.poll() is None for s in sending) and os.path.getsize(path) <= size + 5000:
            time.sleep(0.005)

    def compare(self, a, b):
        for key in sorted({*a, *b}):
            of, to = a.get(key, []), b.get(key, [])
            self.measured["rows"] += len(of)
            self.measured.update(**difference(of, to))
            if of != to and not self.first:
                self.first = next(f"{key}, row {i}: {x} {y}" for i, (x, y) in enumerate(itertools.zip_longest(of, to)) if x != y)

    def check_lines(self, inputs, slots=64):
        out = "  o: {type: jsonl, path: OUT.jsonl}\n"
        out += "  h: {type: hdf5, path: OUT.out}\n" if h5py else ""
        undisturbed, killed = self.config("plain", inputs, out, False), self.config("killed", inputs, out, True, slots)
        self.measured, self.first = collections.Counter(kills=0, rows=0, lost=0, double=0, different=0), None
        length = self.finish(undisturbed)
        self.finish(killed, self.killed(killed, KILLS, length))
        self.compare(rows_of_lines(undisturbed + ".jsonl"), rows_of_lines(killed + ".jsonl"))
        if h5py:
            self.compare(rows_of_tables(undisturbed + ".out"), rows_of_tables(killed + ".out"))
        print(json.dumps({"test": self.id().split(".")[-1], **self.measured}), flush=True)
        self.assertEqual([self.measured[k] for k in ("lost", "double", "different")], [0, 0, 0], self.first)

    def events(self, path, name):
        with open(path, encoding="utf-8") as f:
            lines = [json.loads(line) for line in f]
        return [m for m in lines if m["topic"].startswith("event/") and m["event"] == name]

    def test_files_that_grow_or_change(self):
        """What was added is taken in a new epoch, without the rows before; another file under the same name is noticed."""
        self.csvs(1, 1000)
        config = self.config("c", f"{{type: csv, files: '{self.dir}/in-0.csv'}}", "  o: {type: jsonl, path: OUT.jsonl}\n", True)
        path, out = os.path.join(self.dir, "in-0.csv"), config + ".jsonl"
        self.finish(config)
        before = os.path.getsize(out)
        self.finish(config)
        rows = rows_of_lines(out)
        self.assertEqual([len(rows[key]) for key in rows if key[1] == "anomaly"], [1000])
        self.assertGreaterEqual(os.path.getsize(out), before)
        with open(path, "a", encoding="utf-8") as f:
            f.write("1,2\n" * 8)
        self.finish(config)
        rows = [r for key, of in rows_of_lines(out).items() if key[1] == "anomaly" for r in of]
        self.assertEqual([r[0][1] for r in rows], list(range(1008)))
        self.assertEqual([r[0][0] for r in rows], [0] * 1000 + [1] * 8)
        self.assertEqual(self.events(out, "gap"), [])
        with open(path, "w", encoding="utf-8") as f:
            f.write("a,b\n" + "7,8\n" * 1100)
        self.finish(config)
        gap, = self.events(out, "gap")
        self.assertEqual((gap["reason"], gap["from_seq"], gap["to_seq"]), ("rotation", 0, 1007))
        rows = [r for key, of in rows_of_lines(out).items() if key[1] == "anomaly" for r in of]
        self.assertEqual([r[0][1] for r in rows], list(range(1100)))
        with open(path, "w", encoding="utf-8") as f:
            f.write("a,b\n" + "7,8\n" * 90)
        self.finish(config)
        self.assertEqual([(m["reason"], m["from_seq"], m["to_seq"]) for m in self.events(out, "gap")[1:]], [("truncation", 0, 89)])

    def test_csv(self):
        self.csvs(4, 5000 * KILLS)
        self.check_lines(f"{{type: csv, files: '{self.dir}/in-*.csv'}}")

    def test_csv_spilled(self):
        """Six streams of which two have slots at a time, and none rests by itself."""
        self.csvs(6, 5000 * KILLS)
        self.check_lines(f"{{type: csv, files: '{self.dir}/in-*.csv', queue: 4000}}", slots=4)

    def test_bytes(self):
        keys = self.bytes_model()
        self.logs(3, 900 * KILLS)
        self.check_lines(f"{{{keys}, files: '{self.dir}/in-*.log'}}", slots=2)

    def follow(self, config, out, rows):
        """Runs a daemon that follows until the output has so many rows of records, and a snapshot has them, then kills it."""
        p, until = self.start(config, once=False), time.monotonic() + PATIENCE
        count = lambda: sum(len(v) for key, v in rows_of_lines(out).items() if key[1] == "anomaly") if os.path.exists(out) else 0
        while count() < rows and p.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        subprocess.run([MAMBACTL, "snapshot", "-c", config], check=True, timeout=PATIENCE)
        p.kill()
        p.communicate()
        self.assertEqual(count(), rows)

    def test_log_rotated(self):
        """Renamed away between two lives, and cut off: the stream, its state and its calibrator go on, and the gap is said."""
        config = self.config("r", f"{{{self.bytes_model()}, files: {self.dir}/a.log, follow: true, poll: 10ms}}",
                             "  o: {type: jsonl, path: OUT.jsonl}\n", True, more=f"server: {{control: 'ipc://{self.dir}/control'}}\n")
        path, out = os.path.join(self.dir, "a.log"), config + ".jsonl"

        def write(mode, lines):
            with open(path, mode, encoding="utf-8") as f:
                f.write("".join(f"line {i}\n" for i in lines))
        write("w", range(300))
        self.follow(config, out, 300)
        write("a", range(300, 310))
        self.follow(config, out, 310)  # goes on where it was
        self.assertEqual(self.events(out, "gap"), [])
        os.rename(path, path + ".1")
        write("w", range(1000, 1400))  # longer than what was read of the old one
        self.follow(config, out, 710)
        write("w", range(5))
        self.follow(config, out, 715)
        write("w", range(2))  # fewer bytes than a file is known again by
        self.follow(config, out, 717)
        write("a", [2])
        self.follow(config, out, 718)
        gaps = [(m["reason"], m["from_seq"]) for m in self.events(out, "gap")]
        old = sum(len(f"line {i}\n") for i in range(310))
        cut = old + 400 * len("line 1000\n")
        self.assertEqual(gaps, [("rotation", old), ("truncation", cut), ("truncation", cut + 5 * len("line 0\n"))])
        rows, = (of for key, of in rows_of_lines(out).items() if key[1] == "anomaly")
        self.assertEqual({r[0][0] for r in rows}, {0})
        self.assertEqual([r[0][1] for r in rows[-8:]], [cut + 7 * i for i in range(8)])
        self.assertEqual(self.events(out, "reset"), [])

    def test_audio(self):
        self.wavs(4, 12000 * KILLS)
        self.check_lines(f"{{type: audio, files: '{self.dir}/in-*.wav', resample: true, rate: 6000}}")

    @unittest.skipUnless(h5py, "h5py is not installed")
    def test_hdf5(self):
        self.hdf5s(4, 12000 * KILLS)
        self.check_lines(f"{{type: hdf5, files: '{self.dir}/in-*.h5', dataset: /x, time: /t}}")

    def check_router(self, senders):
        self.senders = senders
        self.check_lines(f"{{type: zmq, pattern: router, bind: 'ipc://{self.dir}/in'}}")

    @unittest.skipUnless(zmq and h5py, "python3-zmq or python3-numpy is not installed")
    def test_router(self):
        """Four clients in Python that keep what no snapshot has."""
        for k in range(4):
            with open(os.path.join(self.dir, f"in-{k}.txt"), "w", encoding="utf-8") as out:
                for _ in range(5000 * KILLS + 97 * k):
                    out.write(f"{self.rng.gauss(k, 1):.6g} {self.rng.gauss(-k, 2):.6g}\n")
        self.check_router([[sys.executable, CLIENT, f"ipc://{self.dir}/in", f"s{k}", f"{self.dir}/in-{k}.txt"]
                           for k in range(4)])

    @unittest.skipUnless(os.path.exists(MAMBACTL), "mambactl is not built")
    def test_router_feed(self):
        """mambactl feed --reliable: tables, by one that is killed as well; and standard input, which cannot be read again."""
        self.csvs(3, 5000 * KILLS)
        with open(os.path.join(self.dir, "raw"), "wb") as out:
            out.write(struct.pack(f"<{10000 * KILLS}f", *(self.rng.gauss(0, 1) for _ in range(10000 * KILLS))))
        feed = f"{MAMBACTL} feed --reliable --quiet --connect ipc://{self.dir}/in"
        files = f"{feed} {self.dir}/in-*.csv"
        times = []
        if h5py:  # rows with times of their own
            self.hdf5s(2, 6000 * KILLS)
            times = [["sh", "-c", f"exec {feed} --time /t --stream '{{stem}}.t' {self.dir}/in-0.h5:/x {self.dir}/in-1.h5:/x"]]
        self.check_router([["sh", "-c", f"timeout -s KILL 1 {files}; exec {files}"], *times,
                           ["sh", "-c", f"cat {self.dir}/raw | {feed} --chunk 100 --channels 2 --keep 1 -"]])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2)
