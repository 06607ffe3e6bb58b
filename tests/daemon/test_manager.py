#!/usr/bin/python3
"""mambad under a service manager: what it tells NOTIFY_SOCKET, when it stops feeding the watchdog, how its log looks to the
journal, and that the unit that ships with it shuts it in.   test_manager.py MAMBAD MAMBACTL FAKE_DEVICE CONFIGS"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import MAMBACTL, MAMBAD, PATIENCE, Running, free_port, run  # noqa: E402

FAKE_DEVICE, CONFIGS = (os.path.abspath(p) for p in sys.argv[3:5])


class Manager(Running):
    def listen(self, name):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.socket.settimeout(PATIENCE)
        return {**os.environ, "NOTIFY_SOCKET": name}

    def hear(self):
        return self.socket.recv(4096).decode()

    def passed_over(self):
        """All that was said until now."""
        self.socket.settimeout(0)
        try:
            while self.hear():
                pass
        except BlockingIOError:
            self.socket.settimeout(PATIENCE)

    def heard_within(self, seconds):
        """Everything said from now on."""
        said, deadline = [], time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                said.append(self.hear())
            except TimeoutError:
                break
        self.socket.settimeout(PATIENCE)
        return said

    def test_ready_and_stopping(self):
        for name in (self.path("notify"), "@mambad-test-" + os.path.basename(self.dir)):
            with self.subTest(name):
                self.live(env=self.listen(name))
                self.assertEqual(self.hear(), "READY=1\nSTATUS=1 model, 2 inputs, 1 output")
                self.daemon.send_signal(signal.SIGTERM)
                self.assertEqual(self.hear(), "STOPPING=1\nSTATUS=draining")
                self.assertEqual(self.daemon.wait(PATIENCE), 0)

    def test_nobody_listens(self):
        for name in (self.path("gone"), "@", "relative", "/" + "x" * 200, ""):
            with self.subTest(name):
                self.live(env={**os.environ, "NOTIFY_SOCKET": name})
                self.daemon.send_signal(signal.SIGTERM)
                self.assertEqual(self.daemon.wait(PATIENCE), 0)

    def watched(self, **more):
        env = {**self.listen(self.path("notify")), "WATCHDOG_USEC": "200000", "LD_LIBRARY_PATH": FAKE_DEVICE, **more}
        return self.live("--set", "models.m.device=cuda", env=env)

    def test_an_idle_daemon_is_alive(self):
        control = self.watched()
        self.wait(lambda: self.status(control)["inputs"]["a"]["done"])
        self.assertEqual(self.hear().split("\n")[0], "READY=1")
        self.assertGreater(self.heard_within(2).count("WATCHDOG=1"), 5)

    def test_a_hung_batch_stops_the_watchdog(self):
        control = self.watched(FAKE_DEVICE_HANG_AT="1")
        self.wait(lambda: self.status(control)["models"]["m"]["batches_total"] >= 1)
        time.sleep(0.5)
        self.passed_over()
        self.assertNotIn("WATCHDOG=1", self.heard_within(2))

    def rows(self, name):
        """{what a row is known by: the row}; no row is there twice."""
        rows = {}
        for m in self.lines(name):
            family = m["topic"].split("/")[0]
            for i, row in enumerate(m.get("data", ())):
                key = (family, m["epoch"], m["seq"] + i * m["stride"])
                self.assertNotIn(key, rows)
                rows[key] = row
        return rows

    def test_a_failed_device_stops_the_watchdog(self):
        """Nothing that came to it counts as done: started again, the daemon goes on from before, and no row is missing or
        another. One that ends by itself says by its code that its outputs are not whole."""
        def launch(out, *args, env=None):
            config = self.config(f"a: {{type: audio, files: {self.wav('a.wav', 20000)}}}", f"o: {{type: jsonl, path: DIR/{out}}}",
                                 more=f"state: {{dir: DIR/{out}-state}}")
            self.launch(config, *args, env=env)

        launch("whole", "--once")
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        env = {**self.listen(self.path("notify")), "WATCHDOG_USEC": "200000", "LD_LIBRARY_PATH": FAKE_DEVICE}
        on_device = ("out", "--set", "models.m.device=cuda")
        launch(*on_device, env={**env, "FAKE_DEVICE_FAIL_AT": "3"})
        self.wait(lambda: "the device failed: it was told to" in self.said())
        time.sleep(0.5)
        self.passed_over()
        self.assertNotIn("WATCHDOG=1", self.heard_within(2))
        self.daemon.send_signal(signal.SIGABRT)
        self.daemon.wait(PATIENCE)
        for failing, code in (("3", 69), ("", 0)):
            launch(*on_device, "--once", env={**env, "FAKE_DEVICE_FAIL_AT": failing})
            self.assertEqual(self.daemon.wait(PATIENCE), code, self.said())
            self.assertEqual("no snapshot at the end: the device of model m failed; the one before stays" in self.said(), code != 0, self.said())
        self.assertEqual(self.rows("out"), self.rows("whole"))

    def test_a_failed_device_is_not_got_over(self):
        """Neither by a reload to another nor for a stream that has ended; and no lesser failure hides it."""
        self.path("wrong.csv", "a\n1\nx\n")
        inputs = f"a: {{type: audio, files: {self.wav('a.wav', 20000)}}}, w: {{type: csv, files: DIR/wrong.csv}}"
        more = "state: {dir: DIR/state, interval: 1h}\nserver: {control: \"ipc://DIR/control\"}"
        model = self.model + ", device: "
        control = self.start(self.config(inputs, model=model + "cuda", more=more),
                             env={**os.environ, "LD_LIBRARY_PATH": FAKE_DEVICE, "FAKE_DEVICE_FAIL_AT": "3"})
        self.wait(lambda: all(i["done"] for i in self.status(control)["inputs"].values()) and "the device failed" in self.said())
        self.wait(lambda: all(s["state"] == "ended" for s in json.loads(run(MAMBACTL, "streams", "--control", control, "--json").stdout)))
        self.check(run(MAMBACTL, "snapshot", "--control", control), 74, "the device of model m failed")
        self.check(run(MAMBACTL, "snapshot", "--stream", "a:a.wav", "-o", self.path("s"), "--control", control), 69, "a device that failed")
        self.config(inputs, model=model + "cpu", more=more)
        self.check(run(MAMBACTL, "reload", "--control", control), 78, "that needs a restart")
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 69, self.said())

    def test_a_failed_device_leaves_no_output(self):
        env = {**os.environ, "LD_LIBRARY_PATH": FAKE_DEVICE, "FAKE_DEVICE_FAIL_AT": "3"}
        result = run(MAMBACTL, "run", "-m", self.model, "--set", "models.model.device=cuda", self.wav("a.wav", 20000), "-o", self.path("out.jsonl"), env=env)
        self.check(result, 69, "the device failed: it was told to")
        self.assertFalse(os.path.exists(self.path("out.jsonl")))

    def test_the_watchdog_of_another_process(self):
        self.watched(WATCHDOG_PID="1")
        self.assertEqual(self.hear().split("\n")[0], "READY=1")
        self.assertNotIn("WATCHDOG=1", self.heard_within(1.5))

    def test_the_journal(self):
        log = self.path("log")
        open(log, "w").close()
        st = os.stat(log)
        control = self.live(env={**os.environ, "JOURNAL_STREAM": f"{st.st_dev}:{st.st_ino}"})
        run(MAMBACTL, "status", "--control", control)
        self.wait(lambda: re.search(r"(?m)^<6>mambad \S+ runs: 1 model, 2 inputs, 1 output$", self.said()))


class Unit(Running):
    UNIT = os.path.join(CONFIGS, "mambad.service")

    def allowed(self):
        """The system calls that the unit's filters leave, by systemd's own sets."""
        said = subprocess.run(["systemd-analyze", "syscall-filter"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
        sets, name = {}, None
        for line in said.splitlines():
            if line.startswith("@"):
                name = line.strip()
                sets[name] = []
            elif name and line.strip() and not line.strip().startswith("#"):
                sets[name].append(line.strip())

        def calls(name):
            return {c for n in sets[name] for c in calls(n)} if name in sets else {name}
        left = calls("@default")
        with open(self.UNIT, encoding="utf-8") as f:
            for line in re.findall(r"(?m)^SystemCallFilter=(.*)$", f.read()):
                for name in line.strip("~").split():
                    left = left - calls(name) if line.startswith("~") else left | calls(name)
        return left if "@system-service" in sets else None

    def test_system_calls(self):
        """libzmq ends the process where one is denied that it takes for granted."""
        with open(MAMBAD, "rb") as f:
            if b"__asan_init" in (program := f.read()) or b"__tsan_init" in program:
                self.skipTest("a sanitizer makes calls of its own")
        if not shutil.which("systemd-analyze") or not shutil.which("strace") or not self.allowed():
            self.skipTest("no systemd-analyze or no strace")
        trace = self.path("trace")
        config = self.config(f"z: {{type: zmq, pattern: pull, bind: \"tcp://127.0.0.1:{free_port()}\"}}, "
                             f"a: {{type: audio, files: {self.wav('a.wav')}}}",
                             more="server: {control: \"ipc://DIR/control\"}\nstate: {dir: DIR/state, interval: 100ms}")
        daemon = subprocess.Popen(["strace", "-f", "-qq", "-o", trace, MAMBAD, "-c", config], stderr=subprocess.DEVNULL)
        self.addCleanup(lambda: daemon.poll() is None and daemon.kill())
        self.daemon = daemon
        self.path("log", "")
        self.wait(lambda: run(MAMBACTL, "reload", "--control", self.path("control")).returncode == 0)
        run(MAMBACTL, "drain", "--control", self.path("control"))
        self.assertEqual(daemon.wait(PATIENCE), 0)
        with open(trace, encoding="utf-8", errors="replace") as f:
            used = set(re.findall(r"(?m)^\d+ +(?:<\.\.\. )?([a-z_0-9]+)\(", f.read()))
        self.assertIn("sched_setscheduler", used)
        self.assertEqual(used - self.allowed(), set())

    def test_exposure(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("no systemd-analyze")
        said = subprocess.run(["systemd-analyze", "security", "--offline=yes", self.UNIT],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
        level = re.search(r"Overall exposure level for mambad.service: ([0-9.]+)", said)
        if not level:
            self.skipTest("systemd-analyze cannot judge a unit offline: " + said[-200:])
        self.assertLessEqual(float(level.group(1)), 2.0, said)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=1)
