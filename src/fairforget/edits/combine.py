"""Sums, inner products and projections of weight edits; low-rank changes stay low-rank and are never made dense for it.

Every function reads a change at its edit's strength, and what it returns has strength 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fairforget.edits.base import EditRecord
from fairforget.edits.deltas import Delta, Dense, LowRank
from fairforget.edits.sites import find_sites, stored_transposed
from fairforget.edits.weight_edit import WeightEdit
from fairforget.errors import UsageError

if TYPE_CHECKING:
    from fairforget.models.model import Model


def add(*edits: WeightEdit, model: Model | nn.Module | None = None) -> WeightEdit:
    """The sum of edits, each at its strength; see :func:`combine`."""
    return combine([(edit, 1.0) for edit in edits], model=model)


def combine(parts: Sequence[tuple[WeightEdit, float]], *, model: Model | nn.Module | None = None) -> WeightEdit:
    """The weighted sum Σ wᵢ · sᵢ · δᵢ of edits of one base as a single edit of strength 1.

    Low-rank changes of a parameter are added by concatenating their factors (rank r₁ + r₂; where A is the same, B is added and the rank
    stays), dense ones by summing in float32. Where one parameter has both, the sum is dense.

    Args:
        parts: edits and weights.
        model: the base, or its Hugging Face module; needed only where a parameter has dense and low-rank changes, for its layout.

    Raises:
        UsageError: no edits, edits of different bases, shapes that differ, or a missing model.
    """
    first = one_base([edit for edit, _ in parts])
    terms: dict[str, list[tuple[Delta, float]]] = {}
    for edit, weight in parts:
        for name, delta in edit.deltas.items():
            terms.setdefault(name, []).append((delta, weight * edit.strength))
    layout = Layout(model)
    deltas = {name: _weighted_sum(name, these, layout) for name, these in terms.items()}
    return WeightEdit(deltas, combined_record("sum", first.record, parts))


def inner_product(first: WeightEdit, second: WeightEdit, *, model: Model | nn.Module | None = None) -> float:
    """The Frobenius inner product of two changes over the parameters that both touch, in float64.

    For low-rank changes ⟨B₁A₁, B₂A₂⟩ = tr((B₂ᵀB₁)(A₁A₂ᵀ)), with r₁ · r₂ numbers instead of a dense matrix.

    Args:
        first: an edit, read at its strength.
        second: another edit of the same base, read at its strength.
        model: as in :func:`combine`.

    Raises:
        UsageError: edits of different bases, or a missing model.
    """
    one_base([first, second])
    layout = Layout(model)
    others = second.deltas
    total = sum(delta_product(name, delta, others[name], layout) for name, delta in first.deltas.items() if name in others)
    return float(total) * first.strength * second.strength


def project(edit: WeightEdit, away_from: Sequence[WeightEdit], *, model: Model | nn.Module | None = None) -> WeightEdit:
    """The part of a change that is orthogonal, parameter by parameter, to the changes of other edits (capability vectors).

    τ ← τ − Σ_c ⟨τ, q_c⟩ q_c with q an orthonormal basis of the others; solved through their Gram matrix, whose pseudo-inverse leaves
    out what is linearly dependent, so that no orthonormal (dense) vector is ever made.

    Args:
        edit: the change to be projected, read at its strength.
        away_from: edits of the same base.
        model: as in :func:`combine`.

    Raises:
        UsageError: edits of different bases, or a missing model.
    """
    one_base([edit, *away_from])
    layout = Layout(model)
    deltas: dict[str, Delta] = {}
    for name, delta in edit.deltas.items():
        others = [other.deltas[name] for other in away_from if name in other.deltas]
        terms: list[tuple[Delta, float]] = [(delta, edit.strength)]
        if others:
            gram = torch.tensor([[delta_product(name, one, two, layout) for two in others] for one in others], dtype=torch.float64)
            overlap = torch.tensor([delta_product(name, one, delta, layout) for one in others], dtype=torch.float64)
            coefficients = torch.linalg.pinv(gram, hermitian=True) @ overlap
            terms += [(other, -edit.strength * float(coefficient)) for other, coefficient in zip(others, coefficients, strict=True)]
        deltas[name] = _weighted_sum(name, terms, layout)
    return WeightEdit(deltas, combined_record("projection", edit.record, [(edit, 1.0), *((other, 0.0) for other in away_from)]))


class Layout:
    """Tells whether a parameter is stored (in, out); asked only where a low-rank change meets or becomes a dense one.

    Args:
        model: the base, its Hugging Face module (weights are not looked at, so one on the meta device serves), or None.
    """

    def __init__(self, model: Model | nn.Module | None) -> None:
        self._sites = None if model is None else find_sites(model if isinstance(model, nn.Module) else model.hf)

    def stored(self, name: str, delta: Delta) -> Tensor:
        """A change as a new float32 tensor in the layout in which the model stores the parameter.

        Raises:
            UsageError: the change is low-rank, and no model was given that knows the layout.
        """
        transposed = isinstance(delta, LowRank) and self.transposed(name)
        matrix = delta.matrix(transposed=transposed, dtype=torch.float32, device=torch.device("cpu"))
        return matrix.clone() if isinstance(delta, Dense) else matrix.contiguous()

    def transposed(self, name: str) -> bool:
        """Whether a parameter is stored (in, out).

        Raises:
            UsageError: no model was given, or it has no such parameter.
        """
        if self._sites is None:
            raise UsageError(f"'{name}' has a low-rank change and a dense one is asked for: give model=, which says how it is stored.")
        if name not in self._sites:
            raise UsageError(f"The model has no parameter '{name}', which these edits change.")
        return stored_transposed(self._sites[name])


def one_base(edits: Sequence[WeightEdit]) -> WeightEdit:
    """The first of edits that all belong to one base.

    Raises:
        UsageError: there are none, one is no edit of weights, or their bases differ.
    """
    if not edits:
        raise UsageError("Give at least one edit to combine.")
    for edit in edits:
        if not isinstance(edit, WeightEdit):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
            raise UsageError(f"An edit of kind '{edit.kind}' works at run time, so it cannot be added to others: attach both instead.")
    bases = {edit.record.base_hash: edit.record.base_name or edit.record.base_source for edit in edits}
    if len(bases) > 1:
        listed = ", ".join(f"{name} ({digest[:16]})" for digest, name in bases.items())
        raise UsageError(f"Edits of different base models cannot be combined: {listed}.")
    return edits[0]


@torch.no_grad()
def _weighted_sum(name: str, terms: Sequence[tuple[Delta, float]], layout: Layout) -> Delta:
    low_rank = [(delta, weight) for delta, weight in terms if isinstance(delta, LowRank)]
    if len(low_rank) < len(terms):
        transposed = bool(low_rank) and layout.transposed(name)
        matrices = [delta.matrix(transposed=transposed, dtype=torch.float32, device=torch.device("cpu")) for delta, _ in terms]
        _same_shape(name, [tuple(matrix.shape) for matrix in matrices])
        total = torch.zeros_like(matrices[0])
        for matrix, (_, weight) in zip(matrices, terms, strict=True):
            total.add_(matrix, alpha=weight)
        return Dense(total)
    _same_shape(name, [(delta.B.shape[0], delta.A.shape[1]) for delta, _ in low_rank])
    factors: list[tuple[Tensor, Tensor]] = []
    for delta, weight in low_rank:
        a, b = delta.A.cpu().float(), delta.folded_b(weight, torch.float32, torch.device("cpu"))
        same = next((place for place, (other, _) in enumerate(factors) if other.shape == a.shape and torch.equal(other, a)), None)
        if same is None:
            factors.append((a, b))
        else:
            factors[same] = (a, factors[same][1] + b)
    return LowRank(torch.cat([a for a, _ in factors], dim=0), torch.cat([b for _, b in factors], dim=1))


@torch.no_grad()
def delta_product(name: str, first: Delta, second: Delta, layout: Layout) -> float:
    """The Frobenius inner product of two changes of one parameter, in float64; see :func:`inner_product`."""
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        a1, b1, a2, b2 = (factor.cpu().double() for factor in (first.A, first.B, second.A, second.B))
        _same_shape(name, [(b1.shape[0], a1.shape[1]), (b2.shape[0], a2.shape[1])])
        return first.scale * second.scale * float(((b2.T @ b1) * (a1 @ a2.T).T).sum())
    if isinstance(first, Dense) and isinstance(second, Dense):
        _same_shape(name, [tuple(first.delta.shape), tuple(second.delta.shape)])
        return float((first.delta.cpu().double() * second.delta.cpu().double()).sum())
    dense, factors = (first, second) if isinstance(first, Dense) else (second, first)
    assert isinstance(dense, Dense)
    assert isinstance(factors, LowRank)
    matrix = dense.delta.cpu().double()
    matrix = matrix.T if layout.transposed(name) else matrix
    _same_shape(name, [tuple(matrix.shape), (factors.B.shape[0], factors.A.shape[1])])
    return factors.scale * float(((factors.B.cpu().double().T @ matrix) * factors.A.cpu().double()).sum())


def _same_shape(name: str, shapes: Sequence[tuple[int, ...]]) -> None:
    if len(set(shapes)) > 1:
        raise UsageError(f"The changes of '{name}' have different shapes: {', '.join(str(shape) for shape in shapes)}.")


def combined_record(method: str, first: EditRecord, parts: Sequence[tuple[WeightEdit, float]], **settings: Any) -> EditRecord:
    """The record of an edit made of others: what was combined, how, and where each part came from.

    Args:
        method: name of the way they were combined.
        first: record whose base the result has.
        parts: edits and weights.
        **settings: of the way, as JSON values.
    """
    listed = [{"content_hash": edit.content_hash, "strength": edit.strength, "weight": weight} for edit, weight in parts]
    facts = {
        "method": method,
        "settings": {**settings, "parts": listed},
        "seed": None,
        "provenance": {"parts": [edit.record.model_dump(mode="json") for edit, _ in parts]},
    }
    return EditRecord.model_validate({**first.model_dump(), **facts})
