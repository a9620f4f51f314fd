"""The serve cell: both parts in one loop, every query in turn, and what the loop takes is what its parts take."""

import json

import numpy as np
import pytest

from harness import serve_cell
from harness.errors import StoreError
from tests import cells
from tests.plugins.probes import EVENTS


@pytest.fixture
def spec(tmp_path):
    return {
        "embed": cells.embed_spec(cells.lay_out(tmp_path / "data"), target="tests.plugins.parts.HashedWords"),
        "search": cells.search_spec(cells.vectors(tmp_path / "vectors", dim=32)),
        "point": {"k": 7, "search_params": {}},
        **cells.QUICKLY,
    }


def served(spec, folder):
    folder.mkdir()
    EVENTS.clear()
    serve_cell.measure(spec, folder, lambda *_: None)
    with np.load(folder / "samples.npz", allow_pickle=False) as archive:
        return json.loads((folder / "result.json").read_text()), dict(archive)


def test_the_loop_takes_what_its_parts_take(spec, tmp_path):
    result, samples = served(spec, tmp_path / "out")
    whole, parts = samples["serve_s"], samples["embed_s"] + samples["search_s"]
    assert len(whole) == len(parts) == result["count"] >= spec["min_requests"]
    assert (whole >= parts).all()
    assert np.median(whole) < 2 * np.median(parts)
    assert result["wall_s"] >= whole.sum()


def test_each_measured_query_is_one_search_at_the_operating_point(spec, tmp_path):
    result, _ = served(spec, tmp_path / "out")
    searches = [event for event in EVENTS if event[1] == "search"]
    assert all(event[3:] == (7, {}) for event in searches)
    assert len(searches) == result["count"] + 32, "32 searches before the first that counts"


def test_a_collection_is_dropped_when_a_search_fails(spec, tmp_path):
    spec["search"]["store"]["fails_at"] = 40
    with pytest.raises(StoreError):
        served(spec, tmp_path / "out")
    assert [event[1] for event in EVENTS][-2:] == ["drop", "close"]
