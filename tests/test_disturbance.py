"""Work of others is seen, our own is not taken for it."""

import subprocess
import sys
import time

import psutil

from harness.disturbance import OtherWork
from harness.replicate import Replicate

BUSY = "import time; end = time.monotonic() + {}\nwhile time.monotonic() < end: pass"


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_process_of_somebody_elses_is_seen():
    other = subprocess.Popen([sys.executable, "-c", BUSY.format(60)])
    try:
        time.sleep(0.5)
        quiet_or_not = OtherWork([])
        time.sleep(2)
        assert quiet_or_not.share() > 0.5 / psutil.cpu_count()  # it keeps one processor busy unless many others want it too
    finally:
        other.kill()
        other.wait()


def test_our_own_work_and_that_of_our_servers_children_does_not_count(tmp_path):
    server = Replicate()
    try:
        server.wait_until_ready()
        counted, blind = OtherWork([server.pid]), OtherWork([])
        spin(0.5)
        server.run("tests.tasks:spin", {"seconds": 1.5}, tmp_path, timeout_s=60)
        assert blind.share() - counted.share() > 0.3 / psutil.cpu_count()
    finally:
        server.close()


def test_a_server_that_has_gone_leaves_the_share_unknown():
    server = Replicate()
    server.wait_until_ready()
    watch = OtherWork([server.pid])
    server.close()
    assert watch.share() is None


def test_a_share_is_between_0_and_1():
    watch = OtherWork([])
    spin(0.2)
    assert 0 <= watch.share() <= 1
