"""Fresh processes to measure in: one server a replicate, a forked child for every piece of work.

Importing torch takes seconds, so a new interpreter for every measurement is too dear; children of one server, though,
share its hash seed and memory layout and so differ less from each other than fresh interpreters do. The middle way:
`Replicate` i is a fresh interpreter of its own that has imported the libraries and done nothing else, and all work
of replicate i is done in children forked from it. Values of different replicates are thereby as independent as those
of separate program starts, which is what the intervals assume.

The parent sends one request as a line of JSON and blocks until an event comes back; it never spins. Nothing is
pickled. A child answers by files in a folder of its own. Whoever dies, nobody is left behind: a server ends when its
standard input closes, a child when its server's pipe does, each together with all processes it has started.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from harness.errors import AuditError, CellError, HarnessError


class Report(Protocol):
    """Tells the parent how far work is; may cost a system call, so it is never called inside a clock."""

    def __call__(self, stage: str, fraction: float, total: int = 0, /) -> None:
        """Say which stage, how much of it is done (0 … 1), and of how many items, rows or requests where they are counted."""


_REPORT_EVERY_S = 0.2
"""At most so often does a child tell how far a stage is: each word wakes the parent, which must not compute beside what is measured."""

ERROR_FILE = "error.json"
LOG_FILE = "log.txt"
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from harness.replicate import serve; serve(json.loads(sys.argv[2]))"


class Replicate:
    """The parent's end of one server.

    Parameters
    ----------
    preload : sequence of str
        Modules that the server imports before it forks; those that are not installed are passed over.
    environment : mapping
        Variables set on top of the parent's, e.g. numbers of threads, which libraries read when first imported.
    """

    def __init__(self, *, preload: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        variables = {**os.environ, **(environment or {})}
        variables.pop("PYTHONHASHSEED", None)  # a seed of its own for each server
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path), json.dumps(list(preload))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=variables,
            start_new_session=True,  # Ctrl-C on the terminal is for the parent, which then ends this
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._buffer = b""
        self._ready = False

    def run(self, task: str, spec: Mapping[str, Any], folder: Path, *, timeout_s: float, report: Report | None = None) -> None:
        """Do one piece of work in a fresh child and return when it has ended well.

        Parameters
        ----------
        task : str
            ``module:function``, called in the child as ``function(spec, folder, report)``.
        spec : mapping
            JSON-like description of the work.
        folder : Path
            Existing folder for the child's files; the child's output is caught in ``log.txt`` there.
        timeout_s : float
            Seconds after which the child and all it has started are killed.

        Raises
        ------
        harness.errors.CellError
            With attribute ``status`` (``oom``, ``invalid`` or ``failed``) and a text that says what happened.
        """
        started = time.monotonic()
        self.wait_until_ready()
        self._send({"task": task, "spec": spec, "folder": str(folder)})
        while True:
            left = timeout_s - (time.monotonic() - started)
            event = self._receive(left)
            if event is None:
                self._send({"kill": True})
                if not self._exit_received():
                    self._process.kill()  # and with it the child; a server that cannot end its child is of no more use
                raise CellError(
                    f"{task} did not end within timeout_s={timeout_s:g} and was killed; raise timeout_s or make the cell smaller"
                )
            if "stage" in event:
                if report is not None:
                    report(event["stage"], event["fraction"], event["total"])
            elif "exit" in event:
                return _judge(event["exit"], bool(event.get("oom_kills")), folder, task)

    def wait_until_ready(self, *, timeout_s: float = 300.0) -> None:
        """Return when the server has imported its modules and will not use the processor any more until it is given work."""
        while not self._ready:
            event = self._receive(timeout_s)
            if event is None:
                raise CellError(f"a measuring process did not start within {timeout_s:g} s")
            self._ready = bool(event.get("ready"))

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, OSError) as error:
            raise CellError(f"the measuring process had ended (exit code {self._process.poll()}) before it was given work") from error

    def _receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next event, None when none came in time."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not waiting.select(left):
                    return None
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    code = self._process.wait()
                    self._words.seek(0)
                    last = " ".join(self._words.read().decode(errors="replace").split())[-300:]
                    raise CellError(f"the measuring process ended unexpectedly ({describe_exit(code)})" + (f": {last}" if last else ""))
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event

    def _exit_received(self) -> bool:
        while (event := self._receive(30)) is not None:
            if "exit" in event:
                return True
        return False

    @property
    def pid(self) -> int:
        """The server's process number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the server can still be given work."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the server and whatever still runs below it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._words.close()


def describe_exit(code: int) -> str:
    """Return in words how a process ended, from a return code as `subprocess` gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _judge(code: int, oom_killed: bool, folder: Path, task: str) -> None:
    """Return if the child ended well, raise what it met otherwise."""
    if code == 0:
        return
    told = folder / ERROR_FILE
    if told.exists():
        error = json.loads(told.read_text())
        raise CellError(error["text"], status=error["status"])
    last = _tail(folder / LOG_FILE)
    if code == -signal.SIGKILL and oom_killed:
        text = f"{task}: the kernel killed the process because memory ran out; use a smaller batch_size or dataset.corpus"
        raise CellError(text, status="oom")
    hint = " (the kernel does this when memory runs out; see `dmesg`)" if code == -signal.SIGKILL else ""
    raise CellError(f"{task}: {describe_exit(code)}{hint}" + (f"; last words: {last}" if last else ""))


def _tail(log: Path, characters: int = 300) -> str:
    try:
        return " ".join(log.read_text(errors="replace").split())[-characters:]
    except OSError:
        return ""


# ------------------------------------------------------------------------------------ the server's side


def serve(preload: Sequence[str]) -> NoReturn:
    """Import, then fork a child for each request until standard input closes; runs in the server."""
    requests, events = os.dup(0), os.dup(1)
    os.set_inheritable(requests, False)
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    os.dup2(2, 1)  # what a library prints must not be taken for an event
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    alive_read, alive_write = os.pipe()  # children notice by it that this server is gone

    def tell(event: Mapping[str, Any]) -> None:
        os.write(events, json.dumps(event).encode() + b"\n")

    try:
        tell({"ready": True})
        child: int | None = None
        kills_before = 0
        for line in _lines(requests, wake_read):
            if line is None:  # a child may have ended
                if child is None:
                    continue
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    _kill_group(child)
                    child = None
                    tell({"exit": os.waitstatus_to_exitcode(status), "oom_kills": _oom_kills() - kills_before})
                continue
            request = json.loads(line)
            if request.get("kill"):
                if child is not None:
                    _kill_group(child)
                continue
            kills_before = _oom_kills()
            child = os.fork()
            if child:
                with contextlib.suppress(PermissionError):  # both sides do this, so that neither has to wait for the other
                    os.setpgid(child, child)
            else:
                os.close(alive_write)
                os.close(requests)
                signal.set_wakeup_fd(-1)
                _work(request, events, alive_read)
        if child is not None:
            _kill_group(child)
    except BrokenPipeError:  # the parent is gone
        if child:
            _kill_group(child)
    except BaseException:  # noqa: BLE001 - the last frame of this process; the parent reads what stands on standard error
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _lines(requests: int, wake: int) -> Iterator[bytes | None]:
    """Yield each line that arrives, and None whenever a signal did; ends when the input closes."""
    buffer = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(requests, selectors.EVENT_READ)
        waiting.register(wake, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                    yield None
                    continue
                chunk = os.read(requests, 65536)
                if not chunk:
                    return
                buffer += chunk
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    yield line


def _kill_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _oom_kills() -> int:
    """Return how often the kernel has killed for lack of memory: in this control group where it says so, else on this machine."""
    for path in (*_memory_counters(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")), Path("/proc/vmstat")):
        with contextlib.suppress(OSError):
            counts = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def _memory_counters(membership: Path, groups: Path) -> list[Path]:
    """Return where this process's control group counts such kills: in version 2 of the interface (hierarchy 0), in version 1."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    second = [groups / path.lstrip("/") / "memory.events" for number, _, path in lines if number == "0"]
    first = [groups / "memory" / path.lstrip("/") / "memory.oom_control" for _, kinds, path in lines if "memory" in kinds.split(",")]
    return second + first


# ------------------------------------------------------------------------------------- the child's side


def _work(request: Mapping[str, Any], events: int, alive: int) -> NoReturn:
    """Do one request and exit: 0 when done, 3 with the reason in ``error.json`` when not."""
    code = 3
    folder = Path(request["folder"])
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        threading.Thread(target=_end_with_server, args=(alive,), daemon=True).start()
        log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)

        last = ("", 0.0)

        def report(stage: str, fraction: float, total: int = 0) -> None:
            nonlocal last
            now = time.monotonic()
            if stage == last[0] and now < last[1] + _REPORT_EVERY_S:
                return
            last = (stage, now)
            os.write(events, json.dumps({"stage": stage, "fraction": round(fraction, 4), "total": total}).encode() + b"\n")

        module, _, function = request["task"].partition(":")
        getattr(importlib.import_module(module), function)(request["spec"], folder, report)
        code = 0
    except BaseException as error:  # noqa: BLE001 - the last frame of this process: whatever came is told to the parent
        traceback.print_exc()
        _tell_error(error, folder)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_NO_MEMORY = (
    "can't allocate memory",  # torch on a CPU, Linux
    "not enough memory: you tried to allocate",  # torch on a CPU, elsewhere
    "backend out of memory",  # torch on an Apple GPU
    "CUDA error: out of memory",  # the driver, outside torch's own allocator
    "ALLOC_FAILED",  # cuBLAS and cuDNN
    "std::bad_alloc",  # FAISS
)
"""How libraries that raise a plain RuntimeError say that there is no memory."""


def memory_ran_out(error: BaseException | None) -> bool:
    """Say whether an error, or one that it was raised from, is about there being no more memory, on the host or on a device."""
    seen: set[int] = set()  # an error can be its own cause, by `raise error from error`
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        named = {kind.__name__ for kind in type(error).__mro__}
        if named & {"MemoryError", "OutOfMemoryError"} or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


def _tell_error(error: BaseException, folder: Path) -> None:
    """Write down what ended this child, as a status and a text for the record."""
    if memory_ran_out(error):
        status, text = "oom", f"memory ran out: {error or type(error).__name__}; use a smaller batch_size or dataset.corpus"
    elif isinstance(error, AuditError):
        status, text = "invalid", str(error)
    elif isinstance(error, HarnessError):
        status, text = "failed", "; ".join(str(error).splitlines())  # a line for each violation
    else:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" (in {Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        status, text = "failed", f"{type(error).__name__}: {error}{where}"
    with contextlib.suppress(OSError):
        (folder / ERROR_FILE).write_text(json.dumps({"status": status, "text": text}))


def _end_with_server(alive: int) -> None:
    """Wait for the server's end of the pipe to close, then end this process and its group; costs nothing meanwhile."""
    with contextlib.suppress(OSError):
        os.read(alive, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)
