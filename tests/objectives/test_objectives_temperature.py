"""Divergence from the base at a temperature, the loss of learning without forgetting, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bigram import Bigram, batch_of

from fairforget.objectives import KLToBase


def divergence(temperature: float, base: float, current: float) -> tuple[float, float]:
    """Of one place, logits (x, 0) against (y, 0): the term, and its slope in y."""
    model: Any = Bigram([[current, 0.0], [0.0, 0.0]])
    term = KLToBase(lambda: model.at([[base, 0.0], [0.0, 0.0]]), temperature=temperature)
    loss = term.sum(model, batch_of([0, 1]))
    slope = torch.autograd.grad(loss, model.table)[0][0, 0]
    return float(loss.detach()), float(slope)


def test_the_divergence_is_of_softened_distributions_times_the_temperature_squared() -> None:
    # at T = 2 logits (2 ln 3, 0) are (3/4, 1/4), and (0, 0) are (1/2, 1/2)
    value, slope = divergence(2.0, 2 * math.log(3.0), 0.0)
    assert value == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), abs=1e-6)
    assert slope == pytest.approx(4 * 0.5 * (0.5 - 0.75), abs=1e-6)  # T² · (q - p) / T


def test_near_the_base_the_slope_hardly_depends_on_the_temperature() -> None:
    slopes = [divergence(temperature, 0.01, 0.0)[1] for temperature in (1.0, 2.0, 8.0)]
    assert slopes == pytest.approx([slopes[0]] * 3, rel=1e-3)
    assert slopes[0] == pytest.approx(-0.0025, rel=1e-2)
