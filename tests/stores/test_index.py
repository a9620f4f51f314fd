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
from stores.index import (
    AUTOINDEX,
    DISKANN,
    FLAT,
    GPU_BRUTE_FORCE,
    GPU_CAGRA,
    GPU_IVF_FLAT,
    GPU_IVF_PQ,
    HNSW,
    HNSW_PQ,
    HNSW_PRQ,
    HNSW_SQ,
    IVF_FLAT,
    IVF_PQ,
    IVF_RABITQ,
    IVF_SQ8,
    SCANN,
)
from tests.stores.oracle import ROOT

CPU = [FLAT, HNSW, HNSW_SQ, HNSW_PQ, HNSW_PRQ, IVF_FLAT, IVF_SQ8, IVF_PQ, IVF_RABITQ, SCANN, DISKANN, AUTOINDEX]
FAMILIES = [*CPU, GPU_BRUTE_FORCE, GPU_IVF_FLAT, GPU_IVF_PQ, GPU_CAGRA]
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
        assert [params[index.knob] for params in index.search_params()] == list(getattr(index, index.knob))
        assert index.search_params() == [index.at(value) for value in getattr(index, index.knob)]
    else:
        assert index.search_params() == [index.at(1)] == [{}]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_fields_reach_the_store(family):
    fields = {field.name for field in dataclasses.fields(family)}
    index = family(refine=True) if "refine" in fields else family()
    assert {*index.build_params(), *index.search_params()[0]} == fields


@pytest.mark.parametrize("family", [HNSW_SQ, HNSW_PQ, HNSW_PRQ, IVF_RABITQ])
def test_without_refinement_the_store_hears_nothing_of_it(family):
    index = family(refine=False)
    assert not [name for name in {**index.build_params(), **index.search_params()[0]} if "refine" in name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("rows", "k"), [(2_000, 1), (2_000, 100), (70_000, 10)])
def test_both_ends_of_the_knobs_range_are_settings_that_the_family_accepts(family, rows, k):
    span = family().knob_range(rows=rows, dim=384, k=k)
    if family.knob is None:
        assert span is None
        return
    low, high = span
    assert low < high
    index = family(**{family.knob: [low, high]})
    assert index.violations(rows=rows, dim=384, k=[k]) == []
    assert index.search_params() == [index.at(low), index.at(high)]


@pytest.mark.parametrize("family", [HNSW, HNSW_SQ, HNSW_PQ, HNSW_PRQ, DISKANN, GPU_CAGRA])
def test_the_knobs_range_begins_where_the_answer_just_fits(family):
    low, _ = family().knob_range(rows=1_000, dim=384, k=20)
    below = family(**{family.knob: [low - 1]})
    assert below.violations(rows=1_000, dim=384, k=[20]) == [
        f"index.{family.knob} must be >= k=20, got 19; raise index.{family.knob} or lower k"
    ]


@pytest.mark.parametrize("family", [IVF_FLAT, IVF_SQ8, IVF_PQ, IVF_RABITQ, SCANN, GPU_IVF_FLAT, GPU_IVF_PQ])
def test_the_knobs_range_ends_at_every_cell(family):
    assert family(nlist=33, nprobe=[1]).knob_range(rows=1_000, dim=384, k=10) == (1, 33)


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
        (HNSW_SQ, {"refine": "yes"}, "index.refine must be true or false, got 'yes'"),
        (HNSW_SQ, {"refine_k": 0.5}, "index.refine_k must be a finite number of at least 1, got 0.5"),
        (HNSW_PQ, {"refine_k": float("nan")}, "index.refine_k must be a finite number of at least 1, got nan"),
        (IVF_RABITQ, {"refine_k": True}, "index.refine_k must be a finite number of at least 1, got True"),
        (IVF_RABITQ, {"refine_k": "2"}, "index.refine_k must be a finite number of at least 1, got '2'"),
        (IVF_RABITQ, {"refine_type": "SQ4U"}, "index.refine_type must be one of SQ6, SQ8, BF16, FP16, FP32, got 'SQ4U'"),
        (
            HNSW_SQ,
            {"refine": True, "sq_type": "BF16", "refine_type": "FP16"},
            "index.refine_type must be more precise than index.sq_type=BF16, got FP16; take FP32",
        ),
        (HNSW_PQ, {"m": 0}, "index.m must be a whole number in [1, 65536], got 0"),
        (IVF_PQ, {"nbits": 25}, "index.nbits must be a whole number in [1, 24], got 25"),
        (GPU_IVF_PQ, {"nbits": 9}, "index.nbits must be a whole number in [4, 8], got 9"),
        (HNSW_PRQ, {"nrq": 17}, "index.nrq must be a whole number in [1, 16], got 17"),
        (IVF_RABITQ, {"rbq_query_bits": 9}, "index.rbq_query_bits must be a whole number in [0, 8], got 9"),
        (SCANN, {"reorder_k": 0}, "index.reorder_k must be a whole number in [1, 2147483647], got 0"),
        (DISKANN, {"search_list": [5.5]}, "index.search_list must hold whole numbers only, got 5.5"),
        (AUTOINDEX, {"level": [1, 11]}, "index.level must be in [1, 10], got 11"),
        (GPU_CAGRA, {"search_width": 0}, "index.search_width must be a whole number in [1, 2147483647], got 0"),
        (
            GPU_CAGRA,
            {"graph_degree": 65},
            "index.graph_degree must be <= index.intermediate_graph_degree=64, got 65; links are only taken away",
        ),
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


@pytest.mark.parametrize("family", [HNSW_PQ, HNSW_PRQ, IVF_PQ, GPU_IVF_PQ])
def test_codes_that_do_not_fit_the_corpus_are_refused_with_those_that_do(family):
    assert family(m=32).violations(rows=300, dim=100, k=[10]) == ["index.m must divide the dimension 100, got 32; take index.m=25"]
    assert family(m=25).violations(rows=300, dim=100, k=[10]) == []
    assert family(nbits=8).violations(rows=255, dim=384, k=[10]) == [
        "index.nbits=8 needs 256 rows to learn its code words from, there are 255; lower index.nbits"
    ]
    assert family(nbits=7).violations(rows=255, dim=384, k=[10]) == []


def test_scann_reorders_at_least_k_of_an_even_dimension():
    assert SCANN(reorder_k=9).violations(rows=100, dim=4, k=[1, 10]) == [
        "index.reorder_k must be >= k=10, got 9; raise index.reorder_k or lower k"
    ]
    assert SCANN().violations(rows=100, dim=5, k=[10]) == ["index=scann needs an even dimension, got 5"]


@pytest.mark.parametrize("family", [GPU_IVF_FLAT, GPU_IVF_PQ, GPU_CAGRA])
def test_a_gpu_returns_no_more_than_1024_rows(family):
    index = family(itopk_size=[2_000]) if family is GPU_CAGRA else family()
    assert index.violations(rows=3_000, dim=384, k=[10, 1025]) == ["k must be <= 1024 on a GPU, got 1025; lower k"]
    assert index.violations(rows=3_000, dim=384, k=[1024]) == []


def test_a_node_has_fewer_links_than_there_are_rows():
    assert GPU_CAGRA().violations(rows=64, dim=4, k=[10]) == [
        "index.intermediate_graph_degree must be < 64, the number of rows, got 64; lower it or take a larger corpus"
    ]
    assert GPU_CAGRA().violations(rows=65, dim=4, k=[10]) == []


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
    assert index == type(index)(), "the class's defaults are those of the option"
    assert {*OmegaConf.load(path)} == {"_target_", *(field.name for field in dataclasses.fields(index))}
    assert index.violations(rows=2_000, dim=384, k=[10]) == []
    assert index.knob is None or len(index.search_params()) >= 3


def test_a_knob_is_set_from_the_command_line_as_a_list():
    settings = OmegaConf.merge(OmegaConf.load(ROOT / "conf/index/hnsw.yaml"), OmegaConf.from_dotlist(["ef=[32,64]"]))
    assert instantiate(settings, _convert_="object").ef == (32, 64)
