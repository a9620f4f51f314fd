"""Work for measuring processes, good and bad, named in tests as ``tests.tasks:function``."""

import json
import os
import signal
import subprocess
import sys
import time

from harness.errors import AuditError, StoreError


def succeed(spec, folder, report):
    report("half", 0.5)
    (folder / "answer").write_text(str(spec["value"]))
    print("a library talks")
    os.write(1, b'{"exit": 99}\n')  # must not be taken for an event


def hash_of_a_word(spec, folder, report):
    (folder / "answer").write_text(str(hash("a word")))


def environment(spec, folder, report):
    (folder / "answer").write_text(os.environ.get("OMP_NUM_THREADS", ""))


def threads_in_force(spec, folder, report):
    from harness import threads

    threads.set_interop(spec["interop_threads"])
    threads.set_interop(spec["interop_threads"])  # a model is loaded twice
    (folder / "answer").write_text(json.dumps(threads.in_force()))


def loaded_modules(spec, folder, report):
    (folder / "answer").write_text(" ".join(sys.modules))


def raise_bug(spec, folder, report):
    raise ValueError("a bug")


def raise_audit(spec, folder, report):
    raise AuditError("the vectors are constant")


def raise_store(spec, folder, report):
    raise StoreError("the store has gone")


def run_out_of_memory(spec, folder, report):
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    bytearray(2**33)


def run_out_of_memory_in_a_library(spec, folder, report):
    import torch

    torch.empty(2**50, dtype=torch.uint8)


def run_out_of_memory_behind_another_error(spec, folder, report):
    try:
        bytearray(2**60)
    except MemoryError as error:
        raise StoreError("the store refused the rows") from error


def hang(spec, folder, report):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def kill_itself(spec, folder, report):
    print("last words")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def kill_its_server(spec, folder, report):
    (folder / "pids").write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def exit_silently(spec, folder, report):
    os._exit(7)


def chatter(spec, folder, report):
    end = time.monotonic() + spec["seconds"]
    told = 0
    while time.monotonic() < end:
        report("chatter", 0.5)
        told += 1
    report("done", 1.0)
    (folder / "answer").write_text(str(told))


def spin(spec, folder, report):
    end = time.monotonic() + spec["seconds"]
    while time.monotonic() < end:
        pass


def vectors_and_peak(spec, folder, report):
    from harness.memory import peak_rss_bytes
    from harness.vectors import make_vectors

    make_vectors(spec, folder, report)
    (folder / "peak.json").write_text(json.dumps({"peak_rss_bytes": peak_rss_bytes()}))
