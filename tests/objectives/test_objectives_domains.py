"""Domains that are reversed change sides, and rows go to the side of their domain."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model

from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.objectives import CrossEntropy, DomainTurns, SidesStream, Turned
from fairforget.objectives.domains import preferred_share
from fairforget.training import PairStream, TextStream
from fairforget.training.streams import Collator

PAIRS = [("the nurse said that she is late", "the nurse said that he is late"), ("the old man is bad", "the young man is bad")]


def pairs(model: Model, rows: list[tuple[str, str]]) -> PairStream:
    return PairStream(model, rows, scope="sentence" if model.family == "causal" else "answer")


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_pair_and_its_mirror_image_make_one_half(kind: str) -> None:
    model = tiny_model(kind)
    mirrored = [*PAIRS, *((other, text) for text, other in PAIRS)]
    assert preferred_share(model, pairs(model, mirrored), 100) == 50
    single = {preferred_share(model, pairs(model, rows), 100) for rows in ([PAIRS[0]], [PAIRS[0][::-1]])}
    assert single == {0.0, 100.0}


def test_a_domain_below_neutral_is_turned_and_turned_back() -> None:
    model = tiny_model("llama")
    preferred = preferred_share(model, pairs(model, PAIRS[:1]), 1) == 100
    reversed_pair, straight = (PAIRS[0][::-1], PAIRS[0]) if preferred else (PAIRS[0], PAIRS[0][::-1])
    turns = DomainTurns(3, {0: pairs(model, [straight]), 2: pairs(model, [reversed_pair])}, neutral=50.0)
    model.hf.train()
    turns.look(model)
    assert model.hf.training
    assert turns.turned.tolist() == [False, False, True]
    turns.pairs[2] = pairs(model, [straight])
    turns.look(model)
    assert turns.turned.tolist() == [False, False, False]


def test_rows_go_to_their_side() -> None:
    model = tiny_model("llama")
    texts, others = ["the nurse is late", "a dog", "he is old"], ["she is a good teacher and works", "the cat", "she is old and she is bad"]
    stream = SidesStream(TextStream(model, texts), TextStream(model, others), [0, 1, 1])
    collate = Collator(model.pad_id).batch
    batch = collate([stream.example(row, 0) for row in range(3)])
    turns = DomainTurns(2, {}, 50.0)
    turns.turned = torch.tensor([False, True])
    forget, learn = (Turned(CrossEntropy(0.5), turns, second=second) for second in (False, True))
    assert forget.weight == 0.5
    for term, chosen in ((forget, (texts[0], others[1], others[2])), (learn, (others[0], texts[1], texts[2]))):
        plain = collate([TextStream(model, [text]).example(0, 0) for text in chosen])
        assert term.count(batch) == CrossEntropy().count(plain)
        torch.testing.assert_close(term.sum(model, batch), CrossEntropy().sum(model, plain))


def test_the_turns_are_kept_by_a_checkpoint() -> None:
    turns = DomainTurns(2, {}, 50.0)
    turns.turned = torch.tensor([False, True])
    state = {name: tensor.clone() for name, tensor in Turned(CrossEntropy(), turns).state().items()}
    again = DomainTurns(2, {}, 50.0)
    Turned(CrossEntropy(), again).load_state(state)
    assert again.turned.tolist() == [False, True]
    assert Turned(CrossEntropy(), turns, second=True).state() == {}


def test_an_empty_side_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(UsageError, match="no token"):
        SidesStream(TextStream(model, ["a dog", " "]), TextStream(model, ["a cat", "a cat"]), [0, 0])
