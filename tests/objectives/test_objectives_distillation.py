"""UNDIAL and CE-U, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bigram import Bigram, batch_of

from fairforget.objectives import CrossEntropyUnlearning, Undial

UNIFORM = [[0.0, 0.0], [0.0, 0.0]]


def test_undial_teaches_the_base_without_the_token() -> None:
    model: Any = Bigram([[1.0, 0.0], [0.0, 0.0]])
    loss = Undial(lambda: model.at(UNIFORM), penalty=math.log(3)).sum(model, batch_of([0, 0]))
    likely = 1 / (1 + math.exp(-1))
    assert float(loss) == pytest.approx(-0.25 * math.log(likely) - 0.75 * math.log(1 - likely))  # the target is (1/4, 3/4)
    loss.backward()
    assert model.table.grad[0].tolist() == pytest.approx([likely - 0.25, 0.25 - likely])


def test_undial_rests_at_its_target() -> None:
    model: Any = Bigram([[0.0, math.log(3)], [0.0, 0.0]])
    Undial(lambda: model.at(UNIFORM), penalty=math.log(3)).sum(model, batch_of([0, 0])).backward()
    assert model.table.grad.abs().max() < 1e-6


def test_ce_u_teaches_the_models_own_distribution_without_the_token() -> None:
    model: Any = Bigram([[math.log(2), 0.0, 0.0], [0.0] * 3, [0.0] * 3])  # p = (1/2, 1/4, 1/4), target (0, 1/2, 1/2)
    loss = CrossEntropyUnlearning().sum(model, batch_of([0, 0]))
    assert float(loss) == pytest.approx(math.log(4))
    loss.backward()
    assert model.table.grad[0].tolist() == pytest.approx([0.5, -0.25, -0.25])
    assert not torch.isnan(model.table.grad).any()
