"""Bad input: every mistake is named with its key, the rule, the value and the remedy, before anything is measured."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cells import _modality
from harness.errors import SettingsError
from harness.interfaces import Data, modalities
from harness.settings import compose_job, composing, expand, options
from tests.conftest import PLUGINS


def job(*overrides, plugins=False):
    folders = [str(PLUGINS)] if plugins else []
    with composing(folders):
        return compose_job(overrides, config_dirs=folders)


def mistakes(*overrides, plugins=False):
    with pytest.raises(SettingsError) as caught:
        job(*overrides, plugins=plugins)
    return caught.value.violations


def test_no_arguments_mean_minilm_on_text_in_milvus_lite_with_hnsw():
    default = job()
    assert default.choices == {
        "model": "minilm", "dataset": "docstrings", "store": "milvus_lite", "index": "hnsw", "workload": "serial", "engine": "local",
    }  # fmt: skip
    assert default.device == "cpu"
    assert default.dtype == "fp32"


def test_the_automatic_dataset_follows_the_modality():
    assert job("model=resnet50").choices["dataset"] == "scenes"
    assert job("model=resnet50", "dataset=auto").choices["dataset"] == "scenes"


@pytest.mark.parametrize("model", [name for name in options("model") if name != "none"])  # its vectors are the user's
def test_every_model_has_an_automatic_dataset_that_it_can_embed(model):
    found = job(f"model={model}", "dtype=fp32")
    assert {found.dataset.modality, found.dataset.query_modality} <= set(modalities(found.model.modality))
    assert found.dataset.modality == modalities(found.model.modality)[0], "documents are of what a model embeds first"


def test_a_model_of_two_modalities_is_asked_in_one_for_the_other_and_takes_datasets_of_either():
    automatic = job("model=clip_vit_b32").dataset
    assert (automatic.modality, automatic.query_modality) == ("image", "text")
    assert job("model=clip_vit_b32", "dataset=scenes").dataset.query_modality == "image"
    assert job("model=clip_vit_b32", "dataset=docstrings").dataset.modality == "text"


def test_a_search_across_modalities_is_labelled_by_both_and_any_other_by_one():
    def data(**asked_in):
        return Data("image", "d", ["a.png"], ["q"], None, "f", **asked_in)

    assert _modality(data(asked_in="text")) == "text → image"
    assert _modality(data()) == "image"


def test_settings_of_the_automatic_dataset_reach_the_one_chosen():
    assert job("dataset.corpus=123", "dataset.queries=7").dataset.corpus == 123


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("batch_size=0", "batch_size must be auto or a whole number ≥ 1, got 0"),
        ("batch_size=3.5", "batch_size must be auto or a whole number ≥ 1, got 3.5"),
        ("batch_size=many", "got 'many'"),
        ("batch_size=true", "got True"),
        ("batch_size=null", "got None"),
        ("interop_threads=0", "interop_threads must be a whole number ≥ 1, got 0"),
        ("threads=0", "threads must be a whole number ≥ 1, got 0"),
        ("attention=flash", "attention must be one of auto, sdpa, eager, flash_attention_2, got 'flash'"),
        ("compile=maybe", "compile must be one of true, false, got 'maybe'"),
        ("exclusive=maybe", "exclusive must be one of true, false, device, got 'maybe'"),
        ("exclusive=1", "exclusive must be one of true, false, device, got 1"),
        ("dtype=fp8", "dtype must be one of fp32, fp16, bf16, int8, got 'fp8'"),
        ("metric=manhattan", "metric must be one of cosine, ip, l2"),
        ("device=tpu", "device must be auto, cpu, cuda, cuda:N or mps, got 'tpu'"),
        ("processes=0", "processes must be a whole number in [1, 64], got 0"),
        ("min_duration_s=nan", "min_duration_s must be a number > 0, got nan"),
        ("min_duration_s=-1", "min_duration_s must be a number > 0, got -1"),
        ("timeout_s=inf", "timeout_s must be a number > 0"),
        ("seed=-1", "seed must be a whole number ≥ 0"),
        ("fresh=maybe", "fresh must be one of true, false, got 'maybe'"),
        ("budget=soon", "budget must be a time such as 90s, 10m or 2h, got 'soon'"),
        ("budget=0m", "budget must be a time"),
        ("k=[]", "k must be a list of different whole numbers ≥ 1"),
        ("k=[10,10]", "k must be a list of different whole numbers"),
        ("k=[0]", "k must be a list of different whole numbers ≥ 1"),
        ("k=[5000]", "k must be ≤ dataset.corpus="),
        ("name=../x", "name must be one word"),
        ("name=a/b", "name must be one word"),
        ("workload.concurrency=[0]", "workload.concurrency must be a list of different whole numbers ≥ 1"),
        ("workload.min_requests=0", "workload.min_requests must be a whole number ≥ 1"),
        ("index.ef=[5]", "index.ef must be"),
        ("index.ef=[]", "index.ef"),
        ("index.M=many", "index.M"),
        ("dataset.corpus=10", "dataset.queries must be at most dataset.corpus=10"),
        ("dataset.corpus=-5", "dataset.corpus"),
        ("dataset=scenes", "dataset=scenes holds image, but model=minilm embeds text"),
        (
            "dataset=scenes_by_caption",
            "dataset=scenes_by_caption holds image and text, but model=minilm embeds text; choose a dataset of text",
        ),
        ("dataset=files", "dataset.path must be given; add dataset.path=…"),
        ("model=gpt17", "model=gpt17 is not an option; it has "),
        ("index=annoy", "index=annoy is not an option; it has "),
        ("batchsize=3", "batchsize is not a setting"),
        ("index.efc=3", "index.efc is not a setting"),
        ("index.nprobe=[4]", "index.nprobe is not a setting of the index chosen; these have it: index="),
        ("+index.efc=3", "index.efc is not a setting of stores.index.HNSW; it has M, ef_construction, ef"),
        ("model.weights=best", "model.weights"),
        ("model=", "model= is not an option; it has "),
        ("+foo=3", "foo is not a setting"),
        ("~model", "model must be there; leave out ~model"),
        ("~k", "k must be there"),
        ("~workload.min_requests", "workload.min_requests must be a whole number ≥ 1, got None"),
        ("model._target_=models.nowhere.Model", "model._target_=models.nowhere.Model cannot be imported"),
        ("model._target_=models.sentence_transformers.Nothing", "has no Nothing"),
    ],
)
def test_a_mistake_is_named_with_key_rule_and_value(override, words):
    found = mistakes(override)
    assert any(words in violation for violation in found), found


def test_all_mistakes_are_reported_at_once():
    found = mistakes("batch_size=0", "dtype=fp8", "processes=0", "index.ef=[0]")
    assert len(found) >= 4


def test_a_batch_larger_than_the_corpus_is_refused():
    assert any("batch_size must be ≤ dataset.corpus=20, got 32" in text for text in mistakes("dataset.corpus=20", "dataset.queries=5"))


def test_a_device_that_is_not_here_is_unsupported_and_names_what_is():
    assert any("device=cuda:7: this machine has cpu" in text for text in job("device=cuda:7").unsupported)


def test_an_index_the_store_lacks_is_unsupported_and_names_what_it_has():
    assert any("it has FLAT" in text for text in job("store=exact", "index=hnsw").unsupported)


def test_nprobe_beyond_nlist_is_refused():
    assert any("nprobe" in text and "nlist" in text for text in mistakes("index=ivf_flat", "index.nlist=4", "index.nprobe=[8]"))


def test_a_plug_in_from_outside_is_an_option_like_ours():
    assert job("model=hashed_words", "dataset=sentences", "store=nothing", "index=flat", plugins=True).model.dim == 32
    assert "hashed_words" in options("model", [str(PLUGINS)])


def test_a_folder_of_options_that_is_none_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="is not a folder"), composing([str(tmp_path / "nowhere")]):
        pass


def test_a_sweep_expands_to_the_product_in_order():
    assert expand(["model=minilm", "batch_size=1,8", "index=flat,hnsw"], multirun=True) == [
        ("model=minilm", "batch_size=1", "index=flat"),
        ("model=minilm", "batch_size=1", "index=hnsw"),
        ("model=minilm", "batch_size=8", "index=flat"),
        ("model=minilm", "batch_size=8", "index=hnsw"),
    ]


@pytest.mark.parametrize("sweep", ["batch_size=range(1,4)", "batch_size=choice(1,2,3)"])
def test_hydras_other_sweeps_expand_too(sweep):
    assert [one[0] for one in expand([sweep], multirun=True)] == ["batch_size=1", "batch_size=2", "batch_size=3"]


def test_a_list_is_one_value_and_several_values_need_m():
    assert expand(["index.ef=[16,64]"], multirun=False) == [("index.ef=[16,64]",)]
    with pytest.raises(SettingsError, match="add -m to sweep"):
        expand(["batch_size=1,8"], multirun=False)


@given(st.text(max_size=30))
def test_whatever_is_typed_is_a_sweep_or_a_plain_error(text):
    with suppress(SettingsError):  # anything else would be a traceback at the prompt
        assert expand([text], multirun=True)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("filter=[0.5]", "workload.churn_per_s goes without a filter, got filter=[0.5]"),
        ("workload.churn_upserts=2", "workload.churn_upserts must be a number in [0, 1], got 2"),
        ("workload.churn_upserts=true", "workload.churn_upserts must be a number in [0, 1], got True"),
        ("workload.churn_per_s=[0]", "workload.churn_per_s must be a list of different numbers > 0"),
    ],
)
def test_a_mistake_about_changing_rows_is_named_with_key_rule_and_value(override, words):
    found = mistakes("workload=churn", override)
    assert any(words in violation for violation in found), found


def test_rows_change_in_stores_that_can_and_the_others_say_which_these_are():
    asked = job("workload=churn", "store=exact", "index=flat")
    assert asked.unsupported == ()
    assert (asked.churn_per_s, asked.churn_upserts) == ((10.0, 100.0), 0.2)
    assert job("store=faiss").churn_per_s == ()
    (refused,) = job("workload=churn", "store=faiss").unsupported
    assert refused == (
        "store=faiss cannot change rows while they are searched, which workload.churn_per_s needs; "
        "these can: exact, milvus, milvus_lite, milvus_local, zilliz"
    )


def test_a_setting_of_one_index_swept_over_others_is_refused_with_what_to_do():
    (found,) = mistakes("index=flat", "index.ef=[4]")
    assert found.startswith("index.ef is not a setting of index=flat; these have it: index=hnsw, ")
    assert found.endswith("sweep over it with those alone: a name has one report")
