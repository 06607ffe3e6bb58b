#!/usr/bin/python3
"""mambactl tail against a publisher that speaks the wire protocol: JSON lines, filters, bad messages, the live view."""
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import fcntl
import threading
import time
import unicodedata
import urllib.parse

try:
    import numpy
    import zmq
except ImportError as e:
    print(e)
    sys.exit(77)

MAMBACTL = sys.argv[1]
FOLDER = tempfile.TemporaryDirectory()
ENDPOINT = f"ipc://{FOLDER.name}/pub"


def message(family, stream, array, **keys):
    array = numpy.asarray(array, dtype="<f4")
    header = {"v": 1, "stream": stream, "model": "m", "run": 7, "epoch": 0, "seq": 0, "rate": 100, "t_ns": None,
              "out_seq": 0, "dtype": "float32", "shape": list(array.shape), "latency_us": 300, **keys}
    topic = family + "/" + urllib.parse.quote(stream, safe=":") + "/"
    return [topic.encode(), json.dumps(header).encode(), array.tobytes()]


class Publisher:
    """Sends the same messages again and again, until stopped: PUB has no way to know that somebody listens."""

    def __init__(self, messages, pause=0.02):
        self.messages, self.pause, self.running = messages, pause, True
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        socket = zmq.Context.instance().socket(zmq.PUB)
        socket.bind(ENDPOINT)
        while self.running:
            for m in self.messages:
                socket.send_multipart(m)
            time.sleep(self.pause)
        socket.close(linger=0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.running = False
        self.thread.join()


def tail(*args, timeout=20):
    done = subprocess.run([MAMBACTL, "tail", *args], capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout.splitlines(), done.stderr


def json_lines():
    values = [[0.1, 1.5, float("nan")], [-3e-7, float("inf"), 123456792.0]]
    good = [message("anomaly", "a b/ü", values), message("event", "c", [], event="start")]
    bad = [[b"anomaly/x/"], [b"anomaly/x/", b"{}", b""], [b"anomaly/x/", b'{"shape":[2]}', b"1234"],
           [b"anomaly/x/", b"nonsense", b""], [b"anomaly/x/", b'{"shape":[1]}', b"1234", b"more"],
           [b"anomaly/\n/", b'{"shape":[1]}', b"1234"], [b"anomaly/x/", b'{"shape":[-1]}', b""]]
    with Publisher(bad + good):
        code, lines, err = tail(ENDPOINT, "--json", "--count", "40")
    assert code == 0, err
    assert len(lines) == 40
    seen = {}
    for line in map(json.loads, lines):
        seen[line["topic"]] = line
    assert set(seen) == {"anomaly/a%20b%2F%C3%BC/", "event/c/"}, seen
    data = [[None if x is None else numpy.float32(x) for x in row] for row in seen["anomaly/a%20b%2F%C3%BC/"]["data"]]
    assert data == [[numpy.float32(0.1), 1.5, None], [numpy.float32(-3e-7), None, 123456792.0]], data
    assert seen["event/c/"]["data"] == [] and seen["event/c/"]["event"] == "start"


def filters():
    messages = [message(f, s, [[0.1, 0.5, 1]]) for f in ("anomaly", "channel_anomaly", "embedding") for s in
                ("a", "a1", "b/a", "a b")]
    with Publisher(messages):
        def topics(*args):
            code, lines, err = tail(ENDPOINT, "--json", "--count", "40", *args)  # rounds of them
            assert code == 0, err
            return {(t.split("/")[0], json.loads(line)["stream"]) for line in lines for t in [json.loads(line)["topic"]]}

        assert topics("--family", "anomaly") == {("anomaly", s) for s in ("a", "a1", "b/a", "a b")}
        assert topics("--family", "anomaly,embedding", "--stream", "a") == {("anomaly", "a"), ("embedding", "a")}
        assert topics("--stream", "a*", "--family", "embedding") == {("embedding", s) for s in ("a", "a1", "a b")}
        code, lines, err = tail(ENDPOINT, "--stream", "nobody", "--for", "300ms")
        assert (code, lines) == (69, []), (code, lines, err)


def usage():
    for args in ([], [ENDPOINT, "more"], [ENDPOINT, "--family", "anomalies"], [ENDPOINT, "--family", "anomaly,"],
                 [ENDPOINT, "--for", "soon"], [ENDPOINT, "--count", "0"], [ENDPOINT, "--nonsense"], ["nowhere"]):
        code, lines, err = tail(*args)
        assert code == 64 and err and not lines, (args, code, err)
    assert tail("--help")[0] == 0
    with Publisher([message("anomaly", "a", [[0.1, 0.5, 1]])]):
        with open("/dev/full", "w") as full:
            code = subprocess.run([MAMBACTL, "tail", ENDPOINT, "--json", "--count", "1"], stdout=full,
                                  stderr=subprocess.DEVNULL).returncode
    assert code == 74, code


def width(text):
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def terminal(columns, rows, *args, **env):
    """What a terminal of that size is sent: the frames without their escape sequences, and everything."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm", "LC_ALL": "C.UTF-8", **env})
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.execv(MAMBACTL, [MAMBACTL, "tail", ENDPOINT, *args])
    data = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:
            break
        if not piece:
            break
        data += piece
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    text = data.decode()
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", f).replace("\r", "") for f in text.split("\x1b[H")[1:]], text


def live_view():
    ahead = 100 + numpy.sin(numpy.arange(96) / 5)
    bands = numpy.stack([ahead - 2, ahead, ahead + 2], -1)[None, None]
    streams = ["ecg", "温度/1", "bad \x1b[31m"] + [f"sensor-{i:02}" for i in range(30)]
    messages = [message("sys", "heartbeat", [], uptime_s=65.0)]
    for i, s in enumerate(streams):
        messages.append(message("prediction", s, bands, quantiles=[0.1, 0.5, 0.9], rate=[360, 0, 8000][i % 3]))
        messages.append(message("anomaly", s, [[0.9 if i == 0 else 0.05, 0.5, 1]]))
    messages.append(message("event", "ecg", [], event="anomaly_start", reason="p", from_seq=5, to_seq=9))
    with Publisher(messages, 0.05):
        for columns, rows in ((100, 30), (100, 60), (72, 20), (40, 10), (20, 6), (12, 4), (1, 1), (300, 100)):
            frames, text = terminal(columns, rows, "--for", "1200ms")
            assert 2 <= len(frames) <= 16, len(frames)  # at most ten a second
            assert text.endswith("\x1b[?25h") and "\x1b[31mx" not in text
            for line in frames[-1].split("\n"):
                assert width(line) <= columns, (columns, line)
            if rows >= 4:
                assert frames[-1].count("\n") < rows, (rows, frames[-1])
            if columns >= 72:
                assert "run 7, up 1:05" in frames[-1] and "32 streams" in frames[-1], frames[-1]
                assert re.search(r"ecg .* 100\b.* 0\.\d\d █", frames[-1]), frames[-1]
            if columns >= 100:
                assert "98 .. 102" in frames[-1] and "anomaly_start (p), samples 5 to 9" in frames[-1]
                assert ("温度/1" in frames[-1]) == (rows >= 60)
        frames, text = terminal(100, 30, "--for", "500ms", LC_ALL="C", NO_COLOR="1")
        assert text.isascii() and "\x1b[0;" not in text


if __name__ == "__main__":
    for test in (json_lines, filters, usage, live_view):
        test()
        print("ok", test.__name__)
