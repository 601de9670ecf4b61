"""A stereotype and its counterpart as an association: where it can be read, where it can be edited, and its margin in nats.

The two texts of a pair differ in some tokens. What they share before these tokens predicts them (*context*), and they predict what both
share after them (*span*); a masked model reads both ways. Each gives a margin, log p(stereotype) - log p(counterpart), whose place in the
network is known: the token from which the difference is predicted, or the token that differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fairforget.errors import UsageError
from fairforget.models.model import Model
from fairforget.objectives import token_log_probabilities
from fairforget.scoring import MaskedRequest, Scorer
from fairforget.scoring.alignment import changed_positions, shared_positions
from fairforget.training import IGNORED, Batch
from fairforget.training.streams import Collator

Kind: TypeAlias = Literal["context", "span"]
LEAST_CONTEXT = 2
"""Tokens of shared text before the difference without which a causal model's prediction of it says nothing of an association."""


@dataclass(frozen=True)
class Side:
    """One text of a pair as an input of the model.

    Attributes:
        ids: the input, with prefix or special tokens and masks.
        labels: id to be predicted at a place, -100 elsewhere.
        site: place whose MLP input is the key of the association.
        source: places that hold what the pair's margin comes from; corrupted in tracing.
        weight: factor of the summed log-probability of the labels.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    site: int
    source: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Association:
    """Both texts of a pair under one reading.

    Attributes:
        sides: the stereotype, the counterpart.
        kind: ``context`` (shared tokens predict the different ones; one key for both) or ``span`` (the different ones predict shared ones).
        pair: number of the pair in what was given.
    """

    sides: tuple[Side, Side]
    kind: Kind
    pair: int


def find_associations(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    *,
    kinds: Sequence[Kind] = ("context", "span"),
    masked_places: int = 3,
    max_length: int = 128,
) -> list[Association]:
    """Read pairs of texts as associations; a pair gives at most one of each kind, and none where it has nothing to be read from.

    Args:
        model: whose tokenizer and family decide.
        pairs: stereotype and counterpart.
        kinds: which readings are wanted.
        masked_places: masked models, ``span``: how many shared tokens are masked, those whose probability the difference moves most.
        max_length: longer pairs are left out.

    Raises:
        UsageError: no pair gives an association.
    """
    inputs = [tuple([*model.prefix, *model.sequence_ids(text)] for text in pair) for pair in pairs]
    limit = min(max_length, model.max_length)
    usable = [number for number, (first, second) in enumerate(inputs) if max(len(first), len(second)) <= limit]
    found: list[Association] = []
    chosen = _telling_places(model, [inputs[number] for number in usable], masked_places) if model.family == "masked" else []
    for order, number in enumerate(usable):
        first, second = inputs[number]
        changed = changed_positions(first, second)
        if not all(changed):
            continue
        for kind in kinds:
            if model.family == "causal":
                sides = (_causal_context if kind == "context" else _causal_span)(model, first, second, changed)
            elif kind == "context":
                sides = _masked_context(model, first, second, changed)
            else:
                sides = _masked_span(model, first, second, changed, chosen[order])
            if sides is not None:
                found.append(Association(sides, kind, number))
    if not found:
        raise UsageError(
            f"None of the {len(pairs)} pairs can be read as an association: each needs a text and a counterpart that differ in some "
            f"tokens and share others, of at most {limit} tokens."
        )
    return found


def _run(places: Sequence[int]) -> list[int]:
    """The first run of consecutive places."""
    end = 1
    while end < len(places) and places[end] == places[end - 1] + 1:
        end += 1
    return list(places[:end])


def _labelled(ids: Sequence[int], places: Sequence[int]) -> tuple[int, ...]:
    chosen = set(places)
    return tuple(token if place in chosen else IGNORED for place, token in enumerate(ids))


def _causal_context(
    model: Model, first: Sequence[int], second: Sequence[int], changed: tuple[list[int], list[int]]
) -> tuple[Side, Side] | None:
    start = next(place for place, tokens in enumerate(zip(first, second, strict=False)) if tokens[0] != tokens[1])
    lead = len(model.prefix)
    if start - lead < LEAST_CONTEXT or any(places[-1] < start for places in changed):
        return None
    sides: list[Side] = []
    for ids, places in ((first, changed[0]), (second, changed[1])):
        end = places[-1] + 1
        sides.append(Side(tuple(ids[:end]), _labelled(ids[:end], range(start, end)), start - 1, tuple(range(lead, start))))
    return sides[0], sides[1]


def _causal_span(
    model: Model, first: Sequence[int], second: Sequence[int], changed: tuple[list[int], list[int]]
) -> tuple[Side, Side] | None:
    # Sentinels stand where alignment expects the special tokens of a masked model's input.
    shared = shared_positions([-2, *first, -1], [-2, *second, -1])
    runs = [_run(places) for places in changed]
    after = [(one - 1, other - 1) for one, other in zip(*shared, strict=True) if one - 1 > runs[0][-1] and other - 1 > runs[1][-1]]
    words = [place for place, _ in after if any(character.isalnum() for character in str(model.tokenizer.decode([first[place]])))]
    if not words:
        return None
    return (
        Side(tuple(first), _labelled(first, [one for one, _ in after]), runs[0][-1], tuple(changed[0])),
        Side(tuple(second), _labelled(second, [other for _, other in after]), runs[1][-1], tuple(changed[1])),
    )


def _masked_context(
    model: Model, first: Sequence[int], second: Sequence[int], changed: tuple[list[int], list[int]]
) -> tuple[Side, Side] | None:
    assert model.mask_id is not None
    sides: list[Side] = []
    for ids, places in ((first, changed[0]), (second, changed[1])):
        shown = tuple(model.mask_id if place in places else token for place, token in enumerate(ids))
        source = tuple(place for place in range(1, len(ids) - 1) if place not in places)
        # The mean, not the sum: a word of two pieces must not look less likely for it.
        sides.append(Side(shown, _labelled(ids, places), places[0], source, 1.0 / len(places)))
    return (sides[0], sides[1]) if all(side.source for side in sides) else None


def _masked_span(
    model: Model, first: Sequence[int], second: Sequence[int], changed: tuple[list[int], list[int]], chosen: list[tuple[int, int]]
) -> tuple[Side, Side] | None:
    assert model.mask_id is not None
    if not chosen:
        return None
    sides: list[Side] = []
    for number, ids in enumerate((first, second)):
        places = [pair[number] for pair in chosen]
        shown = tuple(model.mask_id if place in places else token for place, token in enumerate(ids))
        sides.append(Side(shown, _labelled(ids, places), _run(changed[number])[-1], tuple(changed[number])))
    return sides[0], sides[1]


def _telling_places(model: Model, inputs: Sequence[tuple[list[int], ...]], most: int) -> list[list[tuple[int, int]]]:
    """For each pair the shared places (in both texts) whose log-probability differs most between them, each masked alone."""
    assert model.mask_id is not None
    mask_id = model.mask_id
    aligned = [list(zip(*shared_positions(first, second), strict=True)) for first, second in inputs]
    requests = [
        MaskedRequest(tuple(mask_id if other == place else token for other, token in enumerate(ids)), (place,), (ids[place],))
        for texts, places in zip(inputs, aligned, strict=True)
        for both in places
        for ids, place in zip(texts, both, strict=True)
    ]
    scores = iter(Scorer(model, store=False).score(requests, "finding where pairs differ") if requests else [])
    found: list[list[tuple[int, int]]] = []
    for places in aligned:
        differences = [abs(float(next(scores)[0]) - float(next(scores)[0])) for _ in places]
        best = sorted(np.argsort(differences)[::-1][:most].tolist())
        found.append([places[index] for index in best])
    return found


@dataclass(frozen=True, eq=False)
class Sides:
    """Sides as one batch on the model's device, the two of an association one after the other.

    Attributes:
        batch: ids, mask and labels, (rows, length).
        sites: place of the key in each row.
        source: bool (rows, length), places that hold what the margin comes from.
        weights: factor of each row's summed log-probability.
    """

    batch: Batch
    sites: Tensor
    source: Tensor
    weights: Tensor

    @property
    def rows(self) -> Tensor:
        """0, 1, 2 ... one per side."""
        return torch.arange(len(self.sites), device=self.sites.device)

    def predicting(self, model: Model) -> Tensor:
        """Bool (rows, length): places whose state predicts a label."""
        labelled = self.batch["labels"] != IGNORED
        if model.family == "masked":
            return labelled
        return torch.cat([labelled[:, 1:], torch.zeros_like(labelled[:, :1])], dim=1)

    def scores(self, model: Model) -> Tensor:
        """Weighted log-probability of each row's labels, float32 (rows,); carries gradient where the model does."""
        values = token_log_probabilities(model, self.batch)
        owner = (self.batch["labels"] != IGNORED).nonzero()[:, 0]
        return values.new_zeros(len(self.sites)).index_add(0, owner, values) * self.weights

    def margins(self, model: Model) -> Tensor:
        """Score of the stereotype less that of the counterpart, nats, one per association."""
        return difference(self.scores(model))


def difference(scores: Tensor) -> Tensor:
    """Scores of sides, (..., 2 n), to margins of associations, (..., n)."""
    return scores[..., 0::2] - scores[..., 1::2]


def gather_sides(model: Model, associations: Sequence[Association]) -> Sides:
    """The sides of associations as one batch, padded on the right."""
    sides = [side for association in associations for side in association.sides]
    batch = Collator(model.pad_id).batch([{"ids": list(side.ids), "labels": list(side.labels)} for side in sides])
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    source = torch.zeros_like(batch["ids"], dtype=torch.bool)
    for row, side in enumerate(sides):
        source[row, list(side.source)] = True
    sites = torch.tensor([side.site for side in sides], device=model.device)
    return Sides(batch, sites, source, torch.tensor([side.weight for side in sides], device=model.device))


def in_batches(associations: Sequence[Association], size: int) -> list[list[Association]]:
    """Associations cut into batches of at most `size`, in their order."""
    return [list(associations[start : start + size]) for start in range(0, len(associations), size)]
