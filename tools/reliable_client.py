#!/usr/bin/python3
"""A sender that loses nothing and doubles nothing, for mambad's inputs with `pattern: router`: rows are kept until a snapshot
on disk has them, and sent again after whatever happened in between. Copy it; docs/protocol.md says what is sent.

    reliable_client.py tcp://127.0.0.1:5555 STREAM FILE     # a line of numbers is a row; run again, it goes on"""
import collections
import itertools
import json
import sys
import time

import numpy as np
import zmq

PASSING = ("duplicate_stream", "streams", "memory")  # refusals that time may heal


class ReliableSender:
    def __init__(self, address, stream, channels=1, dtype="float32", keep=1 << 20, **header):
        """keep: most rows to be held; send() waits then. header: more keys of the messages, such as rate=100."""
        self.header = {"stream": stream, "dtype": dtype, **header}
        self.channels, self.keep, self.rows = channels, keep, 0
        self.kept, self.at = collections.deque(), 0  # [seq, n, flags, payload]; those before `at` are sent
        self.asking, self.ask_due, self.heard, self.back = True, 0.0, time.monotonic(), (None, 0.0)
        self.durable, self.ended = 0, False
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is given to a connection that is not there
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)
        self.next = None  # number of the next row: the daemon says where a stream goes on
        while self.next is None:
            self.pump(0.1)

    def send(self, rows):
        """Takes rows [n] or [n, channels]."""
        rows = np.asarray(rows, self.header["dtype"]).reshape(-1, self.channels)
        self.kept.append([self.next, len(rows), [], rows.tobytes()])
        self.next += len(rows)
        self.rows += len(rows)
        self.pump()
        while self.rows > self.keep:
            self.pump(0.1)

    def finish(self, end=True):
        """Returns when all is durable: with `end` the end of the stream too."""
        if end:
            self.kept.append([self.next, 0, ["end"], b""])
        while self.kept:
            self.pump(0.1)

    def pump(self, wait_s=0.0):
        """Sends what can be sent and hears what is said. Call it now and then, also when there is nothing to send."""
        now = time.monotonic()
        self.asking = self.asking or now - self.heard > 1  # silence: is anybody there, and what has arrived?
        try:
            if self.asking and now >= self.ask_due:
                self._say(0, 0, [], b"")
                self.ask_due = now + 1
            while not self.asking and self.at < len(self.kept):
                self._say(*self.kept[self.at])
                self.at += 1
        except zmq.Again:
            pass  # no connection, or it takes no more now
        if self.socket.poll(int(wait_s * 1000)):
            while self.socket.poll(0):
                self._hear(*self.socket.recv_multipart())

    def _say(self, seq, n, flags, payload):
        header = {**self.header, "shape": [n, self.channels], "seq": seq, "flags": flags}
        self.socket.send_multipart([json.dumps(header).encode(), payload], zmq.DONTWAIT)

    def _hear(self, verb, text):
        message = json.loads(text)
        if verb == b"error" and message["reason"] not in PASSING:
            raise RuntimeError(f"refused: {message['text']} ({message['reason']})")
        if verb == b"ack":
            self.heard = time.monotonic()
            self.durable, self.ended = message["durable"], message.get("ended", False)
            while self.kept and self._done(*self.kept[0]):
                self.rows -= self.kept.popleft()[1]
                self.at = max(0, self.at - 1)
            if message.get("resend"):
                self._go_back(message["seq"])

    def _done(self, seq, n, flags, _):
        return seq + n <= self.durable and (n > 0 or self.ended)

    def _go_back(self, seq):
        now = time.monotonic()
        self.next = seq if self.next is None else self.next
        if not self.asking and self.back[0] == seq and now - self.back[1] < 1:
            return  # said twice
        self.asking, self.back = False, (seq, now)
        self.at = sum(1 for s, n, _, _ in self.kept if n and s + n <= seq)
        if self.kept and self.kept[0][0] > seq:  # the daemon has lost what it once had on disk
            self.kept[0][2] = sorted({*self.kept[0][2], "gap"}) if self.kept[0][1] else self.kept[0][2]


if __name__ == "__main__":
    address, stream, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        width = len(file.readline().split())
        file.seek(0)
        sender = ReliableSender(address, stream, channels=width)
        lines = itertools.islice(file, sender.next, None)
        while block := [line.split() for line in itertools.islice(lines, 64)]:
            sender.send(np.array(block, float))
        sender.finish()
    print(f"{stream}: all {sender.next} rows are durable", file=sys.stderr)
