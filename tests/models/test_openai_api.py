"""The served model against a real endpoint over HTTP on this machine, in good order and with everything that goes wrong."""

from __future__ import annotations

import copy
import email.utils
import gc
import json
import os
import pickle
import socket
import time
import traceback

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from harness.audit import audit
from harness.errors import AuditError, CellError, HarnessError, SettingsError, UnsupportedError, WeightsError
from harness.interfaces import Model, Served
from models.openai_api import OpenAIEmbeddingModel
from tests.conftest import QUICK, ROOT
from tests.models.endpoint import DIM, embedding, serve

KEY = "sk-test-Ünicode".encode().hex()  # long, random-looking, found nowhere else
TEXTS = ["one", "two words", "naïve café 東京 🙂", 'quotes " and \\ and \n lines', ""]


@pytest.fixture
def endpoint(monkeypatch):
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve() as endpoint:
        yield endpoint
        gc.collect()  # models let their connections go


def served(endpoint, **settings) -> OpenAIEmbeddingModel:
    defaults = {"source": "tiny", "dim": DIM, "gflop_per_item": 1.0, "base_url": endpoint.url, "encoding_format": "float"}
    return OpenAIEmbeddingModel(**{**defaults, "request_timeout_s": 5, "patience_s": 5, **settings})


def loaded(endpoint, **settings):
    model = served(endpoint, **settings)
    model.load(model.fetch(model.locate()), device="cpu", dtype="fp32")
    return model


def embed(model, items, role="document"):
    return model.finish(model.forward(model.transfer(model.prepare(items, role=role))))


def expected(texts=TEXTS):
    return np.stack([embedding(text) for text in texts])


# ------------------------------------------------------------------------------------- in good order


def test_it_is_a_model_and_served_in_the_sense_of_the_protocols(endpoint):
    model = served(endpoint)
    assert isinstance(model, Model)
    assert isinstance(model, Served)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_are_the_endpoints_to_the_last_bit_in_the_order_of_the_texts(endpoint, encoding):
    model = loaded(endpoint, encoding_format=encoding)
    vectors = embed(model, TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, expected())
    np.testing.assert_array_equal(np.vstack([embed(model, [text]) for text in TEXTS]), expected())


def test_it_passes_the_audit(endpoint):
    model = served(endpoint)
    info = model.load(model.locate(), device="cpu", dtype="fp32")
    assert (info.dim, info.parameters, info.attention) == (DIM, None, None)
    assert audit(model, info, TEXTS, asked="fp32") == []


def test_embeddings_out_of_order_are_put_in_order_by_their_index(endpoint):
    model = loaded(endpoint)
    endpoint.change = lambda answer: answer["data"].reverse()
    np.testing.assert_array_equal(embed(model, TEXTS), expected())


def test_the_request_holds_what_the_settings_say(endpoint):
    model = loaded(endpoint, dimensions=8, dim=8, query_prompt="query: ", document_prompt="passage: ")
    assert embed(model, ["a"], "query").shape == (1, 8)
    embed(model, ["b"])
    (_, query), (headers, document) = endpoint.requests[-2:]
    assert query == {"model": "tiny", "input": ["query: a"], "encoding_format": "float", "dimensions": 8}
    assert document["input"] == ["passage: b"]
    assert headers["Authorization"] == f"Bearer {KEY}"
    loaded(endpoint)
    assert "dimensions" not in endpoint.requests[-1][1]


def test_an_endpoint_that_ignores_the_asked_encoding_is_understood(endpoint):
    def as_numbers(answer):
        for row, text in zip(answer["data"], endpoint.requests[-1][1]["input"], strict=True):
            row["embedding"] = embedding(text).tolist()

    endpoint.change = as_numbers
    np.testing.assert_array_equal(embed(loaded(endpoint, encoding_format="base64"), TEXTS), expected())


def test_all_requests_go_over_one_connection(endpoint):
    model = loaded(endpoint)
    endpoint.connections.clear()
    for _ in range(5):
        embed(model, TEXTS)
    assert len(endpoint.connections) == 1


def test_without_a_key_none_is_sent(endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    loaded(endpoint)
    assert "Authorization" not in endpoint.requests[-1][0]


def test_address_and_key_come_from_the_variables_that_the_settings_name(endpoint, monkeypatch):
    monkeypatch.setenv("MY_ADDRESS", endpoint.url + "/")
    monkeypatch.setenv("MY_KEY", "another")
    model = loaded(endpoint, base_url=None, base_url_variable="MY_ADDRESS", key_variable="MY_KEY")
    assert embed(model, ["a"]).shape == (1, DIM)
    assert endpoint.requests[-1][0]["Authorization"] == "Bearer another"


def test_the_weights_are_served_and_say_by_whom(endpoint):
    weights = served(endpoint).locate()
    assert (weights.kind, weights.path, weights.revision) == ("served", None, "tiny-0001")
    assert weights.source == f"{endpoint.url} tiny"
    model = loaded(endpoint)
    assert model.fetch(weights) is weights
    assert model.fingerprint() == weights.fingerprint


def test_a_password_in_the_address_is_used_and_shown_nowhere(endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url.replace("//", "//user:hunter22secret@"))
    model = served(endpoint, base_url=None)
    weights = model.locate()
    assert endpoint.requests[-1][0]["Authorization"].startswith("Basic ")
    assert "hunter22" not in repr(weights)
    assert weights.source == f"{endpoint.url} tiny"


def test_the_fingerprint_is_the_same_for_nearly_the_same_numbers_and_another_for_another_model(endpoint):
    original = served(endpoint).locate().fingerprint
    rng = np.random.default_rng(0)

    def noisy(answer):
        for row in answer["data"]:
            row["embedding"] = (np.array(row["embedding"]) + rng.normal(0, 1e-4, DIM)).tolist()

    endpoint.change = noisy
    assert {served(endpoint).locate().fingerprint for _ in range(5)} == {original}

    def other(answer):
        for row, text in zip(answer["data"], endpoint.requests[-1][1]["input"], strict=True):
            row["embedding"] = embedding("retrained " + text).tolist()

    endpoint.change = other
    assert served(endpoint).locate().fingerprint != original
    endpoint.change = lambda answer: answer.update(model="tiny-0002")
    assert served(endpoint).locate().fingerprint != original


def test_what_every_served_figure_is_worth_is_said(endpoint):
    (caveat,) = served(endpoint).caveats
    assert caveat.code == "served"
    assert "network" in caveat.text


# ------------------------------------------------------------------------- again, outside the clock


def test_counters_start_at_zero_after_loading_and_count_requests_and_billed_tokens(endpoint):
    model = loaded(endpoint)
    assert set(model.counters().values()) == {0.0}
    embed(model, ["one two three", "four"])
    embed(model, ["five"])
    assert model.counters() == {"requests": 2, "retries": 0, "rate_limited": 0, "waited_s": 0, "billed_tokens": 5}


def test_the_usage_is_found_in_an_answer_of_megabytes(endpoint):
    model = loaded(endpoint)
    embed(model, ["word"] * 3000)
    assert model.counters()["billed_tokens"] == 3000


def test_a_rate_limit_is_waited_out_as_asked_and_the_wait_is_counted(endpoint):
    model = loaded(endpoint)
    endpoint.faults = [{"status": 429, "headers": {"Retry-After": "0.4"}}, {"status": 429, "headers": {"Retry-After": "0.3"}}]
    started = time.perf_counter()
    np.testing.assert_array_equal(embed(model, TEXTS), expected())
    took_s = time.perf_counter() - started
    counters = model.counters()
    assert (counters["requests"], counters["retries"], counters["rate_limited"]) == (1, 2, 2)
    assert 0.7 <= counters["waited_s"] <= took_s


def test_a_date_to_wait_for_is_understood(endpoint):
    model = loaded(endpoint)
    later = email.utils.formatdate(time.time() + 2, usegmt=True)  # in whole seconds
    endpoint.faults = [{"status": 503, "headers": {"Retry-After": later}}]
    embed(model, ["a"])
    assert model.counters()["waited_s"] >= 0.5
    assert model.counters()["rate_limited"] == 0


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_error_of_the_server_is_tried_again_after_a_pause_of_our_own(endpoint, status):
    model = loaded(endpoint)
    endpoint.faults = [{"status": status}]
    np.testing.assert_array_equal(embed(model, TEXTS), expected())
    counters = model.counters()
    assert (counters["retries"], counters["rate_limited"]) == (1, 0)
    assert counters["waited_s"] >= 0.3


def test_an_attempt_that_takes_too_long_is_repeated_and_its_time_is_no_part_of_the_model(endpoint):
    model = loaded(endpoint, request_timeout_s=0.5)
    endpoint.faults = [{"delay_s": 3}]
    np.testing.assert_array_equal(embed(model, TEXTS), expected())
    assert model.counters()["retries"] == 1
    assert model.counters()["waited_s"] >= 0.5 + 0.375  # the attempt and the pause after it


def test_a_slow_answer_is_the_models_own_time(endpoint):
    model = loaded(endpoint)
    endpoint.faults = [{"delay_s": 0.4}]
    started = time.perf_counter()
    embed(model, ["a"])
    assert time.perf_counter() - started >= 0.4
    assert model.counters()["waited_s"] == 0


def test_patience_ends_and_the_error_says_what_the_endpoint_said(endpoint):
    model = loaded(endpoint, patience_s=1)
    endpoint.always = {"status": 503, "body": b'{"error":{"message":"model is loading"}}'}
    with pytest.raises(CellError, match=r"answered 503 \(model is loading\); gave up after .* s \(model\.patience_s\)"):
        embed(model, ["a"])


def test_a_pause_longer_than_the_patience_is_not_waited_for(endpoint):
    model = loaded(endpoint)
    endpoint.faults = [{"status": 429, "headers": {"Retry-After": "3600"}}]
    with pytest.raises(CellError, match=r"429 .*asks to wait 3600 s"):
        embed(model, ["a"])


def test_an_account_without_credit_is_not_asked_again(endpoint):
    model = loaded(endpoint)
    endpoint.faults = [{"status": 429, "body": b'{"error":{"message":"You exceeded your quota","code":"insufficient_quota"}}'}]
    before = len(endpoint.requests)
    with pytest.raises(CellError, match="exceeded your quota"):
        embed(model, ["a"])
    assert len(endpoint.requests) == before + 1


@pytest.mark.parametrize("body", [b'{"error":{"message":"too long"}}', b'{"message":"too long"}', b'{"detail":"too long"}', b"too\nlong"])
def test_a_request_that_is_refused_is_an_error_at_once_in_the_endpoints_words(endpoint, body):
    model = loaded(endpoint)
    endpoint.faults = [{"status": 413, "body": body}]
    with pytest.raises(CellError, match=r"answered 413 \(too long\)"):
        embed(model, ["a"])
    assert model.counters()["retries"] == 0


def test_a_server_that_goes_away_is_an_error_in_bounded_time(endpoint):
    with serve() as other:
        model = loaded(endpoint, base_url=other.url, patience_s=1)
    with pytest.raises(CellError, match="gave up after"):
        embed(model, ["a"])


# ------------------------------------------------------------------------------------ wrong answers


def no_index(answer):
    del answer["data"][1]["index"]


def same_index(answer):
    answer["data"][1]["index"] = 0


def fewer(answer):
    del answer["data"][-1]


def nan(answer):
    answer["data"][2]["embedding"][3] = float("nan")


def ragged(answer):
    del answer["data"][2]["embedding"][3]


def words(answer):
    answer["data"][2]["embedding"] = ["a", "b"]


def empty(answer):
    for row in answer["data"]:
        row["embedding"] = []


def error_in_200(answer):
    answer.clear()
    answer["error"] = {"message": "overloaded"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_index, "has no index or is no list of numbers"),
        (same_index, "indexes are not those of the texts"),
        (fewer, "with 4 embeddings for 5 texts"),
        (nan, "not finite"),
        (ragged, "different dimensions: 15, 16"),
        (words, "has no index or is no list of numbers"),
        (empty, "different dimensions: 0"),
        (error_in_200, r"no list of embeddings \(overloaded\)"),
        (lambda _: b"<html>Bad gateway</html>", "not in JSON"),
        (lambda _: b"[1, 2]", "no list of embeddings"),
    ],
)
def test_an_answer_that_is_not_what_it_should_be_is_invalid_and_says_why(endpoint, change, said):
    model = loaded(endpoint)
    endpoint.change = change
    with pytest.raises(AuditError, match=said):
        embed(model, TEXTS)


def test_a_wrong_dimension_fails_the_audit(endpoint):
    model = served(endpoint, dim=DIM + 1)
    info = model.load(model.locate(), device="cpu", dtype="fp32")
    with pytest.raises(AuditError, match=f"{DIM + 1}"):
        audit(model, info, TEXTS, asked="fp32")


def test_vectors_that_claim_unit_norm_and_have_none_fail_the_audit(endpoint):
    def longer(answer):
        for row in answer["data"]:
            row["embedding"] = [2 * number for number in row["embedding"]]

    endpoint.change = longer
    model = served(endpoint)
    info = model.load(model.locate(), device="cpu", dtype="fp32")
    with pytest.raises(AuditError, match="norm"):
        audit(model, info, TEXTS, asked="fp32")


# -------------------------------------------------------------------------------- before measuring


def test_an_endpoint_that_is_not_there_is_an_error_that_names_address_and_variable(endpoint):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    started = time.monotonic()
    with pytest.raises(WeightsError) as error:
        served(endpoint, base_url=address).locate()
    assert address in str(error.value)
    assert "OPENAI_BASE_URL" in str(error.value)
    assert "model.base_url" in str(error.value)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("always", [{"delay_s": 8}, {"status": 429, "headers": {"Retry-After": "60"}}])
def test_a_busy_or_silent_endpoint_does_not_hold_up_the_start(endpoint, always):
    endpoint.always = always
    started = time.monotonic()
    with pytest.raises(WeightsError, match=r"in time|did not answer|429"):
        served(endpoint).locate()
    assert time.monotonic() - started < 5.5


def test_a_refused_key_names_its_variable_and_is_not_shown(endpoint, monkeypatch):
    endpoint.always = {"status": 401, "body": json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()}
    with pytest.raises(WeightsError, match="the key in OPENAI_API_KEY was refused") as error:
        served(endpoint).locate()
    assert_hidden("".join(traceback.format_exception(error.value)))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(WeightsError, match="it wants a key; set OPENAI_API_KEY"):
        served(endpoint).locate()


def test_a_model_that_the_endpoint_does_not_know_is_an_error_in_its_words(endpoint):
    endpoint.always = {"status": 404, "body": b'{"error":{"message":"The model `tiny` does not exist"}}'}
    with pytest.raises(WeightsError, match=r"model\.source=tiny: .*answered 404 \(The model `tiny` does not exist\)"):
        served(endpoint).locate()


def test_a_wrong_path_is_an_error_with_a_hint(endpoint):
    with pytest.raises(WeightsError, match=r"404 .*before /embeddings \(model\.base_url\)"):
        served(endpoint, base_url=endpoint.url + "/embeddings").locate()


def test_a_redirect_is_not_followed_with_the_key(endpoint):
    with serve() as other:
        endpoint.always = {"status": 307, "headers": {"Location": other.url + "/embeddings"}}
        with pytest.raises(WeightsError, match="answered 307"):
            served(endpoint).locate()
        assert other.requests == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dtype": "bf16"}, "dtype must be fp32"),
        ({"attention": "sdpa"}, "attention must be auto"),
        ({"compiled": True}, "compile must be false"),
    ],
)
def test_what_only_the_endpoint_decides_is_refused(endpoint, asked, said):
    model = served(endpoint)
    with pytest.raises(UnsupportedError, match=said):
        model.load(model.locate(), **{"device": "cpu", "dtype": "fp32", **asked})


def test_using_a_model_that_is_not_loaded_is_a_bug_that_says_so(endpoint):
    with pytest.raises(RuntimeError, match="load"):
        served(endpoint).counters()


# ----------------------------------------------------------------------------------------- settings


def test_all_wrong_settings_are_named_at_once(endpoint):
    with pytest.raises(SettingsError) as error:
        served(
            endpoint, source="", dim=True, gflop_per_item=float("inf"), dimensions=0, normalized=1, base_url="localhost:8080",
            modality="image", base_url_variable="", key_variable=None, query_prompt=None, document_prompt=3, encoding_format="hex",
            request_timeout_s=0, patience_s="long",
        )  # fmt: skip
    names = "source dim gflop_per_item dimensions normalized base_url modality base_url_variable key_variable query_prompt document_prompt"
    names += " encoding_format request_timeout_s patience_s"
    assert {message.split(" ")[0] for message in error.value.violations} == {f"model.{name}" for name in names.split()}


def test_dim_and_dimensions_have_to_agree(endpoint):
    with pytest.raises(SettingsError, match=r"model\.dim must be model\.dimensions=8 where that is set, got 16"):
        served(endpoint, dimensions=8)


@pytest.mark.parametrize("address", ["http://user:hunter22@host/v1", "http://host:port/v1", "ftp://host/v1", "http://host/v1?key=hunter22"])
def test_an_address_that_will_not_do_is_refused_without_showing_a_password(endpoint, address):
    with pytest.raises(SettingsError, match=r"model\.base_url must") as error:
        served(endpoint, base_url=address)
    assert "hunter22" not in str(error.value)


def test_a_wrong_address_in_the_environment_names_the_variable_and_not_the_password(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "htp://user:hunter22@host/v1")
    with pytest.raises(WeightsError, match="OPENAI_BASE_URL must be an address") as error:
        served(endpoint, base_url=None).locate()
    assert "hunter22" not in str(error.value)


def test_the_option_builds(endpoint):
    body = OmegaConf.load(ROOT / "conf/model/openai_embedding.yaml")
    model = instantiate(body, _convert_="object")
    assert (model.source, model.dim) == ("text-embedding-3-small", 1536)


# ---------------------------------------------------------------------------------- the key is secret


def assert_hidden(text, key=KEY):
    """Neither the key nor half of it is in a text."""
    assert not any(key[i : i + 12] in text for i in range(len(key) - 11))


@pytest.mark.parametrize("quoted", [KEY, KEY[:20] + "...", "key=" + KEY + ",", "x" * 290 + KEY])
def test_an_endpoint_that_quotes_the_key_is_quoted_without_it(endpoint, quoted):
    model = loaded(endpoint)
    endpoint.always = {"status": 400, "body": json.dumps({"error": {"message": f"bad request with {quoted} in it"}}).encode()}
    with pytest.raises(CellError, match="answered 400") as error:
        embed(model, ["a"])
    assert_hidden("".join(traceback.format_exception(error.value)))
    assert "bad request with" in str(error.value)


def test_a_key_that_no_header_can_hold_is_an_error_that_does_not_show_it(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "geheim-schlüssel")
    with pytest.raises(WeightsError, match="OPENAI_API_KEY must hold a key of printable ASCII") as error:
        served(endpoint).locate()
    assert "schl" not in "".join(traceback.format_exception(error.value))


def test_no_representation_copy_or_pickle_of_the_model_holds_the_key(endpoint):
    model = loaded(endpoint)
    for shown in (repr(model), str(vars(model)), repr(vars(model._loaded)), repr(copy.copy(model))):
        assert_hidden(shown)
    with pytest.raises(TypeError):
        pickle.dumps(model)


def written(folder):
    """Every byte below a folder, names included."""
    return b"\n".join(str(path).encode() + b"\n" + (path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))


@pytest.mark.parametrize("fault", [None, {"status": 400, "body": json.dumps({"error": {"message": f"no such thing, {KEY}"}}).encode()}])
def test_nothing_that_a_run_writes_holds_the_key(endpoint, harness, tmp_path, fault):
    if fault:  # after the start has gone well
        endpoint.change = lambda _: setattr(endpoint, "always", fault)
    # A cache of its own, so that all of it is searched.
    own = {"OPENAI_API_KEY": KEY, "HARNESS_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    quick = [argument for argument in QUICK if not argument.startswith(("model=", "processes="))]
    arguments = ("model=openai_embedding", f"model.base_url={endpoint.url}", f"model.dim={DIM}", "model.source=tiny", "model.patience_s=2")
    done = harness(*quick, *arguments, "processes=1", cwd=tmp_path, env=own)
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("records/*.json")]
    assert {record["status"] for record in records if record["kind"] == "embed"} == {"failed" if fault else "ok"}, done.stderr
    files = written(tmp_path)
    assert all(record["key"].encode() in files for record in records)  # it looks where records are
    assert f"{endpoint.url} tiny".encode() in files
    for text in (done.stdout, done.stderr, files.decode("latin-1")):
        assert_hidden(text)
    assert KEY in str(os.environ)  # that it can be found where it is


def test_errors_of_this_model_are_the_projects_own(endpoint):
    model = loaded(endpoint)
    for fault in ({"status": 400}, {"status": 401}, {"status": 302}):
        endpoint.faults = [fault]
        with pytest.raises(HarnessError):
            embed(model, ["a"])
