from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.errors import SettingsError
from harness.interfaces import Index
from stores.index import FLAT, HNSW, HNSW_SQ, IVF_FLAT, IVF_SQ8
from tests.stores.oracle import ROOT

FAMILIES = [FLAT, HNSW, HNSW_SQ, IVF_FLAT, IVF_SQ8]
YAMLS = sorted((ROOT / "conf" / "index").glob("*.yaml"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_an_index_under_its_own_name(family):
    index = family()
    assert isinstance(index, Index)
    assert index.family == family.__name__
    assert index.knob is None or index.knob in {field.name for field in dataclasses.fields(index)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_of_the_knob_is_an_operating_point_and_no_build_parameter(family):
    index = family()
    assert index.knob not in index.build_params()
    if index.knob:
        assert index.search_params() == [{index.knob: value} for value in getattr(index, index.knob)]
    else:
        assert index.search_params() == [{}]


def test_all_fields_reach_the_store():
    for family in FAMILIES:
        index = family()
        assert {*index.build_params(), *index.search_params()[0]} == {field.name for field in dataclasses.fields(index)}


def test_lists_from_yaml_become_tuples_so_that_settings_stay_frozen_and_hashable():
    assert HNSW(ef=[10, 20]) == HNSW(ef=(10, 20))
    assert hash(IVF_FLAT(nprobe=[1, 2])) == hash(IVF_FLAT(nprobe=(1, 2)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        HNSW().M = 3


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (HNSW, {"M": 1}, "index.M must be a whole number in [2, 2048], got 1"),
        (HNSW, {"M": 2049}, "index.M must be a whole number in [2, 2048], got 2049"),
        (HNSW, {"M": True}, "index.M must be a whole number in [2, 2048], got True"),
        (HNSW, {"M": "16"}, "index.M must be a whole number in [2, 2048], got '16'"),
        (HNSW, {"M": 16.0}, "index.M must be a whole number in [2, 2048], got 16.0"),
        (HNSW, {"ef_construction": 0}, "index.ef_construction must be a whole number in [1, 2147483647], got 0"),
        (HNSW, {"ef": []}, "index.ef must be a list of at least one whole number, e.g. [1], got ()"),
        (HNSW, {"ef": 64}, "index.ef must be a list of at least one whole number, e.g. [1], got 64"),
        (HNSW, {"ef": "64"}, "index.ef must be a list of at least one whole number, e.g. [1], got '64'"),
        (HNSW, {"ef": [16, True, float("nan")]}, "index.ef must hold whole numbers only, got True, nan"),
        (HNSW, {"ef": [0, 16]}, "index.ef must be in [1, 2147483647], got 0"),
        (HNSW, {"ef": [64, 16, 64]}, "index.ef must be strictly increasing, got [64, 16, 64]; write [16, 64]"),
        (HNSW_SQ, {"sq_type": "SQ9"}, "index.sq_type must be one of SQ4U, SQ6, SQ8, BF16, FP16, got 'SQ9'"),
        (IVF_FLAT, {"nlist": 0}, "index.nlist must be a whole number in [1, 65536], got 0"),
        (IVF_FLAT, {"nlist": 65537}, "index.nlist must be a whole number in [1, 65536], got 65537"),
        (IVF_FLAT, {"nlist": 16, "nprobe": [4, 64]}, "index.nprobe must be in [1, index.nlist=16], got 64"),
        (IVF_SQ8, {"nlist": 16, "nprobe": [64]}, "index.nprobe must be in [1, index.nlist=16], got 64"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(family, settings, message):
    with pytest.raises(SettingsError) as caught:
        family(**settings)
    assert caught.value.violations == (message,)


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(SettingsError) as caught:
        HNSW_SQ(M=0, ef_construction=-1, ef=[], sq_type="x")
    assert [re.match(r"index\.(\w+)", each)[1] for each in caught.value.violations] == ["M", "ef_construction", "ef", "sq_type"]
    with pytest.raises(SettingsError) as caught:
        IVF_FLAT(nlist=0, nprobe=[0])
    assert [re.match(r"index\.(\w+)", each)[1] for each in caught.value.violations] == ["nlist", "nprobe"]


def test_ef_below_the_largest_k_is_refused():
    assert HNSW(ef=[5, 8, 10]).violations(rows=100, dim=4, k=[1, 10]) == ["index.ef must be >= k=10, got 5, 8; raise index.ef or lower k"]
    assert HNSW(ef=[10]).violations(rows=100, dim=4, k=[10]) == []


def test_more_cells_than_rows_are_refused():
    assert IVF_FLAT(nlist=64).violations(rows=63, dim=4, k=[10]) == [
        "index.nlist must be <= 63, the number of rows, got 64; lower index.nlist or take a larger corpus"
    ]
    assert IVF_FLAT(nlist=64).violations(rows=64, dim=4, k=[10]) == []


@given(st.lists(st.integers(1, 100), min_size=1), st.integers(1, 100))
def test_a_curve_is_accepted_exactly_when_it_rises_within_its_range(nprobe, nlist):
    rises = sorted(set(nprobe)) == nprobe and nprobe[-1] <= nlist
    try:
        accepted = IVF_FLAT(nlist=nlist, nprobe=nprobe).nprobe == tuple(nprobe)
    except SettingsError:
        accepted = False
    assert accepted == rises


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_an_index_option_says_what_it_is_and_suits_a_corpus_of_two_thousand_rows(path: Path):
    assert path.read_text().startswith("# ")
    index = instantiate(OmegaConf.load(path), _convert_="object")
    assert index.family.lower() == path.stem
    assert index.violations(rows=2_000, dim=384, k=[10]) == []
    assert index.knob is None or len(index.search_params()) >= 3


def test_a_knob_is_set_from_the_command_line_as_a_list():
    settings = OmegaConf.merge(OmegaConf.load(ROOT / "conf/index/hnsw.yaml"), OmegaConf.from_dotlist(["ef=[32,64]"]))
    assert instantiate(settings, _convert_="object").ef == (32, 64)
