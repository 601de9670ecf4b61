"""A tiny random text classifier, saved as transformers saves one."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny import tiny_tokenizer
from transformers import BertConfig, BertForSequenceClassification


def save_classifier(folder: Path, labels: tuple[str, ...] = ("fine", "toxic"), problem: str | None = None) -> BertForSequenceClassification:
    """A tiny random classifier with wide weights, so that texts differ."""
    tokenizer = tiny_tokenizer("masked")
    torch.manual_seed(1)
    model = BertForSequenceClassification(BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, vocab_size=len(tokenizer), initializer_range=0.4,
        max_position_embeddings=64, id2label=dict(enumerate(labels)), label2id={label: number for number, label in enumerate(labels)},
        problem_type=problem,
    )).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
