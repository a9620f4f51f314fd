"""A server on loopback that answers at once, or stalls when it is told to: what is measured on it is the client.

One line of protocol: four bytes with the number of ids wanted; the answer is as many ids, 0, 1, 2 … of eight bytes each.
"""

import multiprocessing
import socket
import struct
import threading
import time

import numpy as np

from harness.errors import StoreError


class NullServer:
    """Runs in a process of its own; `stall(seconds)` makes all connections wait once."""

    def __init__(self):
        context = multiprocessing.get_context("fork")
        self._stall = context.Value("d", 0.0)
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = listening.getsockname()[1]
        self._process = context.Process(target=_serve, args=(listening, self._stall), daemon=True)
        self._process.start()
        listening.close()

    def stall(self, seconds):
        self._stall.value = time.monotonic() + seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.join()


def _serve(listening, stall):
    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(connection, stall), daemon=True).start()


def _answer(connection, stall):
    answers = {}
    while wanted := connection.recv(4):
        (k,) = struct.unpack("!i", wanted)
        if (wait := stall.value - time.monotonic()) > 0:
            time.sleep(wait)
        connection.sendall(answers.setdefault(k, np.arange(k, dtype=np.int64).tobytes()))


class NullClient:
    """One connection a thread, made at its first request."""

    def __init__(self, port):
        self._port = port
        self._mine = threading.local()

    def __call__(self, queries, k, params, below):
        pipe = getattr(self._mine, "pipe", None)
        if pipe is None:
            pipe = self._mine.pipe = socket.create_connection(("127.0.0.1", self._port))
            pipe.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipe.sendall(struct.pack("!i", k))
        found = b""
        while len(found) < 8 * k:
            if not (chunk := pipe.recv(8 * k - len(found))):
                raise StoreError("the server has closed the connection")
            found += chunk
        return np.frombuffer(found, dtype=np.int64)[None]
