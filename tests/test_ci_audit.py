"""The audit of pinned packages: a finding fails, a network that is away does not."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import ROOT


def audit(*arguments):
    return subprocess.run([sys.executable, ROOT / ".ci/audit.py", *arguments], capture_output=True, text=True, check=False, timeout=300)


@contextmanager
def osv(*, vulnerable, breaks_after=None):
    """A server that knows one package with a vulnerability; after so many answers it breaks down."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(question)
            if breaks_after is not None and len(asked) > breaks_after:
                self.send_error(500)
                return
            known = {"id": "GHSA-test", "summary": "a test", "details": "a test", "affected": [], "published": "2026-01-01T00:00:00Z"}
            body = json.dumps({"vulns": [known]} if question["package"]["name"] == vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
        server.shutdown()


@pytest.fixture
def packages(tmp_path):
    path = tmp_path / "packages.txt"
    path.write_text("good==1.0\nbad==2.0\n")
    return path


def test_a_known_vulnerability_fails_and_is_named(packages):
    with osv(vulnerable="bad") as (address, asked):
        done = audit(packages, address)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["bad 2.0: GHSA-test, mended in no version yet", "pip-audit: 2 packages, 1 known vulnerabilities"]
    assert {question["package"]["name"] for question in asked} == {"pip", "good", "bad"}


def test_without_a_finding_it_passes(packages):
    with osv(vulnerable="another") as (address, _):
        done = audit(packages, address)
    assert (done.returncode, done.stdout) == (0, "pip-audit: 2 packages, 0 known vulnerabilities\n"), done.stderr


def test_a_package_that_cannot_be_looked_up_is_named_fails_and_is_not_counted(packages):
    with packages.open("a") as more:
        more.write("other @ file:///nowhere/other.whl\n")
    with osv(vulnerable="another") as (address, _):
        done = audit(packages, address)
    assert done.returncode == 1, done.stdout + done.stderr
    unknown, counted = done.stdout.splitlines()
    assert unknown.startswith("other: not audited, ")
    assert counted == "pip-audit: 2 packages, 0 known vulnerabilities"


def test_without_pip_audit_it_fails():
    bare = [sys.executable, "-I", "-S", ROOT / ".ci/audit.py"]  # no installed package is seen
    done = subprocess.run(bare, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "pip-audit: not installed; pip install -e '.[dev]'\n"), done.stderr


def test_a_network_that_is_away_is_said_in_one_line_and_fails_nothing(packages):
    done = audit(packages, "http://127.0.0.1:9/v1/query")
    assert (done.returncode, done.stdout, done.stderr) == (0, "pip-audit: skipped, http://127.0.0.1:9/v1/query cannot be reached\n", "")


def test_a_network_that_goes_away_meanwhile_fails_nothing_either(packages):
    with osv(vulnerable="bad", breaks_after=1) as (address, _):
        done = audit(packages, address)
    assert done.returncode == 0
    assert done.stdout.startswith("pip-audit: skipped, ")
    assert done.stdout.count("\n") == 1


def test_every_pinned_package_can_be_audited(tmp_path):
    """The list is read as it is: each package with its one version."""
    with osv(vulnerable="none of these") as (address, asked):
        done = audit(ROOT / "constraints.txt", address)
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert done.stdout == f"pip-audit: {len(pinned)} packages, 0 known vulnerabilities\n", done.stderr
    assert len(asked) == 1 + len(pinned)
