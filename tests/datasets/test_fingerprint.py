import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.datasets.fingerprint import digest, fingerprint

texts = st.lists(st.binary(max_size=4).map(digest), max_size=5)
qrels = st.none() | st.dictionaries(st.integers(0, 3), st.dictionaries(st.integers(0, 3), st.integers(1, 2), max_size=3), max_size=3)
datasets = st.tuples(st.sampled_from(["text", "image"]), texts, texts, qrels)


def test_digest_is_sha256():
    assert digest(b"abc") == hashlib.sha256(b"abc").digest()


@given(datasets, datasets)
def test_two_datasets_share_a_fingerprint_only_if_they_are_equal(one, other):
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


def test_the_order_of_keys_in_qrels_does_not_matter():
    one = {0: {1: 1, 2: 1}, 1: {0: 1}}
    other = {1: {0: 1}, 0: {2: 1, 1: 1}}
    assert fingerprint("text", [], [], one) == fingerprint("text", [], [], other)


@pytest.mark.parametrize(
    "changed",
    [
        ("text", [b"a", b"c"], [b"q"], {0: {1: 1}}),
        ("text", [b"b", b"a"], [b"q"], {0: {1: 1}}),
        ("text", [b"a", b"b"], [b"r"], {0: {1: 1}}),
        ("text", [b"a"], [b"b", b"q"], {0: {1: 1}}),
        ("text", [b"a", b"b"], [b"q"], {0: {0: 1}}),
        ("text", [b"a", b"b"], [b"q"], {0: {1: 2}}),
        ("text", [b"a", b"b"], [b"q"], {}),
        ("text", [b"a", b"b"], [b"q"], None),
        ("image", [b"a", b"b"], [b"q"], {0: {1: 1}}),
    ],
)
def test_any_change_of_item_order_query_label_or_modality_changes_it(changed):
    modality, corpus, queries, labels = changed
    before = fingerprint("text", [digest(b"a"), digest(b"b")], [digest(b"q")], {0: {1: 1}})
    assert fingerprint(modality, [digest(item) for item in corpus], [digest(item) for item in queries], labels) != before
