"""What tests of the real mambad and mambactl share: their paths, from the command line, files and daemons in a folder that
goes again."""
import json
import os
import shutil
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

MAMBAD, MAMBACTL = (os.path.abspath(p) for p in sys.argv[1:3])
PATIENCE = 60  # seconds, for builds with sanitizers on a busy machine; nothing is timed


def run(*args, **more):
    return subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                          stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False, **more)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = tempfile.mkdtemp(prefix="mambad-test-cli-")
        cls.model = signal_model.write(os.path.join(cls.home, "model"))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.home)

    def setUp(self):
        self.dir = tempfile.mkdtemp(dir=self.home)

    def path(self, name, content=None):
        path = os.path.join(self.dir, name)
        if content is not None:
            with open(path, "wb" if isinstance(content, bytes) else "w") as out:
                out.write(content)
        return path

    def wav(self, name, samples=2000, rate=8000, channels=1):
        path = self.path(name)
        with wave.open(path, "wb") as out:
            out.setnchannels(channels)
            out.setsampwidth(2)
            out.setframerate(rate)
            out.writeframes(b"".join(struct.pack("<h", (i * i) % 4001 - 2000) * channels for i in range(samples)))
        return path

    def config(self, inputs="", outputs="o: {type: jsonl, path: DIR/out.jsonl}", model=None, more=""):
        text = f"models: {{m: {{path: {model or self.model}}}}}\n"
        text += f"inputs: {{{inputs}}}\n" if inputs else ""
        text += f"outputs: {{{outputs}}}\n" if outputs else ""
        return self.path("c.yaml", (text + more + "\n").replace("DIR", self.dir))

    def lines(self, name="out.jsonl"):
        """What an output holds; a last line that is not whole is on its way."""
        with open(self.path(name), encoding="utf-8") as f:
            return [json.loads(line) for line in f if line.endswith("\n")]

    def check(self, result, code, *texts):
        said = result.stdout + result.stderr
        self.assertEqual(result.returncode, code, said)
        self.assertNotIn("Sanitizer", said)
        self.assertNotIn("runtime error", said)
        for text in texts:
            self.assertIn(text.replace("DIR", self.dir), said)


class Running(Case):
    """One daemon at a time, with its control socket at DIR/control."""

    def launch(self, config, *args, **more):
        self.log = open(self.path("log"), "w+")
        self.addCleanup(self.log.close)
        self.daemon = subprocess.Popen([MAMBAD, "-c", config, *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log, **more)
        self.addCleanup(self.end)

    def start(self, config, *args, **more):
        """Launches it and returns its control socket, once that answers."""
        self.launch(config, *args, **more)
        control = self.path("control")
        self.wait(lambda: os.path.exists(control) and run(MAMBACTL, "status", "--control", control).returncode == 0)
        return control

    def end(self):
        if self.daemon.poll() is None:
            self.daemon.kill()
        self.daemon.wait(PATIENCE)

    def wait(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.assertIsNone(self.daemon.poll(), self.said())
            self.assertLess(time.monotonic(), deadline, self.said())
            time.sleep(0.05)

    def said(self):
        with open(self.path("log")) as f:
            return f.read()

    def status(self, control):
        return json.loads(run(MAMBACTL, "status", "--control", control, "--json").stdout)

    def live(self, *args, **more):
        return self.start(self.config("z: {type: zmq, pattern: pull, bind: \"ipc://DIR/z\"}, a: {type: audio, files: " + self.wav("a.wav") + "}",
                                      more="server: {control: \"ipc://DIR/control\", shutdown_timeout: 20s}"), *args, **more)
