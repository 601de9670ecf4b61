"""NPO, SimNPO and DPO, worked out by hand, and what holds at the base."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import pytest
import torch
from bigram import Bigram, batch_of
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model

from fairforget.objectives import Ascent, DirectPreference, NegativePreference, SimpleNegativePreference, row_log_probabilities
from fairforget.training import PairStream, TextStream
from fairforget.training.streams import Collator

UNIFORM = [[0.0, 0.0], [0.0, 0.0]]


def test_npo_at_the_base_is_ascent() -> None:
    model: Any = Bigram([[0.2, -0.1], [0.5, 0.0]])
    batch = batch_of([0, 1, 0])
    loss = NegativePreference(contextlib.nullcontext, 0.1).sum(model, batch)
    assert float(loss) == pytest.approx(13.86294, abs=1e-4)
    loss.backward()
    found, model.table.grad = model.table.grad, None
    Ascent().sum(model, batch).backward()
    torch.testing.assert_close(found, model.table.grad)


def test_npo_one_nat_below_the_base() -> None:
    # p(0 | 0) = 1/2 under the base and 1 / 2e under the model
    logit = math.log(0.5 / math.e / (1 - 0.5 / math.e))
    model: Any = Bigram([[logit, 0.0], [0.0, 0.0]])
    batch = batch_of([0, 0])
    loss = NegativePreference(lambda: model.at(UNIFORM), 1.0).sum(model, batch)
    assert float(loss) == pytest.approx(0.62652, abs=1e-5)
    loss.backward()
    found, model.table.grad = model.table.grad, None
    Ascent().sum(model, batch).backward()
    torch.testing.assert_close(found, 0.53788 * model.table.grad, atol=1e-5, rtol=1e-4)


def test_npo_by_token_divides_by_the_tokens_of_each_row() -> None:
    model: Any = Bigram([[1.0, 0.0], [0.0, 0.0]])
    short, long = batch_of([0, 0], [1, 0]), batch_of([0, 0, 0], [1, 0, 0])
    terms = {per_token: NegativePreference(lambda: model.at(UNIFORM), 1.0, per_token=per_token) for per_token in (False, True)}
    ratio = math.log(1 / (1 + math.exp(-1))) + math.log(2)
    assert float(terms[True].sum(model, short)) == pytest.approx(-2 * (logsigmoid(-ratio) + logsigmoid(0)))
    assert float(terms[True].sum(model, long)) == pytest.approx(-2 * (logsigmoid(-ratio) + logsigmoid(-ratio / 2)))
    assert float(terms[False].sum(model, long)) == pytest.approx(-2 * (logsigmoid(-2 * ratio) + logsigmoid(-ratio)))


def logsigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value))


def test_simnpo() -> None:
    model: Any = Bigram(UNIFORM)
    batch = batch_of([0, 1, 0])
    assert float(SimpleNegativePreference(beta=2.0).sum(model, batch)) == pytest.approx(0.22314, abs=1e-5)
    # the margin stands beside the mean log-likelihood: with δ = ln 2 a token's uniform guess is the middle
    assert float(SimpleNegativePreference(beta=2.0, delta=math.log(2)).sum(model, batch)) == pytest.approx(math.log(2), abs=1e-5)


def test_dpo_without_margin_in_both_scalings() -> None:
    model: Any = Bigram([[0.4, 0.0], [0.0, 0.0]])
    one, other = batch_of([0, 1]), batch_of([0, 0])
    pairs = {**one, **{f"other_{field}": tensor for field, tensor in other.items()}}
    assert float(DirectPreference(contextlib.nullcontext).sum(model, pairs)) == pytest.approx(math.log(2))
    term = DirectPreference(contextlib.nullcontext, scaling="open-unlearning")
    assert float(term.sum(model, pairs)) == pytest.approx(13.86294, abs=1e-4)


def test_dpo_raises_the_counterpart() -> None:
    model: Any = Bigram(UNIFORM)
    one, other = batch_of([0, 1]), batch_of([0, 0])
    pairs = {**one, **{f"other_{field}": tensor for field, tensor in other.items()}}
    DirectPreference(lambda: model.at(UNIFORM), 1.0).sum(model, pairs).backward()
    # -β σ(0) ∇[log p(0 | 0) - log p(1 | 0)] = -1/2 (1, -1)
    assert model.table.grad[0].tolist() == pytest.approx([-0.5, 0.5])


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_at_the_base_every_row_is_neutral_even_while_dropout_is_on(kind: str) -> None:
    model = tiny_model(kind)
    texts = ["the nurse said that she would be late", "a dog", "the old man has a bad day"]
    batch = Collator(model.pad_id).batch([TextStream(model, texts).example(row, 0) for row in range(3)])
    pairs = PairStream(model, [(text, f"{text} and a cat") for text in texts], scope="sentence")
    both = Collator(model.pad_id).batch([pairs.example(row, 0) for row in range(3)])
    model.hf.train()
    for term, rows in ((NegativePreference(contextlib.nullcontext), batch), (DirectPreference(contextlib.nullcontext), both)):
        expected = 3 * math.log(2) * (20 if isinstance(term, NegativePreference) else 1)
        assert float(term.sum(model, rows)) == pytest.approx(expected, rel=1e-5)
    assert all(module.training for module in model.hf.modules())


@given(st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=5), min_size=1, max_size=5))
def test_a_row_sums_its_own_labels_whatever_stands_beside_it(rows: list[list[int]]) -> None:
    model: Any = Bigram([[0.7, 0.0], [-0.3, 0.4]])
    batch = Collator(0).batch([{"ids": row, "labels": [-100, *row[1:]]} for row in rows])
    table = torch.log_softmax(model.table.detach(), -1)
    expected = [sum(float(table[one, next_one]) for one, next_one in itertools.pairwise(row)) for row in rows]
    assert row_log_probabilities(model, batch).tolist() == pytest.approx(expected, abs=1e-5)
