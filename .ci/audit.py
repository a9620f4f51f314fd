"""Known vulnerabilities of the packages that constraints.txt pins, by pip-audit over OSV's data.

A finding fails. Where the data cannot be reached nothing is known and nothing fails: one line says that it was skipped. A package that
pip-audit could not look up is named and fails too, as does pip-audit not being installed. The arguments are for the test of this file:
another list of packages, another address.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

OSV = "https://api.osv.dev/v1/query"
QUESTION = """
import sys, urllib.request
about = urllib.request.Request(sys.argv[1], b'{"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "0"}')
urllib.request.urlopen(about, timeout=4).read()
"""


def main(packages: str = "constraints.txt", address: str = OSV) -> int:
    """Audit, say what has come of it, and return the exit code."""
    if find_spec("pip_audit") is None:
        sys.stdout.write("pip-audit: not installed; pip install -e '.[dev]'\n")
        return 1
    try:  # in a process of its own, because no time limit covers the look-up of a name
        subprocess.run([sys.executable, "-c", QUESTION, address], check=True, capture_output=True, timeout=8)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return _skipped(f"{address} cannot be reached")
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        how = ["--requirement", packages, "--no-deps", "--disable-pip", "--vulnerability-service", "osv", "--osv-url", address]
        show = ["--format", "json", "--output", str(answer), "--progress-spinner", "off", "--cache-dir", folder]
        try:
            command = [sys.executable, "-m", "pip_audit", *how, *show]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        except subprocess.TimeoutExpired:
            return _skipped("it did not end within 600 s")
        if not answer.exists() or not answer.stat().st_size:
            return _skipped(" ".join(done.stderr.split())[-300:])
        listed = json.loads(answer.read_text())["dependencies"]
    audited = [one for one in listed if "skip_reason" not in one]
    unknown = [one for one in listed if "skip_reason" in one]
    found = [(one["name"], one["version"], known) for one in audited for known in one.get("vulns", ())]
    for name, version, known in found:
        mended = ", ".join(known["fix_versions"]) or "no version yet"
        sys.stdout.write(f"{name} {version}: {known['id']}, mended in {mended}\n")
    for one in unknown:
        sys.stdout.write(f"{one['name']}: not audited, {one['skip_reason']}\n")
    sys.stdout.write(f"pip-audit: {len(audited)} packages, {len(found)} known vulnerabilities\n")
    return 1 if found or unknown else 0


def _skipped(why: str) -> int:
    sys.stdout.write(f"pip-audit: skipped, {why}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
