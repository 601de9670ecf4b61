"""The fairness terms: values worked by hand, limits, symmetry, and that they reduce exactly over accumulation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model
from torch import Tensor

from fairforget.data.swaps import swap_gender
from fairforget.data.words import WordList, word_list
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.objectives.fairness import (
    EvenDivergence,
    SquaredGap,
    VocabularyDivergence,
    even_divergence,
    jensen_shannon,
    squared_gap,
)
from fairforget.objectives.likelihood import other_side, row_log_probabilities
from fairforget.objectives.swapped_places import SwappedPlaces, group_outcomes, single_tokens, word_outcomes
from fairforget.training import IGNORED, Objective, PairStream, Stream
from fairforget.training.streams import Collator

TEXTS = [
    "the nurse said that she would be late", "he is a doctor and his house is small", "she works at home", "the man has a red book",
    "they said that he had time for her friend", "the woman and her child", "he is old", "the young man said she is a good engineer",
] * 2
PAIRS = [(text, swap_gender(text)) for text in TEXTS]
LOGS = st.floats(-30, 0, allow_nan=False)


def outcomes(model: Model) -> tuple[list[list[int]], list[int]]:
    return group_outcomes(model, word_list("gender"))


def swapped_places(model: Model, **options: object) -> SwappedPlaces:
    return SwappedPlaces(model, PAIRS, [token for outcome in outcomes(model)[0] for token in outcome], **options)  # type: ignore[arg-type]


def test_values_worked_by_hand() -> None:
    stereotype, other = torch.tensor([math.log(0.08), math.log(0.3)]), torch.tensor([math.log(0.02), math.log(0.3)])
    assert even_divergence(stereotype, other).tolist() == pytest.approx([0.1927448, 0.0], abs=1e-6)
    assert squared_gap(stereotype, other).tolist() == pytest.approx([math.log(4) ** 2, 0.0], abs=1e-5)
    assert math.log(4) ** 2 == pytest.approx(1.92181, abs=1e-5)


def test_the_bounded_form_has_no_gradient_at_even_odds_and_pulls_the_likelier_side_down() -> None:
    even = torch.zeros(2, requires_grad=True)
    even_divergence(even[0], even[1]).backward()
    assert even.grad is not None
    assert even.grad.tolist() == pytest.approx([0, 0], abs=1e-7)
    uneven = torch.tensor([math.log(0.8), math.log(0.2)], requires_grad=True)
    even_divergence(uneven[0], uneven[1]).backward()
    assert uneven.grad is not None
    assert uneven.grad[0] > 0 > uneven.grad[1]


@given(LOGS, LOGS)
def test_the_bounded_form_is_a_jensen_shannon_divergence(first: float, second: float) -> None:
    one, two = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    shares = torch.log_softmax(torch.stack([one, two]), dim=0).unsqueeze(0)
    found = even_divergence(one, two).item()
    assert found == pytest.approx(jensen_shannon(shares, shares.flip(1)).item(), abs=1e-9)
    assert -1e-12 <= found <= math.log(2) + 1e-12
    assert found == pytest.approx(even_divergence(two, one).item(), abs=1e-12)


def test_jensen_shannon_of_equal_and_of_disjoint_distributions() -> None:
    one = torch.tensor([[1.0, 1e-30], [0.3, 0.7]]).log()
    other = torch.tensor([[1e-30, 1.0], [0.3, 0.7]]).log()
    assert jensen_shannon(one, other).tolist() == pytest.approx([math.log(2), 0.0], abs=1e-6)


class Fixed:
    """Stands for a model whose logits are given."""

    family = "masked"

    def __init__(self, tables: list[Tensor]) -> None:
        self.tables = tables
        self.hf = torch.nn.Identity()

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.tables.pop(0).unsqueeze(0)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


def test_vocabulary_divergence_by_hand() -> None:
    # W = {0} and {1, 2}, exchanged; token 3 is outside. Renormalised: (.8, .2) under x, (.5, .5) under its counterfactual.
    first, second = torch.tensor([[0.4, 0.06, 0.04, 0.5]]).log(), torch.tensor([[0.05, 0.02, 0.03, 0.9]]).log()
    batch = {name: torch.tensor([[1]]) for name in ("ids", "mask", "labels", "other_ids", "other_mask", "other_labels")}
    term = VocabularyDivergence([[0], [1, 2]], [1, 0])
    expected = jensen_shannon(torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()).item()
    assert term.sum(Fixed([first, second]), batch).item() == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]
    # An equivariant model is left alone: what it says of one group it says of the other.
    mirrored = torch.tensor([[0.04, 0.1, 0.06, 0.8]]).log()
    assert term.sum(Fixed([first, mirrored]), batch).item() == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_row_sums_are_the_labelled_tokens_of_each_row_and_padding_changes_nothing(kind: str) -> None:
    model = tiny_model(kind)
    stream = PairStream(model, PAIRS, scope="answer")
    rows = [stream.example(index, 0) for index in range(4)]
    collator = Collator(model.pad_id)
    together = collator.batch(rows)
    alone = torch.cat([row_log_probabilities(model, other_side(collator.batch([row]))) for row in rows])
    torch.testing.assert_close(row_log_probabilities(model, other_side(together)), alone, atol=1e-5, rtol=1e-5)
    term = SquaredGap()
    expected = (row_log_probabilities(model, together) - alone).square().sum()
    torch.testing.assert_close(term.sum(model, together), expected, atol=1e-4, rtol=1e-4)
    assert term.count(together) == 4


def gradients(model: Model, term: Objective, stream: Stream, batch_size: int) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of a step of 16 rows, as the Trainer makes it: sums of micro-batches over the count of all of them."""
    collator = Collator(model.pad_id)
    batches = [collator.batch([stream.example(row, 0) for row in range(start, start + batch_size)]) for start in range(0, 16, batch_size)]
    total = sum(term.count(batch) for batch in batches)
    model.hf.zero_grad()
    losses: list[Tensor] = []
    for batch in batches:
        loss = term.sum(model, batch) / total
        loss.backward()
        losses.append(loss.detach())
    found = [parameter.grad.clone() for parameter in model.hf.parameters() if parameter.grad is not None]
    return torch.stack(losses).sum(), found


@pytest.mark.parametrize("name", ["gap", "js2", "js-vocab"])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_one_batch_of_sixteen_is_four_of_four(kind: str, name: str) -> None:
    model = tiny_model(kind)
    if name == "js-vocab":
        stream, term = swapped_places(model), VocabularyDivergence(*outcomes(model))
    else:
        stream, term = PairStream(model, PAIRS), SquaredGap() if name == "gap" else EvenDivergence()
    (loss, whole), (other_loss, parts) = gradients(model, term, stream, 16), gradients(model, term, stream, 4)
    assert loss.item() > 0
    assert max(gradient.abs().max().item() for gradient in whole) > 0
    torch.testing.assert_close(loss, other_loss, atol=1e-6, rtol=1e-5)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6 * (1 + float(loss)), rtol=1e-4)


def test_dropout_of_the_model_does_not_disturb_the_difference() -> None:
    model = tiny_model("bert")
    batch = Collator(model.pad_id).batch([PairStream(model, PAIRS).example(row, 0) for row in range(4)])
    model.hf.train()
    assert any(module.p > 0 for module in model.hf.modules() if isinstance(module, torch.nn.Dropout))
    assert SquaredGap().sum(model, batch).item() == SquaredGap().sum(model, batch).item()
    assert model.hf.training


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_group_places_hold_corresponding_words_at_one_place_in_both_texts(kind: str) -> None:
    model = tiny_model(kind)
    stream = swapped_places(model, seed=5)
    row = stream.example(0, 0)
    place = [index for index, label in enumerate(row["labels"]) if label != IGNORED]
    other = [index for index, label in enumerate(row["other_labels"]) if label != IGNORED]
    assert [model.tokenizer.decode([row["labels"][index]]) for index in place] == ["she"]
    assert [model.tokenizer.decode([row["other_labels"][index]]) for index in other] == ["he"]
    if kind == "bert":
        assert row["ids"][place[0]] == row["other_ids"][other[0]] == model.mask_id
        visits = [stream.example(1, visit)["labels"] for visit in range(20)]
        assert visits == [stream.example(1, visit)["labels"] for visit in range(20)]
        assert len({tuple(labels) for labels in visits}) == 2  # "he" or "his", one masked at a time
    else:
        assert row["ids"][place[0]] == row["labels"][place[0]]


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_other_places_are_shared_tokens(kind: str) -> None:
    model = tiny_model(kind)
    stream = swapped_places(model, places="other", masking_rate=0.5)
    for index in range(len(TEXTS)):
        row = stream.example(index, 3)
        labels, others = ([label for label in row[field] if label != IGNORED] for field in ("labels", "other_labels"))
        assert labels == others
        assert labels
    if kind == "llama":
        labels = stream.example(0, 0)["labels"]
        assert "nurse" not in model.tokenizer.decode([label for label in labels if label != IGNORED])  # before the first change


def test_outcomes_merge_what_english_tells_apart_for_one_gender_only() -> None:
    model = tiny_model("bert")
    found, exchange = outcomes(model)
    words = [{model.tokenizer.decode([token]) for token in outcome} for outcome in found]
    assert words[:6] == [{"he"}, {"she"}, {"him", "his"}, {"her", "hers"}, {"man"}, {"woman"}]
    assert [exchange[exchange[number]] for number in range(len(found))] == list(range(len(found)))
    assert len({token for outcome in found for token in outcome}) == sum(map(len, found))
    assert single_tokens(model, "blacksmith") == []
    nurse, doctor = single_tokens(model, "nurse")[0], single_tokens(model, "doctor")[0]
    assert word_outcomes(model, ["nurse", "blacksmith", "doctor"]) == ([[nurse], [doctor]], [0, 1])


def test_what_cannot_be_compared_is_refused() -> None:
    model = tiny_model("bert")
    with pytest.raises(UsageError, match="has 3: use compare=stereotype-words"):
        group_outcomes(model, word_list("religion"))
    with pytest.raises(UsageError, match="is one token"):
        group_outcomes(model, WordList("own", ("a", "b"), (("blacksmith", "cobbler"),)))
    with pytest.raises(UsageError, match="Fewer than two"):
        word_outcomes(model, ["nurse"])
    with pytest.raises(UsageError, match="None of the 1 texts has a place to compare"):
        SwappedPlaces(model, [("the king", "the queen")], [3])
