"""Interrupts: what is held waits, and none turns into another error on its way.

They come by a call of what answers them. Sent for real they are in tests/test_session.py, to processes of their own: in one that has
exported networks with torch and run them with OpenVINO and ONNX Runtime, SIGINT ends in a segmentation fault of some library.
"""

import signal
import subprocess
import sys
import threading

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from harness import interrupts, session
from harness.cli import main
from harness.errors import HarnessError
from harness.interrupts import held, raise_again
from harness.plan import make_plan
from harness.settings import compose_job, composing
from tests.conftest import PLUGINS, QUICK, own_environment

ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}
both = pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def _as_before():
    before = {number: signal.getsignal(number) for number in ENDS}
    interrupts.listen()
    yield
    for number, answer in before.items():
        signal.signal(number, answer)


def come(number):
    signal.getsignal(number)(number, None)


def replaced(number, by=None):
    """Be interrupted as OmegaConf is, whose clean-up meets half-set state and fails by itself."""
    try:
        come(number)
    finally:
        raise by or AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'")


@both
def test_an_interrupt_is_raised(number):
    with pytest.raises(ENDS[number]) as raised:
        come(number)
    assert number == signal.SIGINT or raised.value.code == 143


def test_a_library_may_have_taken_the_handler_away():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    interrupts.listen()
    with pytest.raises(KeyboardInterrupt):
        come(signal.SIGINT)


def test_whoever_starts_us_may_want_ctrl_c_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.listen()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@both
def test_what_is_held_waits_for_the_end(number):
    reached = []

    def work():
        with held():
            come(number)
            reached.append("the end")
        reached.append("what follows")

    with pytest.raises(ENDS[number]):
        work()
    assert reached == ["the end"]
    with pytest.raises(ENDS[number]):
        come(number)  # as before


@both
def test_what_is_held_takes_the_place_of_an_error(number):
    def work():
        with held():
            come(number)
            raise ValueError("of whatever was interrupted")

    with pytest.raises(ENDS[number]):
        work()


def test_what_was_held_comes_once():
    with pytest.raises(KeyboardInterrupt), held():
        come(signal.SIGINT)
    with held():
        pass


def test_other_threads_hold_nothing():
    def elsewhere():
        with held():
            began.set()
            end.wait(60)

    began, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    began.wait(60)
    with pytest.raises(KeyboardInterrupt):
        come(signal.SIGINT)
    end.set()
    thread.join()


def test_one_that_holds_inside_another_leaves_it_as_it_was():
    reached = []

    def work():
        with held():
            with held():
                come(signal.SIGINT)
            reached.append("held by the outer")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["held by the outer"]


@both
def test_an_interrupt_is_found_behind_the_errors_that_took_its_place(number):
    with pytest.raises(AttributeError) as first:
        replaced(number)

    def translated():
        try:
            replaced(number)
        except AttributeError as error:
            raise HarnessError("cannot be read") from error

    with pytest.raises(HarnessError) as second:
        translated()
    for error in (first.value, second.value):
        with pytest.raises(ENDS[number]):
            raise_again(error)


def test_an_error_after_an_interrupt_that_was_answered_stays_an_error():
    try:
        come(signal.SIGINT)
    except KeyboardInterrupt:
        rounds = "kept"

    def write():
        raise HarnessError(f"{rounds}, but the disk is full")

    with pytest.raises(HarnessError) as afterwards:
        write()
    raise_again(afterwards.value)
    one, other = ValueError(), ValueError()
    one.__context__, other.__context__ = other, one
    raise_again(one)


def test_other_ways_to_exit_are_no_interrupts():
    raise_again(SystemExit(1))


@both
def test_an_interrupt_while_hydra_composes_waits_until_it_has(monkeypatch, number):
    def load(*given, **named):
        try:
            come(number)
        except BaseException:  # noqa: BLE001 - as a clean-up of OmegaConf's
            raise AttributeError("half-set") from None
        reached.append("composed")
        return original(*given, **named)

    reached = []
    original = ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", load)
    with composing([]), pytest.raises(ENDS[number]):
        compose_job([])
    assert reached


@both
def test_an_error_of_hydras_that_took_the_place_of_an_interrupt_is_not_the_end(tmp_path, number):
    """In a process of its own, because Hydra switches the loggers off that are there."""
    code = (
        "from harness import interrupts, session; from tests.test_interrupts import replaced; interrupts.listen(); "
        f"session._through_hydra(lambda _: replaced({int(number)}), ['results={tmp_path}'], multirun=False, config_dirs=())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env=own_environment(tmp_path)
    )
    assert ended.returncode == {signal.SIGINT: -2, signal.SIGTERM: 143}[number], ended.stderr


@both
@pytest.mark.parametrize("error", [AttributeError("half-set"), HarnessError("not to be had")], ids=["unexpected", "ours"])
def test_an_error_that_took_the_place_of_an_interrupt_is_not_what_is_told(monkeypatch, capfd, number, error):
    monkeypatch.setattr("harness.cli._measure", lambda _: replaced(number, error))
    if number == signal.SIGINT:
        assert main(["model=minilm"]) == 130
    else:
        with pytest.raises(SystemExit, match="143"):
            main(["model=minilm"])
    assert str(error) not in capfd.readouterr().err


@pytest.fixture
def plan(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(shared_cache))
    return make_plan([*QUICK, "batch_size=1,2,4", f"results={tmp_path}"], multirun=True, config_dirs=[str(PLUGINS)])


@both
@pytest.mark.parametrize("error", [AttributeError("half-set"), HarnessError("not to be had")], ids=["unexpected", "ours"])
def test_a_sweep_does_not_go_on_after_an_interrupt_whose_place_an_error_took(plan, monkeypatch, number, error):
    monkeypatch.setattr("harness.engine.Engine.run", lambda *_: replaced(number, error))
    with pytest.raises(ENDS[number]):
        session._run(plan)


@both
def test_a_cell_does_not_fail_by_an_interrupt_whose_place_an_error_took(plan, monkeypatch, number):
    monkeypatch.setattr("harness.engine.Engine._embed", lambda *_: replaced(number))
    with pytest.raises(ENDS[number]):
        session._run(plan)
    assert not list((plan.folder / "records").glob("*.json"))


def test_a_job_that_ends_unexpectedly_does_not_keep_the_others_from_being_measured(plan, monkeypatch, caplog):
    def run(_, one):
        ran.append(one.job.batch_size)
        if one.job.batch_size == 2:
            raise ValueError("Out of range float values are not JSON compliant")

    ran = []
    monkeypatch.setattr("harness.engine.Engine.run", run)
    assert session._run(plan) == ({}, None)
    assert ran == [1, 2, 4]
    assert "the others go on" in caplog.text


def test_what_cannot_be_written_ends_the_sweep(plan, monkeypatch):
    def run(_, one):
        ran.append(one.job.batch_size)
        raise HarnessError("the disk is full")

    ran = []
    monkeypatch.setattr("harness.engine.Engine.run", run)
    with pytest.raises(HarnessError, match="the disk is full"):
        session.measure(plan, [], multirun=True)
    assert ran == [1]
