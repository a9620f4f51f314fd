"""An embeddings endpoint on this machine, over HTTP, that does what it is told: answer, fail, dawdle, or answer wrongly."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

DIM = 16


def embedding(text: str, dim: int = DIM) -> np.ndarray:
    """What the endpoint answers for a text: unit norm, float32, the same for the same text."""
    vector = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@dataclass
class Endpoint:
    """The endpoint's address, what it does, and what it was asked."""

    url: str = ""
    faults: list = field(default_factory=list)
    """What the next requests get instead of an answer, one each: ``status`` with ``headers`` and ``body``, or ``delay_s``."""
    always: dict | None = None
    """What every request gets once `faults` are used up."""
    change: object = None
    """Edits every good answer, a dict, before it is sent; or replaces it by what it returns."""
    requests: list = field(default_factory=list)
    """(headers, body) of every request."""
    connections: set = field(default_factory=set)
    """The clients' ports: one for each connection."""


@contextmanager
def serve() -> Iterator[Endpoint]:
    """Serve on a free loopback port."""
    endpoint, sockets = Endpoint(), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else its two packets wait for each other, some 40 ms

        def setup(self):
            super().setup()
            sockets.append(self.connection)

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked = json.loads(body)
            endpoint.requests.append((dict(self.headers), asked))
            endpoint.connections.add(self.client_address[1])
            fault = endpoint.faults.pop(0) if endpoint.faults else endpoint.always
            if self.path != "/v1/embeddings":
                return self.answer(404, b'{"detail":"Not Found"}')
            if fault is not None:
                time.sleep(fault.get("delay_s", 0))
                if "status" in fault:
                    return self.answer(fault["status"], fault.get("body", b'{"error":{"message":"as told"}}'), fault.get("headers", {}))
            rows = []
            for place, text in enumerate(asked["input"]):
                vector = embedding(text, asked.get("dimensions", DIM))
                plain = asked["encoding_format"] == "float"
                value = [float(number) for number in vector] if plain else base64.b64encode(vector.tobytes()).decode()
                rows.append({"object": "embedding", "index": place, "embedding": value})
            usage = {"prompt_tokens": sum(len(text.split()) for text in asked["input"]), "total_tokens": 0}
            answer = {"object": "list", "data": rows, "model": f"{asked['model']}-0001", "usage": usage}
            changed = endpoint.change(answer) if endpoint.change else None
            return self.answer(200, changed if isinstance(changed, bytes) else json.dumps(answer).encode())

        def answer(self, status, body, headers=None):
            try:
                self.send_response(status)
                for key, value in (headers or {}).items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except ConnectionError:  # the client did not wait
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        for connection in sockets:  # or a kept connection would go on being served
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()
