"""Every term is a sum over units with a count known before, so that 16 rows in one batch equal 4 batches of 4."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import pytest
import torch
from tiny import tiny_model

from fairforget.models import Model
from fairforget.objectives import (
    Ascent,
    CrossEntropy,
    CrossEntropyUnlearning,
    DirectPreference,
    DomainTurns,
    HiddenMatch,
    KLToBase,
    Misdirection,
    NegativePreference,
    SidesStream,
    SimpleNegativePreference,
    Turned,
    Undial,
)
from fairforget.training import Objective, PairStream, TextStream
from fairforget.training.streams import Collator

TEXTS = ["the nurse said that she would be late", "he is old", "the river is long and the hill is green", "a dog"] * 4
OTHERS = ["the nurse said that he would be late", "she is old", "the river is short and the hill is red", "a cat"] * 4
TERMS = (
    "ascent", "weighted", "clamped", "npo", "npo-by-token", "simnpo", "undial", "ce-u", "misdirection", "kl", "hidden", "rows", "turned",
    "dpo",
)


def make(name: str, model: Model) -> tuple[Objective, Any]:
    other = tiny_model("llama" if model.family == "causal" else "bert", seed=1)

    @contextlib.contextmanager
    def reference() -> Generator[None]:
        own, model.hf = model.hf, other.hf
        try:
            yield
        finally:
            model.hf = own

    turns = DomainTurns(2, {}, 50.0)
    turns.turned = torch.tensor([True, False])
    terms: dict[str, Objective] = {
        "ascent": Ascent(),
        "weighted": Ascent(power=1.0),
        "clamped": Ascent(clamp=1.0),
        "npo": NegativePreference(reference),
        "npo-by-token": NegativePreference(reference, per_token=True),
        "simnpo": SimpleNegativePreference(),
        "undial": Undial(reference),
        "ce-u": CrossEntropyUnlearning(),
        "misdirection": Misdirection(0, 3.0),
        "kl": KLToBase(reference),
        "hidden": HiddenMatch(reference, layer=1),
        "rows": CrossEntropy(per_row=True),
        "turned": Turned(NegativePreference(reference), turns),
        "dpo": DirectPreference(reference),
    }
    term = terms[name]
    term.prepare(model)
    first, second = TextStream(model, TEXTS), TextStream(model, OTHERS)
    if name == "turned":
        return term, SidesStream(first, second, [row % 2 for row in range(16)])
    return term, PairStream(model, list(zip(TEXTS, OTHERS, strict=True)), scope="sentence") if name == "dpo" else first


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("name", TERMS)
def test_a_batch_is_the_sum_of_its_parts(name: str, kind: str) -> None:
    model = tiny_model(kind)
    term, stream = make(name, model)
    rows = [stream.example(row, 0) for row in range(16)]
    collate = Collator(model.pad_id).batch
    whole, parts = collate(rows), [collate(rows[start : start + 4]) for start in range(0, 16, 4)]
    assert term.count(whole) == sum(term.count(part) for part in parts) > 0
    parameters = [parameter for parameter in model.hf.parameters() if parameter.requires_grad]
    loss, losses = term.sum(model, whole), [term.sum(model, part) for part in parts]
    torch.testing.assert_close(loss, torch.stack(losses).sum(), rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    summed = torch.autograd.grad(torch.stack(losses).sum(), parameters, allow_unused=True)
    largest = max(float(gradient.abs().max()) for gradient in gradients if gradient is not None)
    assert largest > 0
    for one, other in zip(gradients, summed, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * largest)
