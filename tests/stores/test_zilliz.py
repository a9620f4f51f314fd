"""What of Zilliz Cloud can be held without a cluster; its protocol is tested on a Milvus server in `tests.stores.test_faults`."""

import pytest

from harness.errors import SettingsError, StoreError
from stores.index import AUTOINDEX, HNSW
from stores.zilliz import Zilliz


def test_without_endpoint_and_key_it_says_which_variables_to_set(tmp_path, monkeypatch):
    monkeypatch.delenv("ZILLIZ_ENDPOINT", raising=False)
    monkeypatch.setenv("ZILLIZ_API_KEY", "secret")
    with pytest.raises(StoreError, match=r"store=zilliz needs \$ZILLIZ_ENDPOINT in the environment"):
        Zilliz().open(tmp_path)
    monkeypatch.delenv("ZILLIZ_API_KEY")
    with pytest.raises(StoreError, match=r"\$ZILLIZ_ENDPOINT and \$ZILLIZ_API_KEY"):
        Zilliz().open(tmp_path)


def test_an_endpoint_that_is_none_is_told_without_repeating_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ZILLIZ_ENDPOINT", "db_admin:secret@in01.example")
    monkeypatch.setenv("ZILLIZ_API_KEY", "secret")
    with pytest.raises(StoreError, match=r"\$ZILLIZ_ENDPOINT is no endpoint") as told:
        Zilliz().open(tmp_path)
    assert "secret" not in str(told.value)


def test_its_only_index_is_its_own():
    about = {"metric": "cosine", "dim": 16, "rows": 1_000, "k": [10]}
    assert Zilliz().violations(index=AUTOINDEX(), **about) == []
    assert Zilliz().violations(index=HNSW(), **about) == ["store=zilliz has no index HNSW; it has AUTOINDEX"]
    assert Zilliz().violations(index=AUTOINDEX(), **about, vector_type="fp16", filtered=True) == []
    assert Zilliz().floor_index(rows=10, k=5).search_params() == [{"level": 1}]


def test_nothing_of_it_is_called_verified():
    assert Zilliz().verified == {}


def test_all_settings_that_are_wrong_are_named_at_once():
    with pytest.raises(SettingsError) as told:
        Zilliz(endpoint_env="https://in01.example", api_key_env="", consistency="x", timeout_s=0)
    assert [text.split()[0] for text in told.value.violations] == [
        "store.endpoint_env",
        "store.api_key_env",
        "store.consistency",
        "store.timeout_s",
    ]
