"""Keeps a Milvus server from outliving the process that started it; a small program of its own, on the standard library alone.

``python -I -S milvus_watch.py FOLDER COMMAND …`` starts the command in the folder, says its process number on standard
output, and waits. When standard input closes or the parent is gone, however it ended, the server is killed and the folder
deleted: what lies there is a benchmark's, and there is nothing to save. When the server ends by itself, its exit code is
left in the file ``exit`` for the parent to find. If this program itself is killed, Linux kills the server with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

PARENT_LOOK_S = 1.0
"""Between two looks whether the parent lives: a forked child of it may keep the pipe open that would else tell."""

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that a process gets when its parent dies."""


def die_with_parent() -> None:
    """Ask Linux to kill this process when the one that forked it ends; other systems are left to the pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(folder: Path, command: list[str]) -> None:
    """Run the command until it ends or the parent does, then clear up."""
    parent = os.getppid()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # the closing pipe is the only word that counts
    with (folder / "log.txt").open("ab") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # this program has one thread yet
        )
    print(server.pid, flush=True)  # noqa: T201 - the parent reads it

    def wait_for_parent() -> None:
        while os.getppid() == parent:
            readable, _, _ = select.select([0], [], [], PARENT_LOOK_S)
            if readable and not os.read(0, 1):
                break
        server.kill()

    waiting = threading.Thread(target=wait_for_parent, daemon=True)
    waiting.start()
    code = server.wait()
    (folder / "exit").write_text(str(code))
    waiting.join()
    shutil.rmtree(folder, ignore_errors=True)
    remove_process_numbers()


def remove_process_numbers() -> None:
    """Remove the files in which Milvus notes its process number, of servers that the harness started and that run no more.

    They lie outside the folder, wherever it is; one is left when a watcher itself was killed, until the next one ends.
    """
    folder = Path("/run/milvus" if os.geteuid() == 0 else "/tmp/milvus")  # noqa: S108 - where Milvus puts them
    for path in folder.glob("standalone-harness-*.pid"):
        with contextlib.suppress(OSError, ValueError):  # another watcher was quicker, or Milvus is writing it now
            if not is_running(int(path.read_text())):
                path.unlink()
    with contextlib.suppress(OSError):  # not there, or another server's
        folder.rmdir()


def is_running(process: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
