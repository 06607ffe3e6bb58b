#!/usr/bin/python3
"""GNU Radio's own ZeroMQ sinks feed the real mambad; its scores must be those of the same samples from a file, bit for bit,
under the numbers that the sinks give them.   test_gnuradio.py MAMBAD"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import unittest

try:
    import pmt
    from gnuradio import blocks, gr, zeromq
except ImportError:
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import signal_model  # noqa: E402

MAMBAD = os.path.abspath(sys.argv[1])
ROWS = 4000


def tags(rng):
    values = (pmt.intern("x"), pmt.from_long(-5), pmt.from_uint64(2 ** 63), pmt.from_double(1.5), pmt.PMT_T, pmt.PMT_NIL,
              pmt.from_complex(1 + 2j), pmt.init_f32vector(3, [1, 2, 3]), pmt.make_vector(4, pmt.intern("deep")),
              pmt.make_tuple(pmt.from_long(1), pmt.from_long(2)),
              pmt.dict_add(pmt.dict_add(pmt.make_dict(), pmt.intern("a"), pmt.from_long(1)), pmt.intern("b"), pmt.PMT_F))
    return [gr.python_to_tag((rng.randrange(ROWS), pmt.intern("key"), value, pmt.intern("src"))) for value in values * 20]


class GnuRadio(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="mambad-test-gnuradio-")
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        signal_model.write(f"{self.dir}/model")

    def daemon(self, name, inputs, *args):
        with open(f"{self.dir}/{name}.yaml", "w", encoding="utf-8") as out:
            out.write(f"models: {{m: {{path: {self.dir}/model, slots: 16, threads: 1}}}}\ninputs: {{{inputs}}}\n"
                      f"outputs: {{o: {{type: jsonl, path: {self.dir}/{name}}}}}\n")
        return subprocess.Popen([MAMBAD, "-c", f"{self.dir}/{name}.yaml", *args], stderr=subprocess.DEVNULL)

    def rows(self, name):
        rows = {}
        with open(f"{self.dir}/{name}", encoding="utf-8") as f:
            for m in map(json.loads, f):
                self.assertNotIn(m.get("event"), ("gap", "drop", "error"), m)
                if m["topic"].startswith("anomaly/"):
                    rows.setdefault(m["stream"], []).extend((m["seq"] + i, row) for i, row in enumerate(m["data"]))
        return rows

    def test_sinks(self):
        rng = random.Random(5)
        x = [struct.unpack("<2f", struct.pack("<2f", rng.gauss(0, 1), rng.gauss(3, 2))) for _ in range(ROWS)]
        with open(f"{self.dir}/x.csv", "w", encoding="utf-8") as out:
            out.write("a,b\n" + "".join("%.17g,%.17g\n" % row for row in x))
        self.assertEqual(self.daemon("file", f"f: {{type: csv, files: {self.dir}/x.csv, stream: file}}", "--once").wait(60), 0)
        common = "type: zmq, format: gnuradio, channels: 2"
        ends = [f"ipc://{self.dir}/{k}" for k in range(3)]
        live = self.daemon("live", f"tagged: {{{common}, pattern: pull, pass_tags: true, connect: '{ends[0]}'}}, "
                           f"plain: {{{common}, pattern: pull, connect: '{ends[1]}'}}, "
                           f"keyed: {{{common}, pattern: sub, topic: true, pass_tags: true, connect: '{ends[2]}'}}")
        flat = [v for row in x for v in row]
        complex_x = [complex(*row) for row in x]
        graph = gr.top_block()
        vector = blocks.vector_source_f(flat, False, 2, tags(rng))
        complex_ = blocks.vector_source_c(complex_x, False, 1)
        sinks = [zeromq.push_sink(4, 2, ends[0], 100, True, -1), zeromq.push_sink(8, 1, ends[1], 100, False, -1),
                 zeromq.pub_sink(4, 2, ends[2], 100, True, -1, "radio")]
        time.sleep(2)  # the daemon's sockets connect, and the publisher hears of its subscriber
        graph.connect(vector, sinks[0])
        graph.connect(complex_, sinks[1])  # an item of two floats is a row of two channels
        graph.connect(vector, sinks[2])
        graph.start()
        graph.wait()
        want = [(seq, row) for seq, row in self.rows("file")["file"]]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and sum(map(len, self.rows("live").values())) < 3 * ROWS:
            time.sleep(0.1)
        live.terminate()
        self.assertEqual(live.wait(30), 0)
        rows = self.rows("live")
        self.assertEqual(sorted(rows), ["plain", "radio", "tagged"])
        for stream, got in rows.items():
            self.assertEqual(got, want, stream)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
