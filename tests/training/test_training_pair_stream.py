"""Pairs as rows: what is labelled, what is masked, what is left out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import WORDS, tiny_model

from fairforget.errors import UsageError
from fairforget.training import IGNORED, PairStream
from fairforget.training.streams import Collator

PAIR = ("the nurse said that she would be late", "the nurse said that he would be late")


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_answer_is_where_the_texts_differ(kind: str) -> None:
    model = tiny_model(kind)
    row = PairStream(model, [PAIR]).example(0, 0)
    for side, word in (("", "she"), ("other_", "he")):
        places = [place for place, label in enumerate(row[f"{side}labels"]) if label != IGNORED]
        assert [row[f"{side}labels"][place] for place in places] == model.token_ids(word)
        shown = [row[f"{side}ids"][place] for place in places]
        assert shown == ([model.mask_id] if kind == "bert" else model.token_ids(word))
    if kind == "bert":
        assert row["ids"] == row["other_ids"]  # the two inputs of a pair are one where the differing word is hidden


def test_a_causal_sentence_is_all_of_it() -> None:
    model = tiny_model("llama")
    row = PairStream(model, [PAIR], scope="sentence").example(0, 0)
    assert row["labels"][len(model.prefix) or 1 :] == row["ids"][len(model.prefix) or 1 :]


def test_a_masked_sentence_hides_the_same_shared_words_on_both_sides() -> None:
    model = tiny_model("bert")
    stream = PairStream(model, [PAIR], scope="sentence", masking_rate=0.4, seed=1)
    row = stream.example(0, 3)
    assert row == stream.example(0, 3)
    assert any(stream.example(0, visit) != row for visit in range(4, 9))
    chosen = [[label for label in row[name] if label != IGNORED] for name in ("labels", "other_labels")]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == round(0.4 * len(stream.chosen[0][0]))
    differing = model.token_ids("she")[0]
    assert differing in row["ids"]


def test_what_cannot_be_compared_is_left_out() -> None:
    model = tiny_model("bert")
    stream = PairStream(model, [PAIR, ("a dog", "a dog"), ("a dog", "a red dog")])
    assert (len(stream), stream.left_out) == (1, 2)
    with pytest.raises(UsageError, match="can be compared"):
        PairStream(model, [("a dog", "a dog")])
    with pytest.raises(UsageError, match="at most 4 tokens"):
        PairStream(model, [PAIR], max_length=4)


words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(words, words, words, words)
def test_unlabelled_tokens_of_an_answer_are_shared(start: list[str], first: list[str], second: list[str], end: list[str]) -> None:
    model = tiny_model("bert")
    pair = (" ".join([*start, *first, *end]), " ".join([*start, *second, *end]))
    try:
        stream = PairStream(model, [pair])
    except UsageError:
        return
    row = stream.example(0, 0)
    rest = [
        [token for token, label in zip(row[f"{side}ids"], row[f"{side}labels"], strict=True) if label == IGNORED] for side in ("", "other_")
    ]
    assert rest[0] == rest[1]


def test_every_field_of_ids_is_padded_and_masked() -> None:
    rows = [{"ids": [1, 2], "labels": [IGNORED, 2], "other_ids": [3]}, {"ids": [4], "labels": [4], "other_ids": [5, 6]}]
    collated = Collator(9).batch(rows)
    assert collated["ids"].tolist() == [[1, 2], [4, 9]]
    assert collated["mask"].tolist() == [[1, 1], [1, 0]]
    assert collated["other_ids"].tolist() == [[3, 9], [5, 6]]
    assert collated["other_mask"].tolist() == [[1, 0], [1, 1]]
    assert collated["labels"].tolist() == [[IGNORED, 2], [4, IGNORED]]
    assert collated["labels"].dtype == torch.long
