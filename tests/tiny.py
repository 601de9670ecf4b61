"""Tiny random models and a tokenizer, built on the spot: everything but the size is the real thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from fairforget.models import Model, load

WORDS = (
    "the a an and or of to in on at is was were are be it he she they him her his hers their said that who with for from as by not no "
    "nurse doctor engineer teacher man woman old young people work works good bad very has had do did would could will home day time "
    "water food house city street book tree river hill sun rain bird dog cat child friend long short red green blue small large"
).split()


def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer over common words and all letters, so that any English text has ids."""
    letters = [chr(code) for code in range(33, 127)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>"]
    pieces = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *WORDS])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=200))
    inner.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    if family == "masked":
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", bos_token="<s>", eos_token="[SEP]")


def tiny_network(kind: str, vocabulary: int, seed: int = 0) -> PreTrainedModel:
    """A seeded random two-layer model: ``llama`` (grouped queries), ``gpt2`` (Conv1D, tied), ``bert`` (tied) or ``roberta``."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": vocabulary}
    # Wide initial weights: with the usual ones every prediction of a random model is nearly uniform and a test could not fail.
    if kind == "llama":
        return LlamaForCausalLM(
            LlamaConfig(**shape, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, tie_word_embeddings=False)
        ).eval()
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                n_embd=32, n_layer=2, n_head=4, vocab_size=vocabulary, n_positions=256, initializer_range=0.3, bos_token_id=5,
                eos_token_id=3,
            )
        ).eval()
    if kind == "bert":
        return BertForMaskedLM(BertConfig(**shape, max_position_embeddings=256, initializer_range=0.3, pad_token_id=0)).eval()
    if kind == "roberta":
        return RobertaForMaskedLM(
            RobertaConfig(**shape, max_position_embeddings=256, initializer_range=0.3, pad_token_id=0, bos_token_id=2, eos_token_id=3)
        ).eval()
    raise ValueError(kind)


def tiny_model(kind: str, seed: int = 0) -> Model:
    """A :class:`fairforget.models.Model` around a tiny random network."""
    family = "masked" if kind in ("bert", "roberta") else "causal"
    tokenizer = tiny_tokenizer(family)
    prefix = tokenizer.bos_token_id if family == "causal" else None
    return Model(
        tiny_network(kind, len(tokenizer), seed), tokenizer, family=family, name=f"tiny-{kind}", source=f"tiny-{kind}-{seed}",
        prefix_id=prefix,
    )


def four_bit_models(folder: Path) -> tuple[Model, Model]:
    """A causal model of 64 units, the block of bitsandbytes' 4 bits, and the same as `--load-in-4bit` gives it, from a folder."""
    pytest.importorskip("bitsandbytes")
    tokenizer = tiny_tokenizer("causal")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128, vocab_size=len(tokenizer),
        max_position_embeddings=256, initializer_range=0.2, tie_word_embeddings=False,
    )).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(folder), load(folder, load_in_4bit=True)
