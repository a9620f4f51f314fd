"""Known vulnerabilities of the packages that constraints.txt pins, by pip-audit over OSV's data.

A finding fails. Where the data cannot be reached nothing is known and nothing fails: one line says that it was skipped. The arguments are
for the test of this file: another list of packages, another address.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

OSV = "https://api.osv.dev/v1/query"
QUESTION = """
import sys, urllib.request
about = urllib.request.Request(sys.argv[1], b'{"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "0"}')
urllib.request.urlopen(about, timeout=4).read()
"""


def main(packages: str = "constraints.txt", address: str = OSV) -> int:
    """Audit, say what has come of it, and return the exit code."""
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
        audited = json.loads(answer.read_text())["dependencies"]
    found = [(one["name"], one["version"], known) for one in audited for known in one.get("vulns", ())]
    for name, version, known in found:
        mended = ", ".join(known["fix_versions"]) or "no version yet"
        sys.stdout.write(f"{name} {version}: {known['id']}, mended in {mended}\n")
    sys.stdout.write(f"pip-audit: {len(audited)} packages, {len(found)} known vulnerabilities\n")
    return 1 if found else 0


def _skipped(why: str) -> int:
    sys.stdout.write(f"pip-audit: skipped, {why}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
