"""A stand-in tokenizer for a text model whose own tokenizer cannot be had.

Random weights have no vocabulary, but a text model's cost is set by how many tokens a text becomes, so
the stand-in has to cut English about as finely as a trained one. It is a WordPiece tokenizer trained on
the help texts that every Python installation carries (``pydoc_data.topics``, the language reference:
465,000 characters in Python 3.11). On documentation strings it makes about 16 % more tokens than
all-MiniLM-L6-v2's tokenizer. Its vocabulary is the same for the same Python version.
"""

from __future__ import annotations

from typing import Any

UNKNOWN = "[UNK]"
SPECIAL_TOKENS = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")


def train(*, vocab_size: int, pad_id: int = 0, max_tokens: int) -> Any:
    """Train a WordPiece tokenizer, deterministically.

    Parameters
    ----------
    vocab_size : int
        Most tokens the model's embedding table can take.
    pad_id : int
        Id that the model takes for padding; some models count positions by it.
    max_tokens : int
        Length to which texts are cut, special tokens included.

    Returns
    -------
    transformers.PreTrainedTokenizerFast

    Raises
    ------
    ValueError
        When `vocab_size` has no room for the characters of the training text, or `pad_id` is not among
        the first five ids.
    """
    from pydoc_data import topics  # type: ignore[import-not-found, unused-ignore]  # not in every set of stubs

    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import WordPiece
    from transformers import PreTrainedTokenizerFast

    special = list(SPECIAL_TOKENS[1:])
    if not 0 <= pad_id <= len(special):
        raise ValueError(f"pad_token_id must be in [0, {len(special)}] for a stand-in tokenizer, got {pad_id}")
    special.insert(pad_id, SPECIAL_TOKENS[0])
    texts = [topics.topics[key] for key in sorted(topics.topics)]
    trained = _pipeline(Tokenizer(WordPiece(unk_token=UNKNOWN)), normalizers, pre_tokenizers)
    pieces = sorted({"##" + character for text in texts for character in trained.normalizer.normalize_str(text) if not character.isspace()})
    # The trainer numbers characters inside words in the order of a hash table, and breaks ties between pairs by
    # number: trained twice, it gives two vocabularies. Naming those pieces first fixes their numbers.
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=[*special, *pieces], show_progress=False)
    trained.train_from_iterator(texts, trainer)
    vocabulary = trained.get_vocab()
    if len(vocabulary) > vocab_size:
        raise ValueError(f"vocab_size must be at least {len(vocabulary)} for a stand-in tokenizer, got {vocab_size}")
    tokenizer = _pipeline(Tokenizer(WordPiece(vocab=vocabulary, unk_token=UNKNOWN)), normalizers, pre_tokenizers)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    )
    wrap: Any = PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS},
    )


def _pipeline(tokenizer: Any, normalizers: Any, pre_tokenizers: Any) -> Any:
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
