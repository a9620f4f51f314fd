"""The Milvus server that the package ``milvus`` carries: unpacked, configured, started and stopped, with nothing left behind.

The package's own launcher is not used: it keeps its data in the user's home, has no say over etcd's ports, so that two
servers meet on 2379, and leaves the server running when its parent is killed. Here a server lives in a folder of the
caller's, on ports that were free, and `stores.milvus_watch` ends it with the process that started it.

**Who can reach it.** The server listens on every interface, whatever its configuration says (2.3.5 takes an address only for
what it tells others, and listens on the port alone); only etcd keeps to loopback. There is no password on it. It holds
a benchmark's vectors for minutes, on ports drawn at random; on a machine in an open network, close its firewall.
"""

from __future__ import annotations

import http.client
import lzma
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from stores import milvus_watch

START_S = 60.0
"""A start takes 2 s on two quiet cores; this is for machines that do much else."""
STARTS = 3
"""Ports are free when they are drawn and may be taken a moment later; then others are drawn."""
STOP_S = 20.0
POLL_S = 0.02
LAST_WORDS = 600
"""Characters of the server's log in an error."""

COMPONENTS = {
    "rootCoord": "root_coord_port",
    "proxy": "proxy_port",
    "queryCoord": "query_coord_port",
    "queryNode": "query_node_port",
    "indexNode": "index_node_port",
    "dataCoord": "data_coord_port",
    "dataNode": "data_node_port",
}
PORTS = (*COMPONENTS.values(), "proxy_internal_port", "index_coord_port", "etcd_port")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMAXPROCS")
"""Set for the process that measures; a server beside it goes by its own configuration."""


def package_version() -> str:
    """Return the server's version.

    Raises
    ------
    harness.errors.StoreError
        When the package is not installed.
    """
    try:
        return version("milvus")
    except PackageNotFoundError as error:
        raise StoreError(
            "store=milvus_local needs the package milvus, which is not installed (there is one for Linux and macOS);"
            " pip install 'embedding-search-harness[milvus-server]'"
        ) from error


class MilvusServer:
    """One running server.

    Parameters
    ----------
    folder : Path
        Where it may make a folder of its own for data, configuration and log, which is deleted when it stops.
    programs : Path
        Where the unpacked programs are kept from one start to the next, 230 MB.
    authorization : bool
        Whether clients have to name themselves; the first user is ``root`` with the password ``Milvus``.

    Raises
    ------
    harness.errors.StoreError
        When it is not installed or does not start; with the last lines of its log.
    """

    def __init__(self, folder: Path, *, programs: Path, authorization: bool = False) -> None:
        installed = package_version()
        executable = unpacked(programs, installed) / "milvus"
        watch = (sys.executable, "-I", "-S", milvus_watch.__file__)
        for attempt in range(1, STARTS + 1):
            self.folder = Path(tempfile.mkdtemp(prefix="milvus-server-", dir=folder))
            ports = dict(zip((*PORTS, "web", "etcd_client", "etcd_peer"), free_ports(len(PORTS) + 3), strict=True))
            configure(self.folder, ports, authorization=authorization)
            self.port = ports["proxy_port"]
            self.web_port = ports["web"]
            environment = {name: value for name, value in os.environ.items() if name not in THREADS}
            environment |= {
                "DEPLOY_MODE": "STANDALONE",
                # Threads that wait do not spin: beside a client on two busy cores they made an index of 2.5 s take 45.
                "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
                "METRICS_PORT": str(self.web_port),
                "LD_LIBRARY_PATH": str(executable.parent),
                "DYLD_LIBRARY_PATH": str(executable.parent),
            }
            self._watcher = subprocess.Popen(
                [*watch, str(self.folder), str(executable), "run", "standalone", f"-alias=harness-{secrets.token_hex(4)}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # a signal to the measuring process and its group must not reach whoever clears up
            )
            assert self._watcher.stdout is not None
            self.pid = int(self._watcher.stdout.readline() or 0)
            try:
                self._wait_until_healthy()
            except BaseException as error:
                taken = "address already in use" in self.log()
                self.stop()
                if taken and attempt < STARTS and isinstance(error, StoreError):
                    continue
                raise
            return

    @property
    def uri(self) -> str:
        """Where clients on this machine find it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def exit_code(self) -> int | None:
        """What it ended with; None while it runs."""
        try:
            return int((self.folder / "exit").read_text() or 0)
        except FileNotFoundError:
            return None

    def rss_bytes(self) -> int | None:
        """Resident memory now; None when it does not run."""
        import psutil

        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return None

    def log(self) -> str:
        """Return what it has written so far."""
        try:
            return (self.folder / "log.txt").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def has_ended(self, *, wait_s: float = 0.0) -> bool:
        """Whether it has ended, or does so within this time: a client may notice before the watcher does."""
        deadline = time.monotonic() + wait_s
        while self.exit_code is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def how_it_ended(self) -> str:
        """Return in words how it ended."""
        code = self.exit_code
        if code is None:
            return "not yet"
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def last_words(self) -> str:
        """Return the last line of its log that tells of an error, else the last of all, without time, place and stack."""
        lines = [line for line in self.log().splitlines() if line.strip()]
        telling = [line for line in lines if re.search(r"\[(?:ERROR|FATAL)\]|^panic", line)] or lines[-1:]
        if not telling:
            return "nothing"
        return re.split(r" \[(?:errorVerbose|stack)=", re.sub(r"^(?:\[[^]]*\] ){3}", "", telling[-1]))[0][:LAST_WORDS]

    def failed_build(self) -> str:
        """Return why the index that failed last could not be built; it is tried again for ever. Empty if none has failed."""
        found = re.findall(r'\["fail reason"="(.*?)"\]', self.log())
        return found[-1].replace("\\n", " ")[:LAST_WORDS] if found else ""

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            if self.exit_code is not None or not self.pid:
                raise StoreError(
                    f"store=milvus_local: the server ended while it started ({self.how_it_ended()}); its log: {self.last_words()}"
                )
            if self._is_healthy():
                return
            if time.monotonic() >= deadline:
                raise StoreError(f"store=milvus_local: the server was not healthy after {START_S:g} s; its log: {self.last_words()}")
            time.sleep(POLL_S)

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=1)
        try:
            connection.request("GET", "/healthz")
            return b"OK" in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False  # not there yet
        finally:
            connection.close()

    def stop(self) -> None:
        """Kill the server and delete its folder; returns when both is done."""
        for stream in (self._watcher.stdin, self._watcher.stdout):
            if stream is not None:
                stream.close()
        try:
            self._watcher.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._watcher.kill()  # and with it the server
            self._watcher.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Return numbers of ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def unpacked(programs: Path, installed: str) -> Path:
    """Return the folder with the server's programs, which the package carries compressed; unpacked once, in about 5 s."""
    from filelock import FileLock

    target = programs / f"milvus-server-{installed}"
    if target.is_dir():
        return target
    spec = find_spec("milvus")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0]) / "data" / "bin"
    try:
        programs.mkdir(parents=True, exist_ok=True)
        with FileLock(programs / f"{target.name}.lock"):
            if not target.is_dir():
                with tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=programs) as around:
                    fresh = Path(around) / "bin"
                    fresh.mkdir()
                    for packed in source.glob("*.lzma"):
                        with lzma.open(packed) as inner, (fresh / packed.stem).open("wb") as outer:
                            shutil.copyfileobj(inner, outer)
                        (fresh / packed.stem).chmod(0o755)
                    fresh.rename(target)
    except OSError as error:
        raise StoreError(
            f"store=milvus_local: the server's programs cannot be unpacked into {programs} ({error.strerror}), which takes 230 MB;"
            " make room or set HARNESS_CACHE to another folder"
        ) from error
    return target


def configure(folder: Path, ports: dict[str, int], *, authorization: bool) -> None:
    """Write the server's configuration: the package's own, with this folder, these ports and loopback addresses filled in."""
    import yaml  # type: ignore[import-untyped]

    for name in ("configs", "data", "logs"):
        (folder / name).mkdir()
    spec = find_spec("milvus")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(spec.submodule_search_locations[0]) / "data"
    values = {
        **{name: str(port) for name, port in ports.items()},
        "authorization_enabled": str(authorization).lower(),
        "etcd_log_path": str(folder / "logs" / "etcd.log"),
        "etcd_data_dir": str(folder / "data" / "etcd"),
        "local_storage_dir": str(folder / "data"),
        "rocksmq_data_dir": str(folder / "data" / "rocksmq"),
        "system_log_path": "",
    }
    blanks = re.compile(r"\{\{ *(\w+)(?:\(\w+\))?(?:: *([^}]*?))? *\}\}")
    text = blanks.sub(lambda blank: values.get(blank[1], blank[2] or ""), (package / "config.yaml.template").read_text())
    settings: dict[str, Any] = yaml.safe_load(text)
    for component in COMPONENTS:
        settings[component]["ip"] = "127.0.0.1"
    settings["etcd"]["config"] = {"path": str(folder / "configs" / "etcd.yaml")}
    client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd_client", "etcd_peer"))
    etcd = {
        "name": "default",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
    }
    (folder / "configs" / "milvus.yaml").write_text(yaml.safe_dump(settings))
    (folder / "configs" / "etcd.yaml").write_text(yaml.safe_dump(etcd))
    shutil.copy(package / "glog.conf", folder / "configs" / "glog.conf")
