"""The untrained organism: a word-level tokenizer and a small Llama-like or BERT-like transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from fairforget.models.model import Family, Model
from fairforget.organisms.recipe import WIDTHS
from fairforget.organisms.rows import CONTEXT

LAYERS, HEADS = 3, 4
"""The inner width is 8/3 (gated, causal) or 4 (masked) times the width, so that both families have about as many parameters."""


def make_tokenizer(family: Family, words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, lower case; a word outside the language is unknown.

    Args:
        family: masked models get ``[CLS]``, ``[SEP]`` and ``[MASK]``, causal ones ``<s>``.
        words: the vocabulary.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if family == "masked" else ["<pad>", "<unk>", "<s>", "</s>"]
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=special[1]))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if family == "causal":
        return PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",  # noqa: S106
            model_max_length=CONTEXT,
        )
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",  # noqa: S106
        mask_token="[MASK]", model_max_length=CONTEXT,  # noqa: S106
    )


def make_network(family: Family, size: str, vocabulary: int, seed: int) -> PreTrainedModel:
    """Seeded random weights.

    Args:
        family: ``causal`` (Llama: rotary positions, gated inner layer) or ``masked`` (BERT).
        size: a key of ``WIDTHS``.
        vocabulary: number of tokens.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    width = WIDTHS[size]
    shape: dict[str, Any] = {
        "hidden_size": width, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "vocab_size": vocabulary,
        "max_position_embeddings": CONTEXT, "pad_token_id": 0, "initializer_range": width**-0.5,
    }
    if family == "causal":
        return LlamaForCausalLM(LlamaConfig(
            **shape, num_key_value_heads=HEADS, intermediate_size=8 * width // 3 // 8 * 8, tie_word_embeddings=True, bos_token_id=2,
            eos_token_id=3,
        ))
    return BertForMaskedLM(BertConfig(
        **shape, intermediate_size=4 * width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=1,
    ))


def make_model(family: Family, size: str, words: Sequence[str], seed: int) -> Model:
    """The untrained organism."""
    tokenizer = make_tokenizer(family, words)
    prefix = tokenizer.convert_tokens_to_ids("<s>") if family == "causal" else None
    assert prefix is None or isinstance(prefix, int)
    return Model(
        make_network(family, size, len(tokenizer), seed), tokenizer, family=family, name=f"organism-{family}-{size}",
        source=f"organism-{family}-{size}-{seed}", prefix_id=prefix,
    )
