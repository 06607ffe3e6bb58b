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
    def __init__(self, address, stream, channels=1, dtype="float32", keep=1 << 20, replay=False, curve=None,
                 **header):
        """`next` is the number of the row to go on with. With `replay` rows that were sent before can be had again, and it is
        that of the first that is not durable. keep: most rows to be held, send() waits then. curve: this end's
        secret and public key and the daemon's public one, where it wants CURVE. header: more keys of the messages, such as
        rate=100."""
        self.header, self.channels, self.keep = {"stream": stream, "dtype": dtype, **header}, channels, keep
        self.replay = replay
        self.kept, self.at, self.rows = collections.deque(), 0, 0  # [seq, n, flags, payload]; those before `at` are sent
        self.asking, self.ask_due, self.back = True, 0.0, (None, 0.0)
        self.waiting, self.last = False, time.monotonic()  # for an answer; since when there was none
        self.durable, self.ended = 0, False
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is given to a connection that is not there
        self.socket.setsockopt(zmq.LINGER, 0)
        if curve:
            self.socket.curve_secretkey, self.socket.curve_publickey, self.socket.curve_serverkey = curve
        self.socket.connect(address)
        self.next = None
        while self.next is None:
            self.pump(0.1)

    def send(self, rows):
        """Takes rows [n] or [n, channels]."""
        rows = np.asarray(rows, self.header["dtype"]).reshape(-1, self.channels)
        self.kept.append([self.next, len(rows), [], rows.tobytes()])
        self.next, self.rows = self.next + len(rows), self.rows + len(rows)
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
        """Hears what is said, sends what can be sent. To be called now and then, also when there is nothing to send."""
        while self.socket.poll(0):
            self._hear(*self.socket.recv_multipart())
        now, idle = time.monotonic(), self.at == len(self.kept) > 0
        self.asking |= (self.waiting or idle) and now - self.last > 1  # is anybody there, and what has arrived?
        try:
            if self.asking and now >= self.ask_due:
                self._say(0, 0, [], b"")
                self.ask_due = now + 1
            while not self.asking and self.at < len(self.kept):
                self._say(*self.kept[self.at])
                self.at += 1
        except zmq.Again:
            pass  # no connection, or it takes no more now
        self.socket.poll(int(wait_s * 1000))

    def _say(self, seq, n, flags, payload):
        header = {**self.header, "shape": [n, self.channels], "seq": seq, "flags": flags}
        self.socket.send_multipart([json.dumps(header).encode(), payload], zmq.DONTWAIT)
        self.last = self.last if self.waiting else time.monotonic()
        self.waiting = True

    def _hear(self, verb, text):
        message = json.loads(text)
        if verb == b"error" and message["reason"] not in PASSING:
            raise RuntimeError(f"refused: {message['text']} ({message['reason']})")
        self.waiting, self.last = False, time.monotonic()
        if verb == b"error":
            self.asking, self.ask_due = True, self.last + 1
            return
        self.durable, self.ended = message["durable"], message.get("ended", False)
        while self.kept and sum(self.kept[0][:2]) <= self.durable and (self.kept[0][1] or self.ended):
            self.rows -= self.kept.popleft()[1]
            self.at = max(0, self.at - 1)
        if message.get("resend") and (self.asking or self.back[0] != message["seq"] or self.last - self.back[1] > 1):
            self._go_on(message["seq"])

    def _go_on(self, seq):
        if self.next is None:
            self.next = self.durable if self.replay else seq
        self.asking, self.back = False, (seq, self.last)
        self.at = sum(1 for s, n, _, _ in self.kept if n and s + n <= seq)
        if self.kept and self.kept[0][0] > seq and self.kept[0][1]:
            self.kept[0][2] = ["gap"]  # the daemon has lost what was durable once: it cannot be had any more


if __name__ == "__main__":
    with open(sys.argv[3], encoding="utf-8") as file:
        sender = ReliableSender(*sys.argv[1:3], channels=len(file.readline().split()), replay=True)
        file.seek(0)
        lines = itertools.islice(file, sender.next, None)
        while block := [line.split() for line in itertools.islice(lines, 64)]:
            sender.send(np.array(block, float))
        sender.finish()
