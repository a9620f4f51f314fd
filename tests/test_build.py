"""From a configuration node to the object it names, and what is said when that fails."""

import sys

import pytest

from harness.build import build
from harness.errors import SettingsError
from stores.index import HNSW


def violations(node, key="index"):
    with pytest.raises(SettingsError) as caught:
        build(node, key=key)
    return caught.value.violations


def test_a_node_becomes_the_object_with_its_settings():
    assert build({"_target_": "stores.index.HNSW", "M": 8, "ef_construction": 40, "ef": [10]}, key="index") == HNSW(
        M=8, ef_construction=40, ef=[10]
    )


def test_building_a_model_imports_nothing_heavy():
    before = set(sys.modules)
    build({"_target_": "stores.milvus_lite.MilvusLite"}, key="store")
    assert not (set(sys.modules) - before) & {"pymilvus", "torch", "faiss"}


@pytest.mark.parametrize("target", [None, 7, "HNSW", ""])
def test_a_target_must_name_package_module_and_class(target):
    assert violations({"_target_": target}) == (f"index._target_ must be package.module.Class, got {target!r}",)


def test_no_target_at_all_is_said():
    assert violations({"M": 8}) == ("index._target_ must be package.module.Class, got None",)


def test_a_package_that_cannot_be_imported_is_named_with_a_remedy():
    (text,) = violations({"_target_": "my_packages.Mine"}, key="model")
    assert text.startswith("model._target_=my_packages.Mine cannot be imported: No module named 'my_packages'")
    assert "installed or in the current directory" in text


def test_a_class_that_a_module_lacks_is_named():
    assert violations({"_target_": "stores.index.HSNW"}) == ("index._target_=stores.index.HSNW: stores.index has no HSNW",)


def test_unknown_and_missing_settings_are_named_together():
    found = violations({"_target_": "stores.index.IVF_FLAT", "nlists": 4, "M": 3})
    assert any(text.startswith("index.nlists is not a setting of stores.index.IVF_FLAT; it has nlist") for text in found)
    assert any(text.startswith("index.M is not a setting") for text in found)
    found = violations({"_target_": "models.sentence_transformers.SentenceTransformersModel", "dim": 3, "wrong": 1}, key="model")
    assert "model.source must be given; add model.source=…" in found
    assert any("model.wrong is not a setting" in text for text in found)


def test_values_that_a_class_refuses_are_its_own_violations():
    (text,) = violations({"_target_": "stores.index.HNSW", "M": "many", "ef_construction": 40, "ef": [10]})
    assert "index.M" in text
    assert "'many'" in text


def test_a_class_that_takes_any_setting_gets_them_all(monkeypatch):
    import tests.plugins.parts as parts

    def anything(**settings):
        return settings

    monkeypatch.setattr(parts, "anything", anything, raising=False)
    assert build({"_target_": "tests.plugins.parts.anything", "a": 1, "b": [2]}, key="store") == {"a": 1, "b": [2]}
