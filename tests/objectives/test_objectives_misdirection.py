"""RMU's two terms, worked out by hand, and the layer they are computed on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bigram import Bigram, batch_of
from tiny import tiny_model

from fairforget.errors import UsageError
from fairforget.objectives import HiddenMatch, Misdirection
from fairforget.objectives.drift import layer_states
from fairforget.training import TextStream
from fairforget.training.streams import Collator


def test_the_terms_and_their_sum() -> None:
    model: Any = Bigram([[1.0, 0.0], [1.0, 1.0]])  # the states of tokens 0 and 1
    forget = Misdirection("final", 5.0)
    forget.direction = torch.tensor([0.6, 0.8])
    rows = batch_of([1, 0, 0])  # the first token is not about the text
    assert forget.count(rows) == 2
    led = float(forget.sum(model, rows) / forget.count(rows))
    hold = HiddenMatch(lambda: model.at([[9.0, 9.0], [1.0, 0.0]]), weight=2.0)
    kept = batch_of([1, 1])
    held = float(hold.sum(model, kept) / hold.count(kept))
    assert led == pytest.approx(10)
    assert held == pytest.approx(0.5)
    assert led + hold.weight * held == pytest.approx(11)


def test_padding_adds_nothing() -> None:
    model: Any = Bigram([[1.0, 0.0], [1.0, 1.0]])
    hold = HiddenMatch(lambda: model.at([[0.0, 0.0], [1.0, 0.0]]))
    short, padded = batch_of([1, 1]), batch_of([1, 1, 0])
    padded["mask"][:, 2] = 0
    assert hold.count(short) == hold.count(padded) == 2
    assert float(hold.sum(model, short)) == float(hold.sum(model, padded)) > 0


def test_the_direction_is_a_unit_vector_of_the_seed() -> None:
    model, terms = tiny_model("bert"), [Misdirection(0, 2.0, seed=seed) for seed in (1, 1, 2)]
    for term in terms:
        term.prepare(model)
    first, again, other = (term.direction for term in terms)
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.norm().item() == pytest.approx(1)
    assert (first >= 0).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_layer_is_the_output_of_its_block(kind: str) -> None:
    model = tiny_model(kind)
    batch = Collator(model.pad_id).batch([TextStream(model, ["the nurse is late"]).example(0, 0)])
    found = [layer_states(model, batch, layer) for layer in (0, "final")]
    assert not any(module._forward_hooks for module in model.hf.modules())
    whole = model.hf(input_ids=batch["ids"], attention_mask=batch["mask"], output_hidden_states=True).hidden_states
    torch.testing.assert_close(found, [whole[1], whole[-1]])
    with pytest.raises(UsageError, match="no layer 7"):
        layer_states(model, batch, 7)
