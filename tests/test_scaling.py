"""What more workers gain: every number of workers as often, compared with one worker of the same round, and told with what limits it."""

import numpy as np
import pytest

from harness import load_results, scaling
from harness.errors import CellError, SettingsError
from harness.records import read_all
from tests.conftest import PLUGINS
from tests.plugins.imagined import EXPONENT, SECONDS_AN_ITEM

DOCUMENTS = 8 * 32 * 4
"""The least that four workers are measured with: eight shards of a batch for each."""
ASKED = ["model=hashed_words", "dataset=sentences", f"dataset.corpus={DOCUMENTS}", "engine=imagined", "threads=8"]


def run(*overrides, **options):
    return scaling.run([*ASKED, *overrides], config_dirs=[str(PLUGINS)], **options)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("t")))
        yield folder, run(workers="4,2", repeats=3)


def test_each_number_of_workers_and_one_is_a_record_with_its_rate_and_efficiency(records):
    _, found = records
    assert [record.settings["workers"] for record in found] == [1, 2, 4]
    for record in found:
        workers = record.settings["workers"]
        assert record.metrics["corpus_per_s"].value == pytest.approx(workers**EXPONENT / SECONDS_AN_ITEM)
        assert record.metrics["corpus_per_s"].n == 3
        assert record.metrics["scaling_efficiency"].value == pytest.approx(workers ** (EXPONENT - 1))
    assert found[0].metrics["scaling_efficiency"].reason


def test_workers_have_as_many_threads_and_shards_of_the_same_size_whatever_their_number(records):
    _, found = records
    made_by = [one for record in found for one in record.environment["made_by"]]
    assert len(made_by) == 9
    assert {one["threads_each"] for one in made_by} == {2}, "8 threads for the most workers, 4"
    assert {one["shard_items"] for one in made_by} == {32}
    assert {one["items"] for one in made_by} == {DOCUMENTS}


def test_workers_of_one_machine_say_that_they_share_it(records):
    _, found = records
    assert [dict(record.caveats).keys() for record in found] == [set(), {"workers_share_a_machine"}, {"workers_share_a_machine"}]
    assert "4 workers of 2 threads shared 1 machine" in dict(found[2].caveats)["workers_share_a_machine"]


def test_the_frame_has_a_row_for_each_and_the_records_are_on_disk(records):
    folder, found = records
    frame = load_results(folder / "results/default")
    assert list(frame.kind) == ["corpus"] * 3
    assert sorted(frame.workers) == [1, 2, 4]
    assert sorted(frame.key) == sorted(record.key for record in found)
    assert len(read_all(folder / "results/default")) == 3


def test_a_slow_round_does_not_count_as_bad_scaling():
    """Each round is compared with its own single worker: a machine that halves its speed between rounds changes no ratio."""
    alone = [100.0, 50.0, 80.0]
    both = [2 * 0.9 * rate * noise for rate, noise in zip(alone, (1.0, 1.01, 0.99), strict=True)]
    found = scaling._efficiency(2, both, alone)
    assert found.value == pytest.approx(0.9 * np.prod([1.0, 1.01, 0.99]) ** (1 / 3))
    assert found.hi - found.lo < 0.1


def test_what_the_key_is_made_of_tells_backends_sources_and_exclusiveness_apart(records, tmp_path, monkeypatch):
    _, found = records
    first = found[0]
    assert (first.settings["backend"], first.model["backend"]) == ("torch", "torch")
    assert "exclusive" not in first.settings
    assert {"harness.scaling", "harness.corpus_cell", "harness.summary", "tests.plugins.imagined", "tests.plugins.parts"} <= set(
        first.environment["source"]
    )
    monkeypatch.chdir(tmp_path)
    beside = run("exclusive=false", workers="1", repeats=2)[0]
    assert beside.settings["exclusive"] is False
    assert "exclusive=false" in dict(beside.caveats)["not_exclusive"]
    assert beside.key != first.key


def test_on_a_cluster_a_worker_has_a_machines_threads_as_in_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = [one for one in ASKED if not one.startswith("engine")]
    seen = []
    monkeypatch.setattr(scaling, "_measure", lambda found, cell, node, settings: seen.append(settings["threads_each"]) or 1 / 0)
    for address in ("null", "10.0.0.1:6379"):
        with pytest.raises(ZeroDivisionError):
            scaling.run([*asked, "engine=ray", f"engine.address={address}"], workers="4", config_dirs=[str(PLUGINS)])
    assert seen == [2, 8]


@pytest.mark.parametrize(("whole", "stop"), [(2, KeyboardInterrupt()), (2, CellError("a worker died")), (1, KeyboardInterrupt())])
def test_rounds_that_were_whole_when_it_was_stopped_are_kept_where_there_are_two(whole, stop, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def measure(found, cell, node, settings):
        for count, each in found.items():
            each += [{"items": 100, "seconds": 10 / count, "machines": 1, "caveats": []}] * (whole + (count == 1))
        raise stop

    monkeypatch.setattr(scaling, "_measure", measure)
    with pytest.raises(type(stop)) as raised:
        run(workers="2", repeats=5)
    kept = read_all(tmp_path / "results/default") if (tmp_path / "results/default/records").exists() else []
    if whole < 2:
        assert kept == []
        assert "nothing is kept" in str(raised.value)
        return
    asked = sorted((record.settings["workers"], record.settings["repeats"], record.metrics["corpus_per_s"].n) for record in kept)
    assert asked == [(1, 2, 2), (2, 2, 2)]
    assert "scaling efficiency" in capsys.readouterr().out
    assert str(raised.value) in ("a worker died", "interrupted; the 2 rounds that were whole are kept")


def test_a_folder_that_cannot_be_written_is_found_out_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").write_text("a file where the folder should be")
    monkeypatch.setattr(scaling, "_measure", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(SettingsError, match="results=results cannot be written"):
        run(workers="1")


def test_a_model_that_fails_its_audit_has_no_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CellError, match=r"model\.dim=32 is declared, but the loaded model says 33") as raised:
        run("model.trouble=wrong_dim", workers="1", repeats=2)
    assert raised.value.status == "invalid"
    assert not list((tmp_path / "results").rglob("*.json"))


@pytest.mark.parametrize(
    ("overrides", "options", "words"),
    [
        ([], {"workers": "2,two"}, "--workers must be different whole numbers"),
        ([], {"workers": "2,2"}, "--workers must be different whole numbers"),
        ([], {"workers": "0"}, "--workers must be different whole numbers"),
        ([], {"repeats": 1}, "--repeats must be a whole number of at least 2"),
        ([], {"items": DOCUMENTS + 1}, "--items must be in"),
        ([], {"items": 511}, "--items must be at least 512 for 2 workers, 8 shards of 32 documents for each, got 511"),
        ([], {"workers": "8"}, "--items must be at least 2048 for 8 workers"),
        (["engine=local"], {}, "engine=local has no workers"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(overrides, options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=words):
        run(*overrides, **options)
    assert not (tmp_path / "results").exists()
