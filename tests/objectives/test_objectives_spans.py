"""Unlearning of masked spans: what is labelled, and the worked examples of the specification (unlearning.md section 9, 11 and 12)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from bigram import Bigram, batch_of
from tiny import tiny_model

from fairforget.errors import UsageError
from fairforget.objectives import Ascent, token_log_probabilities
from fairforget.objectives.spans import CandidatePosterior, SpanStream
from fairforget.training import IGNORED
from fairforget.training.streams import Collator

UNIFORM = [[0.0] * 4 for _ in range(4)]


def test_a_marked_token_alone_carries_loss_and_gradient() -> None:
    model: Any = Bigram(UNIFORM)
    batch = batch_of([1, 2, 3])
    batch["labels"][0, 2] = IGNORED  # only the middle token is marked
    loss = Ascent().sum(model, batch)
    assert float(loss.detach()) == pytest.approx(-1.38629, abs=1e-5)
    loss.backward()
    assert [bool(row.abs().sum() > 0) for row in model.table.grad] == [False, True, False, False]


def test_only_what_stands_before_a_marked_token_matters() -> None:
    model: Any = Bigram([[0.0, 1, 2, 3], [1.0, 0, 2, 5], [3.0, 1, 1, 0], [0.0, 4, 0, 1]])

    def loss(*ids: int) -> float:
        batch = batch_of(ids)
        batch["labels"][0, 2] = IGNORED
        return float(Ascent().sum(model, batch).detach())

    assert loss(1, 2, 3) == loss(1, 2, 0)
    assert loss(1, 2, 3) != loss(3, 2, 3)


def test_two_marked_tokens_are_averaged() -> None:
    model: Any = Bigram([[0.0, 0.0, -torch.inf, -torch.inf], *UNIFORM[1:]])
    batch = batch_of([0, 1, 2])
    term = Ascent()
    assert float(term.sum(model, batch).detach()) / term.count(batch) == pytest.approx(-1.03972, abs=1e-5)


def test_no_marked_token_is_no_loss() -> None:
    model: Any = Bigram(UNIFORM)
    batch = batch_of([1, 2, 3], first=3)
    term = Ascent()
    assert (term.count(batch), float(term.sum(model, batch).detach())) == (0, 0.0)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "roberta"])
def test_tokens_that_share_a_character_with_a_span_are_labelled(kind: str) -> None:
    model = tiny_model(kind)
    text = "the nurse xabc works"
    start = text.index("abc") + 1  # within the unknown word, whose letters are tokens
    stream = SpanStream(model, [text, "a dog"], [[(start, start + 1)], []])
    assert (len(stream), stream.left_out) == (1, 1)
    row = stream.example(0, 0)
    labelled = [place for place, label in enumerate(row["labels"]) if label != IGNORED]
    assert [model.tokenizer.decode([row["labels"][place]]).replace("##", "").strip() for place in labelled] == ["b"]
    assert row["place"] == labelled
    if model.family == "masked":
        assert row["ids"][labelled[0]] == model.mask_id
    else:
        assert labelled[0] == len(row["ids"]) - 1  # what follows has no effect
        assert len(SpanStream(model, [text], [[(start, start + 1)]], whole=True).example(0, 0)["ids"]) > len(row["ids"])


def test_a_span_across_two_tokens_labels_both() -> None:
    model = tiny_model("bert")
    text = "old nurse"
    row = SpanStream(model, [text], [[(2, 5)]]).example(0, 0)
    assert sum(label != IGNORED for label in row["labels"]) == 2
    assert row["ids"].count(model.mask_id or -1) == 2
    assert SpanStream(model, [text], [[(2, 5)]]).marked_share == pytest.approx(2 / 4)


def test_texts_without_any_span_are_refused() -> None:
    with pytest.raises(UsageError, match="has a marked word"):
        SpanStream(tiny_model("llama"), ["a dog"], [[]])


def test_the_posterior_weighs_what_follows() -> None:
    # Tokens: 0 begins, 1 = a, 2 = b. P(a) = .6 and P(b) = .4; then a follows with .1 and .05: the sequences have .06 and .02.
    probabilities = [[1e-30, 0.6, 0.4], [1e-30, 0.1, 0.9], [1e-30, 0.05, 0.95]]
    model: Any = Bigram([[math.log(value) for value in row] for row in probabilities])
    batch = batch_of([0, 1, 1]) | {"place": torch.tensor([[1]])}
    found = float(CandidatePosterior(candidates=2).sum(model, batch).detach())
    assert math.exp(found) == pytest.approx(0.75, abs=1e-6)
    # b, by the left alone .4, has .25 when a follows: under 0.9 of the uniform third it has no gradient left, and counts as .3
    rare = batch_of([0, 2, 1]) | {"place": torch.tensor([[1]])}
    assert math.exp(float(CandidatePosterior(candidates=2).sum(model, rare).detach())) == pytest.approx(0.25, abs=1e-6)
    assert math.exp(float(CandidatePosterior(candidates=2, clamp=0.9).sum(model, rare).detach())) == pytest.approx(0.3, abs=1e-6)
    assert float(CandidatePosterior(candidates=2, clamp=0.9).sum(model, batch).detach()) == pytest.approx(found)


def test_with_all_tokens_as_candidates_it_is_the_true_conditional() -> None:
    model = tiny_model("llama")
    text, span = "the old nurse works", (8, 13)
    stream = SpanStream(model, [text], [[span]], whole=True)
    batch = Collator(model.pad_id).batch([stream.example(0, 0)])
    place = int(batch["place"][0, 0])
    size = model.hf.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    sums = torch.empty(size)
    with torch.no_grad():
        for start in range(0, size, 64):
            tokens = torch.arange(start, min(start + 64, size))
            ids = batch["ids"].repeat(len(tokens), 1)
            ids[:, place] = tokens
            labels = ids.clone()
            labels[:, :place] = IGNORED
            found = token_log_probabilities(model, {"ids": ids, "mask": torch.ones_like(ids), "labels": labels})
            sums[start : start + len(tokens)] = found.view(len(tokens), -1).sum(dim=1)
        expected = float(torch.log_softmax(sums, dim=0)[batch["ids"][0, place]])
        term = CandidatePosterior(candidates=size - 1)
        assert float(term.sum(model, batch)) == pytest.approx(expected, abs=1e-4)
        fewer = [float(CandidatePosterior(candidates=count).sum(model, batch)) for count in (1, 4, 16, 64)]
    assert all(more >= less for more, less in itertools.pairwise([*fewer, expected - 1e-4]))


def test_padding_and_other_rows_do_not_change_the_posterior() -> None:
    model = tiny_model("gpt2")
    texts = ["the old nurse works", "she is a very good doctor in the city"]
    stream = SpanStream(model, texts, [[(8, 13)], [(9, 18)]], whole=True)
    rows = [stream.example(index, 0) for index in range(2)]
    collator, term = Collator(model.pad_id), CandidatePosterior(candidates=3)
    with torch.no_grad():
        together = float(term.sum(model, collator.batch(rows)))
        alone = sum(float(term.sum(model, collator.batch([row]))) for row in rows)
    assert together == pytest.approx(alone, abs=1e-4)
