"""Runs a token trie through a causal model: batches of segments, each continued from its parent's keys and values.

Under Self-Debias every segment runs in several views, plain and after each biasing prefix, which have keys and values of their own; the
prefix goes into the root segments, so that all below them is the same trie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad as pad_tensor
from transformers import DynamicCache

from fairforget.edits.self_debias import active_self_debias, prefixed
from fairforget.models.model import Model
from fairforget.scoring.planning import Biased, batches_by_length, pad, read_log_probabilities
from fairforget.scoring.trie import Segment

HELD_BUDGETS = 2
"""Token budgets' worth of keys and values gathered before their children are run: many children at once make full batches of equal
lengths. Counted in padded tokens and forwards, 2 costs 2 % (CrowS-Pairs) and 11 % (BBQ, twelve options) more than no limit; 0 costs 14 %
and 37 % more."""


class _Keys:
    """Keys and values of computed segments that go on, one row each, with the mask over all that came before (and in) them."""

    def __init__(self, cache: DynamicCache, mask: Tensor, rows: Sequence[int]) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[misc]
        self.mask = mask
        if len(rows) < len(mask):
            index = torch.tensor(rows, device=mask.device)
            self.layers = [(_rows(keys, index), _rows(values, index)) for keys, values in self.layers]
            self.mask = mask[index]


_Past = tuple[_Keys, ...]
"""The keys of each view, the plain one first; rows are the same segments in all of them."""


class _Placed(NamedTuple):
    """A segment and where its parent's keys and values lie; a root has none."""

    segment: Segment
    past: _Past | None = None
    row: int = 0


class _View(NamedTuple):
    """A batch run in one view: its states, by how many columns its segments begin further right, and what children continue from."""

    hidden: Tensor
    shifts: list[int]
    keys: _Keys | None
    size: int


@dataclass
class Counts:
    """What a scoring cost."""

    tokens: int = 0
    """Tokens fed to the model, padding excluded."""
    padded: int = 0
    """Tokens fed to the model, padding included."""
    forwards: int = 0
    distinct: int = field(default=0)
    """Distinct requests that were run."""


class CausalRunner:
    """Computes the targets of segments.

    Args:
        model: a causal model.
        budget: padded tokens in a forward.
        forward_cost: see :func:`fairforget.scoring.planning.batches_by_length`.
        counts: where the work is added up.
    """

    def __init__(self, model: Model, budget: int, forward_cost: int, counts: Counts) -> None:
        self.model, self.budget, self.forward_cost, self.counts = model, budget, forward_cost, counts
        self.edit = active_self_debias(model)
        self.prefixes: tuple[tuple[int, ...], ...] = ((), *self.edit.prefixes) if self.edit else ((),)

    def units(self, roots: Sequence[Segment]) -> list[list[Segment]]:
        """Roots in the order in which they run, cut where the keys and values of enough of them are held."""
        units: list[list[Segment]] = [[]]
        held = 0
        for batch in batches_by_length(roots, [len(root.tokens) for root in roots], self.budget, self.forward_cost):
            if held >= HELD_BUDGETS * self.budget:
                units.append([])
                held = 0
            units[-1].extend(batch)
            held += sum(len(root.tokens) for root in batch)
        return [unit for unit in units if unit]

    def run(self, roots: Sequence[Segment], results: dict[int, NDArray], advance: Callable[[float], None]) -> None:
        """Fill `results` (request index to array of its continuation's length) for all targets at and below the given roots."""
        self._run_level([_Placed(root) for root in roots], results, advance)

    def _run_level(self, level: Sequence[_Placed], results: dict[int, NDArray], advance: Callable[[float], None]) -> None:
        below: list[_Placed] = []
        held = 0
        for batch in batches_by_length(level, [len(placed.segment.tokens) for placed in level], self.budget, self.forward_cost):
            past, parents = self._run_batch(batch, results, advance)
            below += [_Placed(child, past, row) for row, parent in enumerate(parents) for child in parent.children]
            held += sum(parent.depth + len(parent.tokens) for parent in parents)
            if held >= HELD_BUDGETS * self.budget:
                self._run_level(below, results, advance)
                below, held = [], 0
        if below:
            self._run_level(below, results, advance)

    def _run_batch(
        self, batch: Sequence[_Placed], results: dict[int, NDArray], advance: Callable[[float], None]
    ) -> tuple[_Past | None, list[Segment]]:
        """Run one batch; what its children continue from, and the segments that have any, in the order of its rows."""
        groups = _by_past(batch)
        segments = [placed.segment for group in groups for placed in group]
        going_on = [row for row, segment in enumerate(segments) if segment.children]
        plain, *others = (self._run_view(groups, segments, number, going_on) for number in range(len(self.prefixes)))
        wanted = [(row, target) for row, segment in enumerate(segments) for target in segment.targets]
        if wanted:
            rows, offsets = [row for row, _ in wanted], [target.offset for _, target in wanted]
            values, *best = read_log_probabilities(
                self.model,
                plain.hidden,
                rows,
                offsets,
                [target.token for _, target in wanted],
                edit=self.edit,
                biased=[
                    Biased(view.hidden, [offset + view.shifts[row] for row, offset in zip(rows, offsets, strict=True)]) for view in others
                ],
                best=any(target.best_place is not None for _, target in wanted),
            ).tolist()
            for (_, target), value in zip(wanted, values, strict=True):
                results[target.request][target.place] = value
            for (_, target), value in zip(wanted, *best, strict=True) if best else ():
                if target.best_place is not None:
                    results[target.request][target.best_place] = value
        advance(plain.size)
        past = tuple(view.keys for view in (plain, *others) if view.keys is not None)
        return past or None, [segments[row] for row in going_on]

    def _run_view(self, groups: Sequence[Sequence[_Placed]], segments: Sequence[Segment], number: int, going_on: Sequence[int]) -> _View:
        """Run the segments of a batch, plain or after one biasing prefix, which stands in the roots."""
        model, prefix = self.model, self.prefixes[number]
        past = _gather(groups, number)
        if past is None:
            tokens = [prefixed(model, segment.tokens, prefix)[0] for segment in segments]
            begins, shifts = [0] * len(segments), [len(prefix)] * len(segments)
        else:
            tokens = [segment.tokens for segment in segments]
            begins, shifts = [segment.depth + len(prefix) for segment in segments], [0] * len(segments)
        ids, own_mask = pad(tokens, model.pad_id, model.device)
        positions = torch.tensor(begins, device=model.device)[:, None] + torch.arange(ids.shape[1], device=model.device)
        positions = positions.clamp(max=model.max_length - 1)  # padding beside a long row would count past the last position there is
        mask, cache = own_mask, None
        if past is not None:
            cache, before = past
            mask = torch.cat([before, own_mask], dim=1)
        elif going_on:
            cache = DynamicCache()
        hidden = model.hidden(ids, mask, positions=positions if cache is not None else None, cache=cache)
        size = int(own_mask.sum())
        self.counts.tokens += size
        self.counts.padded += ids.numel()
        self.counts.forwards += 1
        return _View(hidden, shifts, _Keys(cache, mask, going_on) if going_on and cache is not None else None, size)


def _by_past(batch: Sequence[_Placed]) -> list[list[_Placed]]:
    """The segments of a batch with those whose parents lie in one past together."""
    groups: dict[int, list[_Placed]] = {}
    for placed in batch:
        groups.setdefault(id(placed.past), []).append(placed)
    return list(groups.values())


def _gather(groups: Sequence[Sequence[_Placed]], view: int) -> tuple[DynamicCache, Tensor] | None:
    """A fresh cache and mask of one view with the parent of each segment in its row; None for roots.

    Columns that are padding in all parents of a past are dropped; the order of columns means nothing, since keys carry their positions.
    """
    parts: list[tuple[_Keys, Tensor, Tensor | slice]] = []
    masks: list[Tensor] = []
    for group in groups:
        if group[0].past is None:
            return None
        past = group[0].past[view]
        rows = torch.tensor([placed.row for placed in group], device=past.mask.device)
        columns = past.mask[rows].any(dim=0)
        filled = columns.nonzero().squeeze(1)
        kept = slice(len(filled)) if bool(columns[: len(filled)].all()) else filled
        parts.append((past, rows, kept))
        masks.append(past.mask[rows][:, kept])
    width = max(mask.shape[1] for mask in masks)
    cache = DynamicCache()
    for number in range(len(parts[0][0].layers)):
        both = [[_widened(_rows(past.layers[number][which], rows, kept), width) for past, rows, kept in parts] for which in (0, 1)]
        keys, values = (tensors[0] if len(tensors) == 1 else torch.cat(tensors) for tensors in both)
        cache.update(keys, values, number)
    mask = torch.cat([pad_tensor(mask, (0, width - mask.shape[1])) for mask in masks])
    return cache, mask


def _rows(states: Tensor, rows: Tensor, columns: Tensor | slice = slice(None)) -> Tensor:
    """Some rows and columns of keys or values (rows, heads, columns, size), which may lie on another device than the model's first."""
    chosen = states[rows.to(states.device)]
    return chosen[:, :, columns if isinstance(columns, slice) else columns.to(states.device)]


def _widened(states: Tensor, width: int) -> Tensor:
    """Keys or values (rows, heads, columns, size), padded with zeros to `width` columns."""
    missing = width - states.shape[2]
    return pad_tensor(states, (0, 0, 0, missing)) if missing else states
