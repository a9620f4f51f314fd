"""A model hub on this machine: the few answers of the real one that finding and downloading a model take."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(models: Mapping[str, Mapping[str, bytes]], *, refuse_files: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Serve `models` (hub id → file name → contents); yields the address and the list of requests, which grows.

    With `refuse_files` it names models and commits, and answers 403 to every download."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.partition("?")[0].strip("/")
            requests.append(f"{self.command} /{path}")
            for name, files in models.items():
                if path in (f"api/models/{name}", f"api/models/{name}/revision/main", f"api/models/{name}/revision/{COMMIT}"):
                    body = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
                    return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
                if path.startswith(f"api/models/{name}/tree/{COMMIT}"):
                    body = [
                        {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                        for file, data in files.items()
                    ]
                    return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
                prefix = f"{name}/resolve/{COMMIT}/"
                if path.startswith(prefix) and refuse_files:
                    return self.answer(403, b"", {})
                if path.startswith(prefix) and (data := files.get(path.removeprefix(prefix))) is not None:
                    return self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
            code = "RevisionNotFound" if any(f"models/{name}/" in path for name in models) else "RepoNotFound"
            return self.answer(404, b"{}", {"X-Error-Code": code})

        def answer(self, status, body, headers):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
