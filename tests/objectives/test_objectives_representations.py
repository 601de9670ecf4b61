"""Terms on hidden states and on prompts: hand-worked values, and the formulas written out on tiny models."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch
from bigram import Bigram
from tiny import tiny_model

from fairforget.models import Model
from fairforget.objectives import ElasticWeightConsolidation
from fairforget.objectives.alignment import EntailmentAlignment, QuadrupleStream, alignment_loss
from fairforget.objectives.elastic import fisher_information
from fairforget.objectives.prompts import PromptDivergence, PromptStream
from fairforget.objectives.prototypes import (
    EvenDistances,
    LayersMatch,
    OrthogonalToDirection,
    OrthogonalWords,
    group_means,
    marked_means,
)
from fairforget.objectives.spans import SpanStream
from fairforget.training import IGNORED, TextStream
from fairforget.training.streams import Collator

TEXTS = ["the old nurse works", "she is a very good doctor in the city", "a teacher has time"]
SPANS = [[(8, 13)], [(19, 25)], [(2, 9)]]
KINDS = ["llama", "gpt2", "bert", "roberta"]


def rows(model: Model, texts: list[str] = TEXTS, spans: list[list[tuple[int, int]]] = SPANS) -> SpanStream:
    return SpanStream(model, texts, spans, whole=True, hide=False)


def whole_batch(model: Model, stream: Any) -> dict[str, torch.Tensor]:
    return Collator(model.pad_id).batch([stream.example(index, 0) for index in range(len(stream))])


def test_means_are_of_labelled_places() -> None:
    states = torch.arange(12.0).view(1, 2, 3, 2)
    labels = torch.tensor([[IGNORED, 5, 7], [IGNORED, IGNORED, 1]])
    assert marked_means(states, labels).tolist() == [[[3.0, 4.0], [10.0, 11.0]]]


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_all_depths_end_in_what_the_head_reads(kind: str) -> None:
    model = tiny_model(kind)
    batch = whole_batch(model, rows(model))
    states = model.hidden_layers(batch["ids"], batch["mask"])
    assert len(states) == 3  # embeddings and two layers
    torch.testing.assert_close(states[-1], model.hidden(batch["ids"], batch["mask"]))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_right_angles(kind: str) -> None:
    model = tiny_model(kind)
    stream = rows(model)
    batch = whole_batch(model, stream)
    groups = [rows(model, TEXTS[:1], SPANS[:1]), rows(model, TEXTS[1:2], SPANS[1:2])]
    term = OrthogonalWords(groups)
    term.begin_pass(model, 0)
    means = group_means(model, groups)
    states = model.hidden_layers(batch["ids"], batch["mask"]).detach()
    words = torch.stack([
        states[:, row, batch["labels"][row] != IGNORED].mean(dim=1) for row in range(3)
    ])  # (rows, layers, width)
    expected = sum(
        (words[row, layer] @ means[group, layer]).square() / 3 for row in range(3) for layer in range(3) for group in range(2)
    )
    torch.testing.assert_close(term.sum(model, batch).detach(), torch.as_tensor(expected), rtol=1e-4, atol=1e-4)
    parity = OrthogonalWords(groups, square_of_mean=True)
    parity.load_state(term.state())
    whole = sum(
        torch.stack([words[row, layer] @ means[group, layer] for row in range(3) for layer in range(3)]).mean().square()
        for group in range(2)
    )
    torch.testing.assert_close(parity.sum(model, batch).detach() / 3, torch.as_tensor(whole), rtol=1e-4, atol=1e-4)
    term.means = torch.zeros_like(term.means)
    assert float(term.sum(model, batch).detach()) == 0.0


def test_the_mean_state_of_a_group_averages_rows_not_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairforget.objectives import prototypes

    model = tiny_model("bert")
    whole = group_means(model, [rows(model)])
    monkeypatch.setattr(prototypes, "BATCH_ROWS", 1)
    torch.testing.assert_close(group_means(model, [rows(model)]), whole, atol=1e-5, rtol=1e-5)
    alone = torch.stack([group_means(model, [rows(model, [text], [spans])])[0] for text, spans in zip(TEXTS, SPANS, strict=True)])
    torch.testing.assert_close(whole[0], alone.mean(dim=0), atol=1e-5, rtol=1e-5)


def test_even_distances() -> None:
    model = tiny_model("bert")
    batch = whole_batch(model, rows(model))
    term = EvenDistances([rows(model, TEXTS[:1], SPANS[:1]), rows(model, TEXTS[1:2], SPANS[1:2])], radius=3.0)
    term.begin_pass(model, 0)
    found = float(term.sum(model, batch).detach())
    words = marked_means(model.hidden_layers(batch["ids"], batch["mask"]).detach(), batch["labels"])
    shares = []
    for group in range(2):
        squares = torch.stack([(term.means[group] - words[:, row]).square().sum() for row in range(3)])
        shares.append(torch.softmax(-squares / 18, dim=0))
    middle = (shares[0] + shares[1]) / 2
    bits = sum(0.5 * float((share * (share / middle).log2()).nansum()) for share in shares)
    assert found == pytest.approx(bits, abs=1e-4)
    assert 0.0 < found <= 1.0
    term.means = term.means[:1].repeat(2, 1, 1)
    assert float(term.sum(model, batch).detach()) == pytest.approx(0.0, abs=1e-6)


def test_nothing_moved_is_no_distance() -> None:
    model = tiny_model("llama")
    batch = whole_batch(model, rows(model))
    term = LayersMatch(contextlib.nullcontext)
    assert float(term.sum(model, batch).detach()) == 0.0
    assert term.count(batch) == int(batch["mask"].sum())
    weight = model.hf.get_input_embeddings().weight  # type: ignore[union-attr]
    kept = weight.detach().clone()

    @contextlib.contextmanager
    def base() -> Any:
        moved = weight.data
        weight.data = kept
        yield
        weight.data = moved

    with torch.no_grad():
        weight.add_(0.1)
    assert float(LayersMatch(base).sum(model, batch).detach()) > 0.0


def test_the_gender_direction_is_a_unit_vector() -> None:
    model = tiny_model("bert")
    term = OrthogonalToDirection(["he", "man", "him"], ["she", "woman", "her"])
    term.prepare(model)
    assert float(term.direction.norm()) == pytest.approx(1.0, abs=1e-6)
    batch = whole_batch(model, rows(model))
    states = model.hidden(batch["ids"], batch["mask"])[batch["labels"] != IGNORED].detach()
    assert float(term.sum(model, batch).detach()) == pytest.approx(float((states @ term.direction).abs().sum()), rel=1e-5)


def test_alignment_by_hand() -> None:
    same = torch.tensor([[1.0, 0.0]])
    assert float(alignment_loss(same, same, same, same, 0.05, 1.0)) == pytest.approx(math.log(2))  # all four alike: a coin
    other = torch.tensor([[0.0, 1.0]])
    # Pair (1, 0)-(1, 0) and swap (0, 1)-(0, 1): own similarity 1 / τ = 2, the other's 0, and both similarity matrices are alike.
    assert float(alignment_loss(same, same, other, other, 0.5, 1.0)) == pytest.approx(math.log1p(math.exp(-2)), abs=1e-6)
    # The swap's hypothesis is at right angles to it: its similarity is 0 where the original's is 2, hence (2 - 0)² in L_AL.
    with_align, without = (float(alignment_loss(same, same, same, other, 0.5, weight)) for weight in (1.0, 0.0))
    assert with_align - without == pytest.approx(4.0, abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_alignment_reads_each_text_alone(kind: str) -> None:
    model = tiny_model(kind)
    quadruples = [
        ("a dog", "she has a dog", "a dog", "he has a dog"), ("the man works at home", "a man", "the woman works at home", "a woman"),
    ]
    stream = QuadrupleStream(model, quadruples)
    term = EntailmentAlignment()
    torch.manual_seed(0)
    term.prepare(model)
    batch = whole_batch(model, stream)
    found = term.sum(model, batch)
    assert term.module is not None
    states = []
    for place in range(4):
        vectors = []
        for texts in quadruples:
            ids = torch.tensor([[*model.prefix, *model.sequence_ids(texts[place])]])
            hidden = model.hidden(ids, torch.ones_like(ids))[0]
            vectors.append(term.module(hidden[-1 if kind == "llama" else 0]))
        states.append(torch.stack(vectors))
    expected = alignment_loss(states[0], states[1], states[2], states[3], 0.05, 0.05) * 2
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_prompts_end_where_the_answer_is() -> None:
    for kind in KINDS:
        model = tiny_model(kind)
        row = PromptStream(model, [("he", "she", "works as")]).example(0, 0)
        place = next(number for number, label in enumerate(row["labels"]) if label != IGNORED)
        assert (row["ids"][place] == model.mask_id) if model.family == "masked" else place == len(row["ids"]) - 1
        assert len(row["other_ids"]) == len(row["ids"])


def test_prompt_divergence_by_hand() -> None:
    def divergence(first: list[float], second: list[float], **options: bool) -> float:
        model: Any = Bigram([[math.log(value) for value in row] for row in (first, second)])
        labels = torch.tensor([[IGNORED, 0]])
        batch = {"ids": torch.tensor([[0, 0]]), "other_ids": torch.tensor([[1, 0]]), "labels": labels, "other_labels": labels}
        masks = {"mask": torch.ones(1, 2).long(), "other_mask": torch.ones(1, 2).long()}
        return float(PromptDivergence(**options).sum(model, batch | masks).detach())

    assert divergence([0.5, 0.5], [0.5, 0.5]) == pytest.approx(0.0, abs=1e-7)
    assert divergence([1 - 1e-12, 1e-12], [1e-12, 1 - 1e-12]) == pytest.approx(math.log(2), abs=1e-6)
    # m = (.5, .5): ½ [KL(p ‖ m) + KL(q ‖ m)] = log 2 - H(.8, .2)
    assert divergence([0.8, 0.2], [0.2, 0.8]) == pytest.approx(0.1927448, abs=1e-6)
    # The other way round: ½ · 2 · KL((.5, .5) ‖ (.8, .2)) = ½ ln(.25 / .16)
    assert divergence([0.8, 0.2], [0.2, 0.8], reverse_kl=True) == pytest.approx(0.5 * math.log(0.25 / 0.16), abs=1e-6)
    assert divergence([1 - 1e-12, 1e-12], [1e-12, 1 - 1e-12], reverse_kl=True) > 10  # no bound


def test_the_released_fisher_sums_before_it_squares() -> None:
    model = tiny_model("bert")
    stream = TextStream(model, TEXTS)
    name, parameter = next((name, value) for name, value in model.hf.named_parameters() if name.endswith("dense.weight"))
    right, wrong = (fisher_information(model, stream, {name: parameter}, 3, cumulative=flag)[name] for flag in (False, True))
    alone = TextStream(model, TEXTS[:1])
    singles = [fisher_information(model, alone, {name: parameter}, 1, cumulative=flag)[name] for flag in (False, True)]
    torch.testing.assert_close(singles[0], singles[1])
    assert not torch.allclose(right, wrong)
    term = ElasticWeightConsolidation(stream, cumulative=True)
    parameter.requires_grad_(True)
    term.prepare(model)
    assert float(term.sum(model, {}).detach()) == 0.0
