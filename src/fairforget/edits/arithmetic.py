"""Task vector arithmetic beyond the sum: averages over shards, TIES, DARE, and how a bias edit meets capability edits.

Sums, averages and projections (:mod:`fairforget.edits.combine`) keep low-rank changes low-rank and exact. TIES and DARE look at single
entries, which a product B · A has not, so that they give dense changes, one parameter at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from fairforget.edits.combine import Layout, combine, combined_record, one_base, project
from fairforget.edits.deltas import Delta, Dense
from fairforget.edits.storage import EDIT_FILE
from fairforget.edits.weight_edit import WeightEdit
from fairforget.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from fairforget.models.model import Model

Way = Literal["add", "average", "project", "ties", "dare"]
"""How edits are combined."""
WAYS: tuple[Way, ...] = get_args(Way)

KEEP, DROP = 0.2, 0.9
"""Share of entries that TIES keeps (Yadav et al. 2023, section 4) and that DARE drops (Yu et al. 2024, section 4)."""


def arithmetic(
    parts: Sequence[tuple[WeightEdit, float]],
    how: str = "add",
    *,
    keep: float = KEEP,
    drop: float = DROP,
    seed: int = 0,
    model: Model | nn.Module | None = None,
) -> WeightEdit:
    """Combine edits of one base as one edit of strength 1.

    Args:
        parts: edits and weights; a bias edit of ``task-vector`` is −τ already, so a positive weight forgets. A capability that was
            fitted with it is added by a negative weight.
        how: ``add`` (Σ wᵢδᵢ), ``average`` (Σ wᵢδᵢ / n, e.g. of shards), ``project`` (the first without its part along the others, which are
            not added), ``ties`` or ``dare`` (Σ wᵢ · dare(δᵢ)).
        keep: of ``ties``, see :func:`ties`.
        drop: of ``dare``, see :func:`dare`.
        seed: of ``dare``.
        model: the base or its module, for the layout of weights where a low-rank change becomes dense.

    Raises:
        UsageError: an unknown way, a weight that says nothing in it, edits of different bases, or a missing model.
    """
    if how not in WAYS:
        raise unknown_name("way to combine edits", how, WAYS)
    first = one_base([edit for edit, _ in parts])
    if how == "add":
        return combine(parts, model=model)
    if how == "average":
        return average(parts, model=model)
    if how == "ties":
        return ties(parts, keep=keep, model=model)
    if how == "dare":
        return combine([(dare(edit, drop=drop, seed=seed, model=model), weight) for edit, weight in parts], model=model)
    check_projected_from(parts[1:])
    return project(first.at(first.strength * parts[0][1]), [edit for edit, _ in parts[1:]], model=model)


def check_projected_from(others: Sequence[tuple[WeightEdit, float]]) -> None:
    """Refuse what an edit cannot be projected away from.

    Raises:
        UsageError: no edits, or weights, which say nothing here.
    """
    if not others:
        raise UsageError("project needs the edit to be projected and, after it, at least one edit that it shall leave alone.")
    if any(weight != 1 for _, weight in others):
        raise UsageError("project removes the directions of the other edits, whatever their size: leave their weights out.")


def average(parts: Sequence[tuple[WeightEdit, float]], *, model: Model | nn.Module | None = None) -> WeightEdit:
    """The mean of edits, Σ wᵢ · δᵢ / n: averaging n models that were edited apart, e.g. on disjoint shards of the data.

    What one shard alone taught is divided by n, what all taught stays ("Decoupling Noise and Toxic Parameters", COLM 2024). Low-rank
    changes stay exact, of rank Σ rᵢ.

    Args:
        parts: edits and weights, 1 for the plain mean.
        model: as in :func:`fairforget.edits.combine.combine`.
    """
    return combine([(edit, weight / len(parts)) for edit, weight in parts], model=model)


@torch.no_grad()
def ties(parts: Sequence[tuple[WeightEdit, float]], *, keep: float = KEEP, model: Model | nn.Module | None = None) -> WeightEdit:
    """TIES merging of edits (Yadav et al. 2023, arXiv 2306.01708, algorithm 1): trim, elect signs, mean of what agrees.

    Each wᵢ · δᵢ keeps its largest entries, over all its parameters together; an entry's sign is that of the sum of what was kept; the
    result is the mean of the kept entries of that sign. Where the sum is exactly 0 no sign is elected and the entry is 0 (the released code
    gives it the majority sign of the whole vector).

    Args:
        parts: edits, each read at its strength, and weights.
        keep: share of entries kept of each edit, in (0, 1].
        model: the base or its module; needed where a change is low-rank, since the result is dense.

    Raises:
        UsageError: a share out of range, edits of different bases, shapes that differ, or a missing model.
    """
    if not 0 < keep <= 1:
        raise UsageError(f"The share of entries that TIES keeps must be above 0 and at most 1, not {keep}.")
    first = one_base([edit for edit, _ in parts])
    layout = Layout(model)
    names = list(dict.fromkeys(name for edit, _ in parts for name in edit.deltas))
    thresholds = [_kept_from(edit, layout, keep) for edit, _ in parts]
    deltas: dict[str, Delta] = {}
    for name in names:
        kept: list[Tensor] = []
        for (edit, weight), threshold in zip(parts, thresholds, strict=True):
            if name in edit.deltas:
                entries = layout.stored(name, edit.deltas[name])
                kept.append(torch.where(entries.abs() >= threshold, entries, 0.0) * (weight * edit.strength))
        if len({entries.shape for entries in kept}) > 1:
            raise UsageError(f"The changes of '{name}' have different shapes: {', '.join(str(tuple(entries.shape)) for entries in kept)}.")
        stacked = torch.stack(kept)
        sign = stacked.sum(dim=0).sign()
        agreeing = (stacked.sign() == sign) & (stacked != 0)
        deltas[name] = Dense(torch.where(agreeing, stacked, 0.0).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1))
    return WeightEdit(deltas, combined_record("ties", first.record, parts, keep=keep))


@torch.no_grad()
def dare(edit: WeightEdit, *, drop: float = DROP, seed: int = 0, model: Model | nn.Module | None = None) -> WeightEdit:
    """DARE (Yu et al. 2024, arXiv 2311.03099, eq. 3 to 5): drop entries at random and rescale the rest by 1 / (1 − drop).

    The expected change is the edit's own. Masks are a function of seed, edit and parameter name, so that edits combined under one seed
    are thinned independently.

    Args:
        edit: read at its strength.
        drop: probability p of dropping an entry, in [0, 1).
        seed: of the masks.
        model: the base or its module; needed where a change is low-rank, since the result is dense.

    Raises:
        UsageError: a probability out of range, or a missing model.
    """
    if not 0 <= drop < 1:
        raise UsageError(f"The share of entries that DARE drops must be at least 0 and below 1, not {drop}.")
    layout = Layout(model)
    deltas: dict[str, Delta] = {}
    for name, delta in edit.deltas.items():
        entries = layout.stored(name, delta)
        digest = hashlib.sha256(f"{seed}|{edit.content_hash}|{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        stays = torch.rand(entries.shape, generator=generator) >= drop
        deltas[name] = Dense(torch.where(stays, entries * (edit.strength / (1 - drop)), 0.0))
    return WeightEdit(deltas, combined_record("dare", edit.record, [(edit, 1.0)], drop=drop, mask_seed=seed))


def find_weighted(text: str) -> tuple[Path, float] | None:
    """Read ``EDIT[@WEIGHT]``: the folder or file of a saved edit and its weight, 1 by default; None where there is no edit."""
    path, at, weight = text.rpartition("@")
    candidates: list[tuple[str, float]] = [(text, 1.0)]
    if at:
        with contextlib.suppress(ValueError):
            candidates.append((path, float(weight)))
    for name, factor in candidates:
        folder = Path(name)
        if (folder / EDIT_FILE).is_file() or (folder.is_file() and folder.suffix == ".safetensors"):
            return folder, factor
    return None


def load_weighted(text: str) -> tuple[WeightEdit, float]:
    """The edit that ``EDIT[@WEIGHT]`` names, at the strength it was saved at, and its weight.

    Raises:
        UsageError: there is no edit there.
        DataError: its file is damaged.
    """
    found = find_weighted(text)
    if found is None:
        raise UsageError(f"There is no edit in {text}: name a folder that holds {EDIT_FILE}, and after @ its weight if you like.")
    return WeightEdit.load(found[0]), found[1]


def _kept_from(edit: WeightEdit, layout: Layout, keep: float) -> float:
    """The magnitude from which on the entries of an edit are kept."""
    count = sum(delta.delta.numel() if isinstance(delta, Dense) else delta.B.shape[0] * delta.A.shape[1] for delta in edit.deltas.values())
    return kth_largest(
        lambda: (layout.stored(name, delta).abs().flatten() for name, delta in edit.deltas.items()), max(1, round(keep * count))
    )


def kth_largest(pieces: Callable[[], Iterable[Tensor]], k: int) -> float:
    """The k-th largest of non-negative float32 numbers that come in pieces, exactly, with no more than one piece in memory.

    The bits of such numbers, read as integers, are in the order of the numbers: a first pass counts by their upper half, a second, within
    the half where the k-th lies, by their lower one.

    Args:
        pieces: gives the same flat tensors at every call.
        k: from 1 to how many there are.
    """
    upper = torch.zeros(1 << 15, dtype=torch.long)
    for piece in pieces():
        upper += torch.bincount(piece.view(torch.int32) >> 16, minlength=1 << 15)
    high, left = _from_the_top(upper, k)
    lower = torch.zeros(1 << 16, dtype=torch.long)
    for piece in pieces():
        bits = piece.view(torch.int32)
        lower += torch.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=1 << 16)
    low, _ = _from_the_top(lower, left)
    return float(torch.tensor([high << 16 | low], dtype=torch.int32).view(torch.float32))


def _from_the_top(counts: Tensor, k: int) -> tuple[int, int]:
    """The bin that holds the k-th number from the top, and its rank within that bin."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, torch.tensor(k)))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, k - before
