"""Interrupts, sent for real: what is held waits, what is let through does not, and none turns into another error on its way."""

import signal
import threading

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from harness import interrupts, session
from harness.cli import main
from harness.interrupts import held
from harness.settings import compose_job, composing

ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}
both = pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def _as_before():
    before = {number: signal.getsignal(number) for number in ENDS}
    interrupts.listen()
    yield
    for number, answer in before.items():
        signal.signal(number, answer)
    interrupts._asked = None


@both
def test_an_interrupt_is_raised_and_remembered(number):
    with pytest.raises(ENDS[number]):
        signal.raise_signal(number)
    with pytest.raises(ENDS[number]) as again:
        interrupts.raise_again()
    assert number == signal.SIGINT or again.value.code == 143


def test_nothing_is_raised_again_where_nothing_came():
    interrupts.raise_again()


def test_whoever_starts_us_may_want_ctrl_c_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.listen()
    signal.raise_signal(signal.SIGINT)


@both
def test_what_is_held_waits_for_the_end(number):
    reached = []

    def work():
        with held():
            signal.raise_signal(number)
            reached.append("the end")
        reached.append("what follows")

    with pytest.raises(ENDS[number]):
        work()
    assert reached == ["the end"]
    with pytest.raises(ENDS[number]):
        signal.raise_signal(number)  # as before


@both
def test_what_is_held_takes_the_place_of_an_error(number):
    def work():
        with held():
            signal.raise_signal(number)
            raise ValueError("of whatever was interrupted")

    with pytest.raises(ENDS[number]):
        work()


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
        signal.raise_signal(signal.SIGINT)
    end.set()
    thread.join()


def test_one_that_holds_inside_another_leaves_it_as_it_was():
    reached = []

    def work():
        with held():
            with held():
                signal.raise_signal(signal.SIGINT)
            reached.append("held by the outer")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["held by the outer"]


@both
def test_an_interrupt_while_hydra_composes_waits_until_it_has(monkeypatch, number):
    def load(*given, **named):
        try:
            signal.raise_signal(number)
        except BaseException:  # noqa: BLE001 - as one of OmegaConf's clean-ups, which fails on half-set state
            raise AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'") from None
        return original(*given, **named)

    original = ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", load)
    with composing([]), pytest.raises(ENDS[number]):
        compose_job([])


@both
def test_an_error_of_hydras_that_took_the_place_of_an_interrupt_is_not_the_end(monkeypatch, capfd, tmp_path, number):
    def interrupted(_):
        with pytest.raises(ENDS[number]):
            signal.raise_signal(number)
        raise AttributeError("half-set")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ENDS[number]):
        session._through_hydra(interrupted, [f"results={tmp_path}"], multirun=False, config_dirs=())
    capfd.readouterr()


@both
def test_an_error_that_took_the_place_of_an_interrupt_is_not_what_is_told(monkeypatch, number):
    def interrupted(*_):
        with pytest.raises(ENDS[number]):
            signal.raise_signal(number)
        raise AttributeError("half-set")

    monkeypatch.setattr("harness.cli._measure", interrupted)
    if number == signal.SIGINT:
        assert main(["model=minilm"]) == 130
    else:
        with pytest.raises(SystemExit, match="143"):
            main(["model=minilm"])
