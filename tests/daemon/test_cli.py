#!/usr/bin/python3
"""Runs the real mambad and mambactl: what they say about wrong command lines, configurations, models and files, with
which exit code, and what signals do to a running daemon.   test_cli.py MAMBAD MAMBACTL GOLDEN [CONFIGS]"""
import json
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import signal_model  # noqa: E402
from cases import MAMBACTL, MAMBAD, PATIENCE, Case, Running, run  # noqa: E402

GOLDEN, CONFIGS = (os.path.abspath(p) for p in sys.argv[3:5])


class CommandLine(Case):
    def test_usage_errors_are_64(self):
        for args, text in (([], "a configuration is needed"), (["--frobnicate"], "unrecognized option '--frobnicate'"),
                           (["-c"], "requires an argument"), (["-c", "x", "y"], "unexpected argument y"),
                           (["-c", "x", "--set", "novalue"], "--set needs KEY.PATH=VALUE"), (["--check=3"], "doesn't allow an argument")):
            with self.subTest(args):
                self.check(run(MAMBAD, *args), 64, text, "usage: mambad -c FILE")
        for args, text in (([], "usage: mambactl"), (["frob"], "unknown command 'frob'"),
                           (["status", "--frob"], "usage: mambactl status"), (["streams", "a", "b"], "unexpected argument b"),
                           (["streams", "--limit", "0"], "--limit: '0' is not"), (["status", "--timeout", "x"], "--timeout: 'x' is not a duration"),
                           (["restore"], "usage: mambactl restore"), (["reset"], "usage: mambactl reset"), (["generate"], "usage: mambactl generate")):
            with self.subTest(args):
                self.check(run(MAMBACTL, *args), 64, text)

    def test_help_and_version(self):
        for binary, name in ((MAMBAD, "mambad"), (MAMBACTL, "mambactl")):
            self.check(run(binary, "--version"), 0, name + " 0.")
            self.check(run(binary, "--help"), 0, "usage: " + name)
        self.check(run(MAMBACTL, "status", "--help"), 0, "--control", "--json")
        self.check(run(MAMBACTL, "streams", "--help"), 0, "--limit", "--json")

    def test_help_names_every_option(self):
        said = run(MAMBAD, "--help").stdout
        for option in ("--config", "--check", "--once", "--set", "--print-config", "--version", "--help"):
            self.assertIn(option, said)

    def test_standard_output_that_takes_nothing_is_74(self):
        model, bytes_model = self.path("model"), os.path.join(GOLDEN, "bytes")
        signal_model.write(model)
        for args in (["--help"], ["--version"], ["inspect", model], ["inspect", "--json", model], ["keygen", self.path("k")],
                     ["generate", "-q", "-n", "9", "-m", bytes_model], ["eval", "forecast", "--help"], ["bench", "--help"]):
            with self.subTest(args), open("/dev/full", "w") as full:
                said = subprocess.run([MAMBACTL, *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
                self.assertEqual(said.returncode, 74)
                self.assertIn("standard output cannot be written", said.stderr)

    def test_no_daemon_is_69(self):
        env = {k: v for k, v in os.environ.items() if k != "MAMBAD_CONTROL"}
        self.check(run(MAMBACTL, "status", env=env), 64, "which daemon?")
        self.check(run(MAMBACTL, "status", "--control", self.path("none")), 69, "No such file or directory")
        stale = self.path("stale")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(stale)
        self.check(run(MAMBACTL, "status", env={**env, "MAMBAD_CONTROL": "ipc://" + stale}), 69, "nobody serves it")
        self.check(run(MAMBACTL, "status", "-c", self.config()), 78, "has no server.control")
        self.check(run(MAMBACTL, "status", "-c", self.path("none")), 66)

    def test_print_config_reads_back(self):
        config = self.config("i: {type: zmq, pattern: sub, connect: \"ipc://DIR/x\", rate: 5}", more="streams: {\"a*\": {nan: hold}}")
        first = run(MAMBAD, "-c", config, "--set", "batch.max_delay=3ms", "--print-config")
        self.check(first, 0, "max_delay: 3ms", "when_full: drop_oldest", "nan: hold")
        second = run(MAMBAD, "-c", self.path("again.yaml", first.stdout), "--print-config")
        self.check(second, 0)
        self.assertEqual(first.stdout, second.stdout)

    def test_configuration_on_standard_input(self):
        with open(self.config(outputs=""), "rb") as text:
            result = subprocess.run([MAMBAD, "-c", "-", "--check"], stdin=text, capture_output=True, text=True, timeout=PATIENCE, check=False)
        self.check(result, 0, "(stdin) is valid: 1 model, 0 inputs, 0 outputs")


class WrongConfigurations(Case):
    def wrong(self, text, *says, args=()):
        path = self.path("w.yaml", text.replace("MODEL", self.model))
        for mode in ([], ["--check"], ["--once"], ["--print-config"]):
            with self.subTest(text=text, mode=mode):
                self.check(run(MAMBAD, "-c", path, *mode, *args), 78, *(s.replace("FILE", path) for s in says))

    def test_place_and_reason(self):
        self.wrong("models: {m: {path: MODEL}}\nlog:\n  levle: info\n", "FILE:3:3: error: log: unknown key 'levle' (did you mean 'level'?)\n  levle: info\n  ^\n")
        self.wrong("batch: {max_delay: 5}\n", "FILE:1:20: error: batch.max_delay: '5' is not a duration")
        self.wrong("models: [x\n", "FILE:2:1: error: flow sequence without a closing bracket")
        self.wrong("inputs: {i: {type: kafka}}\n", "FILE:1:20: error: inputs.i.type: unknown type 'kafka' (valid: ")
        self.wrong("http: {port: 80}\n", "FILE:1:1: error: http: not in this version")
        self.wrong("log: {level: \"${NOT_SET_ANYWHERE}\"}\n", "FILE:1:14: error: environment variable NOT_SET_ANYWHERE is not set")

    def test_every_error_is_said(self):
        self.wrong("log: {level: x}\nbatch: {max_streams: 0}\nstate: {}\n", "FILE:1:14: error: ", "FILE:2:22: error: ",
                   "FILE:3:1: error: state: missing key 'dir'")

    def test_set_is_named(self):
        self.wrong("models: {m: {path: MODEL}}\n", "--set models.m.slots=none: error: models.m.slots: 'none' is not an integer",
                   args=("--set", "models.m.slots=none"))

    def test_incomplete_is_valid_only_for_check(self):
        path = self.config(outputs="")
        self.check(run(MAMBAD, "-c", path, "--check"), 0, "is valid")
        self.check(run(MAMBAD, "-c", path), 78, f"{path}: error: there are no inputs", f"{path}: error: there are no outputs")

    def test_no_file_is_66(self):
        self.check(run(MAMBAD, "-c", self.path("none.yaml")), 66, "DIR/none.yaml: error: No such file or directory")
        self.check(run(MAMBAD, "-c", self.dir, "--check"), 66, "Is a directory")

    def test_examples_are_valid(self):
        if "cannot be had" in run(MAMBAD, "-c", os.path.join(CONFIGS, "full.yaml"), "--check").stderr:
            self.skipTest("this build lacks an adapter")
        for name in ("minimal.yaml", "demo.yaml", "full.yaml"):
            path = os.path.join(CONFIGS, name)
            self.check(run(MAMBAD, "-c", path, "--check", "--set", "models.forecast.path=" + self.model), 0, "is valid")
        self.check(run(MAMBAD, "-c", "configs/logs.yaml", "--check", cwd=os.path.dirname(CONFIGS)), 0, "is valid")

    def test_the_logs_example_scores_a_growing_log(self):
        """With the model that ships: a line of each that the log had not is stranger than all of its own."""
        log, out = self.path("app.log", "".join(f"job {i} is done\n" for i in range(290))), self.path("out.jsonl")
        daemon = subprocess.Popen([MAMBAD, "-c", "configs/logs.yaml", "--set", "inputs.log.files=" + log, "--set",
                                   "outputs.lines.path=" + out, "--set", "state.dir=" + self.path("state")],
                                  cwd=os.path.dirname(CONFIGS), stderr=subprocess.DEVNULL)
        self.addCleanup(daemon.kill)
        rows = []
        for n in range(290, 310):
            with open(log, "a", encoding="utf-8") as f:
                f.write("disk sda1 failed\n" if n == 304 else f"job {n} is done\n")
            until = time.monotonic() + 240
            while len(rows) <= n and time.monotonic() < until:
                time.sleep(0.05)
                if os.path.exists(out):
                    rows = [row for m in self.lines() if m["topic"].startswith("anomaly/") for row in m["data"]]
            self.assertEqual(len(rows), n + 1)
        p = [row[1] for row in rows]
        self.assertTrue(all(0 <= v <= 1 for v in p[256:]))
        self.assertLess(p.pop(304), min(p[256:]))
        daemon.terminate()
        self.assertEqual(daemon.wait(20), 0)

    def test_the_readme_s_example_is_valid(self):
        root = os.path.dirname(CONFIGS)
        with open(os.path.join(root, "README.md"), encoding="utf-8") as text:
            examples = re.findall(r"```yaml\n(.*?)```", text.read(), re.DOTALL)
        self.assertEqual(len(examples), 1)
        said = run(MAMBAD, "-c", self.path("readme.yaml", examples[0]), "--check", cwd=root)
        if "cannot be had" in said.stderr:
            self.skipTest("this build lacks an adapter")
        self.check(said, 0, "is valid: 1 model, 3 inputs, 3 outputs")

    def test_check_opens_nothing(self):
        """No input file, folder, address or socket is needed or made."""
        config = self.config("a: {type: audio, files: DIR/none.wav}, z: {type: zmq, pattern: pull, bind: \"ipc://DIR/z\"}",
                             "o: {type: jsonl, path: DIR/none/out.jsonl}", more="server: {control: \"ipc://DIR/control\"}")
        self.check(run(MAMBAD, "-c", config, "--check"), 0, "is valid")
        self.assertEqual(sorted(os.listdir(self.dir)), ["c.yaml"])


class WrongModels(Case):
    def wrong(self, folder, *says):
        """--check and the daemon itself refuse alike, and before any input file is missed."""
        config = self.config("i: {type: audio, files: DIR/none.wav}", model=folder)
        self.check(run(MAMBAD, "-c", config, "--check"), 78, *says)
        self.check(run(MAMBAD, "-c", config), 78, *says)

    def changed(self, **changes):
        conf = signal_model.config()
        for path, value in changes.items():
            keys, at = path.split("__"), conf
            for key in keys[:-1]:
                at = at[key]
            at[keys[-1]] = value
        return signal_model.write(self.path(f"m{len(os.listdir(self.dir))}"), conf)

    def weights(self, data):
        return signal_model.write(self.path(f"m{len(os.listdir(self.dir))}"), weights=data)

    def test_no_folder(self):
        self.wrong(self.path("none"), "none")

    def test_no_configuration(self):
        os.makedirs(self.path("m"))
        self.wrong(self.path("m"), "config.json")

    def test_configuration_is_not_json(self):
        self.wrong(signal_model.write(self.path("m"), "{\"model_type\": "), "config.json")

    def test_configuration_key(self):
        self.wrong(self.changed(backbone__d_model=0), "config.json", "d_model")
        self.wrong(self.changed(input__patch="four"), "config.json", "patch")
        self.wrong(self.changed(version=2), "config.json", "version")

    def test_kind_and_head_by_name(self):
        self.wrong(self.changed(input__kind="logmel"), "logmel")
        self.wrong(self.changed(heads__classify={}), "classify")
        self.wrong(self.changed(model_type="transformer"), "transformer")

    def test_no_weights(self):
        folder = signal_model.write(self.path("m"))
        os.unlink(os.path.join(folder, "model.safetensors"))
        self.wrong(folder, "model.safetensors")

    def test_weights_cut_short(self):
        data = signal_model.safetensors()
        for n in (0, 7, 100, len(data) - 1):
            with self.subTest(n):
                self.wrong(self.weights(data[:n]), "model.safetensors")

    def test_weights_header_beyond_the_file(self):
        self.wrong(self.weights(struct.pack("<Q", 1 << 60) + b"{}"), "model.safetensors")

    def test_tensor_is_named(self):
        self.wrong(self.weights(signal_model.safetensors(skip=["backbone.norm_f.weight"])), "backbone.norm_f.weight")
        self.wrong(self.weights(signal_model.safetensors(reshape={"input.bias": [2, 4]})), "input.bias")

    def test_language_model_as_input(self):
        self.wrong(os.path.join(GOLDEN, "plain"), "tokens: of language models only those of bytes (vocab 256) are served")

    def test_state_the_cpu_cannot_hold(self):
        config = self.config("i: {type: audio, files: " + self.wav("a.wav") + "}")
        self.check(run(MAMBAD, "-c", config, "--once", "--set", "models.m.state=bf16", "--set", "models.m.device=cpu"), 78,
                   "--set models.m.state=bf16: error: models.m.state: the CPU holds states as fp32 only")

    def test_rules_against_the_model(self):
        config = self.config(more="streams: {\"*\": {publish: {prediction: {horizon: 1025}}}}")
        self.check(run(MAMBAD, "-c", config, "--check"), 78, "c.yaml:3:11: error: streams.*.publish.prediction.horizon: 1025 is out of range (1 to 1024)")

    def test_far_horizons_fit_a_record(self):
        try:
            import h5py
        except ImportError:
            self.skipTest("no h5py")
        config = self.config("i: {type: audio, files: " + self.wav("a.wav", 40) + "}", "o: {type: hdf5, path: DIR/o.h5}",
                             more="streams: {\"*\": {publish: {prediction: {horizon: 200}}}}")
        self.check(run(MAMBAD, "-c", config, "--once"), 0)
        with h5py.File(self.path("o.h5"), "r") as record:
            self.assertEqual(record["prediction"]["horizon"].tolist(), [200] * 10)
            self.assertEqual(record["prediction_values"].shape[:2], (10, 200))


class WrongFiles(Case):
    def wrong(self, code, inputs, *says, outputs="o: {type: jsonl, path: DIR/out.jsonl}", more=""):
        self.check(run(MAMBAD, "-c", self.config(inputs, outputs, more=more), "--once"), code, *says)

    def test_missing_input_is_66(self):
        self.wrong(66, "i: {type: audio, files: DIR/none.wav}", "none.wav")
        self.wrong(66, "i: {type: hdf5, files: DIR/none.h5}", "none.h5")
        self.wrong(66, "i: {type: audio, files: \"DIR/*.flac\"}", "*.flac")

    def test_configuration_before_missing_input(self):
        self.wrong(78, "i: {type: audio, files: DIR/none.wav, channl: 1}", "c.yaml:2:", "did you mean 'channel'?")

    def test_what_would_show_when_it_is_opened(self):
        for inputs, outputs, says in (
                ("i: {type: audio, files: x, encoding: s16le, channels: 2, channel: 3, rate: 1}", "",
                 "inputs.i.channel: raw PCM: channel 3 is wanted, there are 2"),
                ("", "o: {type: hdf5, path: DIR/x.h5}", "outputs.o.path: with `state` each start needs a file of its own")):
            self.check(run(MAMBAD, "--check", "-c", self.config(inputs, outputs, more="state: {dir: DIR/state}")), 78, says)

    def test_unreadable_input_is_65(self):
        self.path("text.wav", "this is not a sound file\n" * 100)
        self.wrong(65, "i: {type: audio, files: DIR/text.wav}", "text.wav")
        self.wrong(65, "i: {type: audio, files: DIR}", "is a directory; name its files")
        self.path("empty.csv", "")
        self.wrong(65, "i: {type: csv, files: DIR/empty.csv}", "empty.csv: no line of numbers")
        self.path("text.h5", "this is not an HDF5 file\n" * 100)
        self.wrong(65, "i: {type: hdf5, files: DIR/text.h5}", "text.h5")

    def test_forbidden_input_is_65(self):
        for folder in (self.dir, os.path.dirname(self.dir)):
            os.chmod(folder, 0o711)
        os.chmod(self.wav("a.wav", 100), 0)
        config = self.config("i: {type: audio, files: DIR/a.wav}", "o: {type: jsonl, path: '-'}")
        nobody = (lambda: os.setuid(65534)) if os.geteuid() == 0 else None
        self.check(run(MAMBAD, "-c", config, preexec_fn=nobody), 65, "a.wav: Permission denied")

    def test_rate_without_resample_is_65(self):
        self.wav("a.wav", rate=8000)
        self.wrong(65, "i: {type: audio, files: DIR/a.wav, rate: 16000}", "a.wav", "8000", "16000")

    def test_missing_dataset(self):
        result = run("/usr/bin/python3", "-c", "import h5py,sys; h5py.File(sys.argv[1],'w').create_dataset('x', data=[1.,2.,3.])", self.path("a.h5"))
        if result.returncode:
            self.skipTest("no h5py")
        self.wrong(65, "i: {type: hdf5, files: DIR/a.h5, dataset: /nope, rate: 1}", "a.h5", "nope")

    def test_output_folder_missing_is_74(self):
        self.wav("a.wav")
        self.wrong(74, "i: {type: audio, files: DIR/a.wav}", "none/out.jsonl", outputs="o: {type: jsonl, path: DIR/none/out.jsonl}")

    def test_address_in_use_is_69(self):
        self.wav("a.wav")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            address = f"tcp://127.0.0.1:{s.getsockname()[1]}"
            self.wrong(69, "i: {type: audio, files: DIR/a.wav}", address, outputs=f"o: {{type: zmq, bind: \"{address}\"}}")

    def test_control_socket_that_cannot_be_is_69(self):
        self.wav("a.wav")
        config = self.config("i: {type: audio, files: DIR/a.wav}", more="server: {control: \"ipc://DIR/none/control\"}")
        said = run(MAMBAD, "-c", config)
        self.check(said, 69, "DIR/none/control")
        self.assertNotIn("drained", said.stderr, "one failure, one error")
        self.path("control", "precious")
        self.wrong(69, "i: {type: audio, files: DIR/a.wav}", "is not a socket", more="server: {control: \"ipc://DIR/control\"}")
        with open(self.path("control")) as f:
            self.assertEqual(f.read(), "precious")

    def test_beyond_loopback_is_78(self):
        self.wrong(78, "i: {type: zmq, pattern: pull, bind: \"tcp://0.0.0.0:5555\"}", "c.yaml:2:", "insecure: true")


class Signals(Running):
    def test_once_ends_by_itself(self):
        config = self.config("i: {type: audio, files: " + self.wav("a.wav", 400) + "}")
        self.check(run(MAMBAD, "-c", config, "--once"), 0)
        with open(self.path("out.jsonl")) as f:
            lines = [json.loads(line) for line in f]
        rows = sum(len(line["data"]) for line in lines if line["topic"].startswith("anomaly/"))
        self.assertEqual(rows, 400)
        self.assertEqual({line["stream"] for line in lines if not line["topic"].startswith("sys/")}, {"i:a.wav"})

    def test_auto_says_once_why_it_is_the_cpu(self):
        config = self.config("i: {type: audio, files: " + self.wav("a.wav", 400) + "}")
        for device, times in (("auto", 1), ("cpu", 0)):
            said = run(MAMBAD, "-c", config, "--once", "--set", "models.m.device=" + device)
            self.check(said, 0, "on cpu")
            self.assertEqual(said.stderr.count("device auto is the CPU: no CUDA backend: "), times, said.stderr)

    def test_once_does_not_wait_for_a_followed_log(self):
        config = self.config("f: {type: hdf5, files: DIR/none.h5, follow: true, rate: 1}, i: {type: audio, files: "
                             + self.wav("a.wav", 400) + "}")
        self.check(run(MAMBAD, "-c", config, "--once"), 0)

    def test_once_where_all_is_followed(self):
        """It ends where the files end now, and the next one goes on there."""
        log = self.path("a.log", b"one line\nand another\n" * 500)
        config = self.config("l: {type: bytes, files: DIR/*.log, follow: true, poll: 10ms}", "o: {type: jsonl, path: DIR/out, families: [anomaly, event]}",
                             model=os.path.join(GOLDEN, "bytes"), more="state: {dir: DIR/state}")
        self.check(run(MAMBAD, "-c", config, "--once"), 0)
        with open(log, "ab") as f:
            f.write(b"a third\n" * 100)
        self.check(run(MAMBAD, "-c", config, "--once"), 0)
        with open(self.path("out")) as f:
            lines = [json.loads(line) for line in f]
        self.assertEqual(sum(span for m in lines if m["topic"].startswith("anomaly/") for span in m["spans"]), 500 * 21 + 800)
        self.assertEqual([m["event"] for m in lines if m["topic"].startswith("event/") and m["event"] in ("start", "restore", "end", "gap")],
                         ["start", "restore"])

    def test_once_where_a_pipe_is_followed(self):
        """Its last writer's end is the end, beside a file that is followed too; before the first one there is none."""
        os.mkfifo(self.path("f.pipe"))
        self.path("a.log", b"a line\n" * 100)
        self.launch(self.config("l: {type: bytes, files: [DIR/a.log, DIR/f.pipe], follow: true, poll: 10ms}",
                                "o: {type: jsonl, path: DIR/out, families: [anomaly, event]}", model=os.path.join(GOLDEN, "bytes")), "--once")
        with open(self.path("f.pipe"), "wb") as pipe:  # waits for the daemon
            for _ in range(2):
                pipe.write(b"another\n" * 100)
                pipe.flush()
                time.sleep(0.2)
                self.assertIsNone(self.daemon.poll(), self.said())
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
        with open(self.path("out")) as f:
            lines = [json.loads(line) for line in f]
        self.assertEqual(sum(span for m in lines if m["topic"].startswith("anomaly/") for span in m["spans"]), 700 + 1600)
        self.assertEqual([m["stream"] for m in lines if m.get("event") == "end"], ["l:f.pipe"])

    def test_once_where_all_is_followed_hdf5(self):
        made = run("/usr/bin/python3", "-c", "import h5py,sys; h5py.File(sys.argv[1],'w').create_dataset('x', data=[1.]*4000)", self.path("a.h5"))
        if made.returncode:
            self.skipTest("no h5py")
        config = self.config("l: {type: hdf5, files: DIR/a.h5, follow: true, rate: 1}")
        self.check(run(MAMBAD, "-c", config, "--once"), 0)
        with open(self.path("out.jsonl")) as f:
            self.assertEqual(sum(len(m["data"]) for m in map(json.loads, f) if m["topic"].startswith("anomaly/")), 4000)

    def test_terms_end_with_0(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number):
                control = self.live()
                self.daemon.send_signal(number)
                self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())
                self.assertFalse(os.path.exists(control))
                self.assertIn("draining", self.said())

    def stuck(self, timeout):
        """A daemon whose output nobody reads, told to end."""
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        control = self.start(self.config("a: {type: audio, files: " + self.wav("a.wav", 100000) + "}", "o: {type: jsonl, path: DIR/fifo}",
                                         more="server: {control: \"ipc://DIR/control\", shutdown_timeout: " + timeout + "}"))
        self.wait(lambda: self.status(control)["inputs"]["a"]["accepted_samples_total"] > 10000)
        self.daemon.terminate()
        self.wait(lambda: "draining" in self.said())

    def test_drain_has_a_time_limit(self):
        self.stuck("1s")
        self.assertEqual(self.daemon.wait(PATIENCE), 74, self.said())

    def test_a_snapshot_when_all_is_drained(self):
        """None is made any more but the last one, which is still to come: that is no success."""
        os.mkfifo(self.path("fifo"))
        reader = os.open(self.path("fifo"), os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        control = self.start(self.config("a: {type: audio, files: " + self.wav("a.wav", 60000) + "}", "o: {type: jsonl, path: DIR/fifo}",
                                         more="state: {dir: DIR/state}\nserver: {control: \"ipc://DIR/control\"}"), "--once")
        self.wait(lambda: self.status(control)["inputs"]["a"]["done"])
        self.check(run(MAMBACTL, "snapshot", "--control", control), 74, "the daemon is ending, with a snapshot of its own")

    def test_second_signal_ends_at_once(self):
        self.stuck("10min")
        time.sleep(0.2)
        self.assertIsNone(self.daemon.poll(), self.said())
        self.daemon.terminate()
        self.assertEqual(self.daemon.wait(PATIENCE), -signal.SIGTERM, self.said())

    def test_snapshots_without_state(self):
        control = self.live()
        self.daemon.send_signal(signal.SIGUSR1)
        self.wait(lambda: "no section `state`" in self.said())
        self.check(run(MAMBACTL, "snapshot", "--control", control), 69, "keeps no snapshots")
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 0, self.said())

    def test_snapshots_when_asked(self):
        control = self.live("--set", "state.dir=" + self.path("state"), "--set", "state.interval=1h", "--set", "state.keep=2")
        self.wait(lambda: self.status(control)["inputs"]["a"]["done"])
        self.check(run(MAMBACTL, "snapshot", "--control", control), 0)
        said = json.loads(run(MAMBACTL, "snapshot", "--control", control, "--json").stdout)
        self.assertEqual((said["written_total"], said["streams"], said["error"]), (2, 1, ""))
        self.daemon.send_signal(signal.SIGUSR1)
        self.wait(lambda: self.status(control)["snapshots"]["written_total"] == 3)
        names = sorted(n for n in os.listdir(self.path("state")) if n.startswith("snapshot-"))
        self.assertEqual(len(names), 2, names)
        twin = run(MAMBAD, "-c", self.path("c.yaml"), "--set", "state.dir=" + self.path("state"))
        self.check(twin, 69, "another daemon has this folder")
        shutil.rmtree(self.path("state"))  # the folder is gone: said, counted, and the daemon goes on
        self.check(run(MAMBACTL, "snapshot", "--control", control), 74, "cannot be made")
        self.assertEqual(self.status(control)["snapshots"]["failed_total"], 1)
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(PATIENCE), 74, self.said())

    def test_status_and_streams(self):
        control = self.live()
        self.wait(lambda: self.status(control)["inputs"]["a"]["done"])
        self.wait(lambda: self.status(control)["inputs"]["a"]["accepted_samples_total"] == 2000)
        self.wait(lambda: self.status(control)["end_to_end_latency_seconds"]["count"] > 0)
        status = self.status(control)
        self.assertEqual(status["models"]["m"]["device"], "cpu")
        self.assertEqual(status["inputs"]["a"]["input_samples_total"], 2000)
        self.assertEqual(status["inputs"]["a"]["input_discarded_samples_total"]["queue_full"], 0)
        self.check(run(MAMBACTL, "status", "--control", control), 0, "models", "cpu", "accepted samples 2000", "end to end latency", "p99")
        for seconds in (status["end_to_end_latency_seconds"], status["models"]["m"]["step_duration_seconds"]):
            self.assertTrue(0 < seconds["p50"] <= seconds["p99"] <= seconds["max"], seconds)
        self.assertEqual(stat.S_IMODE(os.stat(control).st_mode), 0o600)
        rows = json.loads(run(MAMBACTL, "streams", "a:*", "--control", "ipc://" + control, "--json").stdout)
        self.assertEqual([r["stream"] for r in rows], ["a:a.wav"])
        self.check(run(MAMBACTL, "streams", "--control", control), 0, "a:a.wav", "stream")
        self.assertEqual(json.loads(run(MAMBACTL, "streams", "none*", "--control", control, "--json").stdout), [])

    def test_control_socket_of_a_killed_daemon_is_taken_over(self):
        control = self.live()
        self.daemon.kill()
        self.daemon.wait(PATIENCE)
        self.assertTrue(os.path.exists(control))
        self.live()

    def test_second_daemon_is_refused(self):
        control = self.live()
        config = self.config("a: {type: audio, files: " + self.path("a.wav") + "}", "o: {type: jsonl, path: DIR/other.jsonl}",
                             more="server: {control: \"ipc://DIR/control\"}")
        self.check(run(MAMBAD, "-c", config), 69, "another process serves it")
        self.assertEqual(self.status(control)["ok"], True)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[5:])
