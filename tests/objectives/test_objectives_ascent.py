"""Gradient ascent, weighted and bounded, and gradient difference, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bigram import Bigram, batch_of

from fairforget.objectives import Ascent, CrossEntropy

UNIFORM = [[0.0, 0.0], [0.0, 0.0]]


def gradient(model: Any, term: Any, batch: Any) -> list[float]:
    """Of the mean term with respect to the logits after token 0."""
    (term.sum(model, batch) / term.count(batch)).backward()
    return model.table.grad[0].tolist()


def test_a_step_of_ascent() -> None:
    model: Any = Bigram(UNIFORM)
    batch = batch_of([0, 0])
    term = Ascent()
    assert float(term.sum(model, batch) / term.count(batch)) == pytest.approx(-0.69315, abs=1e-5)
    assert gradient(model, term, batch) == pytest.approx([0.5, -0.5])
    stepped = model.table[0].detach() - model.table.grad[0]
    assert float(torch.softmax(stepped, 0)[0]) == pytest.approx(0.26894, abs=1e-5)


def test_weights_are_probabilities_held_constant() -> None:
    model: Any = Bigram([[0.0, math.log(3)], [0.0, 0.0]])  # p = 1/4 after token 0
    batch = batch_of([0, 0])
    term = Ascent(power=2.0)
    assert float(term.sum(model, batch)) == pytest.approx(math.log(1 / 4) / 16)
    assert gradient(model, term, batch) == pytest.approx([0.75 / 16, -0.75 / 16])


def test_power_zero_is_plain_ascent() -> None:
    model: Any = Bigram([[0.3, -1.0], [0.2, 2.0]])
    batch = batch_of([0, 1, 1], [1, 0, 0])
    assert float(Ascent(power=0.0).sum(model, batch)) == pytest.approx(-float(CrossEntropy().sum(model, batch)))


def test_a_token_rarer_than_a_guess_is_let_go_and_still_counts() -> None:
    model: Any = Bigram([[0.0, math.log(3)], [math.log(3), 0.0]])
    batch = batch_of([0, 0, 1], [1, 0, 0])  # p of the labels: 1/4, 3/4; 3/4, 1/4
    term = Ascent(clamp=1.0)
    assert term.count(batch) == 4
    assert float(term.sum(model, batch)) == pytest.approx(2 * math.log(1 / 2) + 2 * math.log(3 / 4))
    term.sum(model, batch).backward()
    assert model.table.grad[0].tolist() == pytest.approx([-0.25, 0.25])  # of the likely label 1 alone
    rare: Any = Bigram([[0.0, math.log(3)], [0.0, 0.0]])
    term.sum(rare, batch_of([0, 0])).backward()
    assert rare.table.grad.abs().sum() == 0


def test_gradient_difference() -> None:
    never = -1e9
    model: Any = Bigram([[0.0, 0.0, never, never], [0.0] * 4, [0.0] * 4, [0.0] * 4])
    forget, retain = batch_of([0, 1]), batch_of([2, 3])
    terms = [(Ascent(), forget), (CrossEntropy(), retain)]
    assert sum(float(term.sum(model, batch) / term.count(batch)) for term, batch in terms) == pytest.approx(0.69315, abs=1e-5)
