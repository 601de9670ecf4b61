"""A loss over a fixed list of batches, overall and by group: its value, its gradient, its slope along a displacement.

Sums and counts are kept by *cell*, the rows that share the same groups, so that one pass over all rows gives the loss of every group,
however groups overlap: a group's loss is the sum over its cells divided by their count, never a mean of means over batches.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairforget.edits.base import Edit
from fairforget.edits.merge import merged_tensors
from fairforget.edits.self_debias import active_self_debias
from fairforget.edits.sites import find_sites
from fairforget.errors import UsageError
from fairforget.scoring.planning import batches_by_length
from fairforget.scoring.scorer import CPU_FORWARD_COST
from fairforget.training.objective import Batch, Objective
from fairforget.training.streams import Collator, Row

if TYPE_CHECKING:
    from fairforget.models.model import Model

Scope: TypeAlias = str | Sequence[str] | Callable[[str], bool]
"""Parameters by name: ``all``, names or patterns (``*.mlp.*``), or a test of a name."""

Displacement: TypeAlias = Mapping[str, Tensor]
"""Δ by parameter name, of the parameter's shape."""

OVERALL = "all"
"""What tables call the loss over all rows."""

BATCH_TOKENS = 512
"""Padded tokens in a batch: a second-order graph keeps several copies of every logit."""


@dataclass(frozen=True)
class Part:
    """One batch: the loss summed over its units.

    Attributes:
        cell: which cell its rows belong to.
        count: units (supervised tokens).
        total: the sum over the units at the present weights, a scalar that carries gradient.
    """

    cell: int
    count: int
    total: Callable[[], Tensor]


class Loss:
    """L(θ) = Σ over parts of their totals / Σ of their counts, as a function of some parameters of a network.

    Args:
        network: whose parameters they are; dropout is off whenever the loss is computed.
        parts: the batches, the same at every evaluation.
        cells: the groups of each cell.
        scope: the parameters that are looked at; tied ones are one parameter.

    Attributes:
        parameters: by name, in the order of the network.
        scope: the parameters in words.
        groups: the groups of all cells, sorted.

    Raises:
        UsageError: nothing to compute, no parameter in the scope, or one that is not float32 or float64 on one device.
    """

    def __init__(
        self, network: nn.Module, parts: Sequence[Part], cells: Sequence[Sequence[str]] = ((),), scope: Scope = "all"
    ) -> None:
        self.network, self.parts, self.cells = network, tuple(parts), tuple(tuple(cell) for cell in cells)
        if not any(part.count for part in self.parts):
            raise UsageError("The loss has no token to predict: give rows with labels.")
        named = dict(network.named_parameters())
        self.parameters, self.scope = _chosen(named, scope)
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters.values()}
        if len(kinds) > 1 or next(iter(kinds))[0] not in (torch.float32, torch.float64):
            raise UsageError(
                "Curvature needs all weights of the scope in float32 on one device: load the model with --dtype float32, without "
                "--load-in-4bit and --device-map."
            )
        self.groups = sorted({group for cell in self.cells for group in cell})
        self._cells_of = np.array([[True] * len(self.cells), *([group in cell for cell in self.cells] for group in self.groups)])
        self._counts = np.zeros(len(self.cells))
        for part in self.parts:
            self._counts[part.cell] += part.count

    @property
    def size(self) -> int:
        """Number of parameters in the scope."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def units(self) -> float:
        """Supervised tokens of all rows."""
        return float(self._counts.sum())

    @property
    def names(self) -> list[str]:
        """Rows of :meth:`average`: all rows, then each group."""
        return [OVERALL, *self.groups]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Units behind each of :attr:`names`."""
        return (self._cells_of @ self._counts).astype(np.int64)

    def over(self, scope: Scope) -> Loss:
        """The same loss as a function of other parameters."""
        return Loss(self.network, self.parts, self.cells, scope)

    def beginning(self, parts: int) -> Loss:
        """The loss over the first so many batches, in the same scope."""
        return Loss(self.network, self.parts[:parts], self.cells, tuple(self.parameters))

    def average(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Means per unit, (1 + groups, ...), from sums by cell (cells, ...)."""
        counts = (self._cells_of @ self._counts).reshape(-1, *[1] * (sums.ndim - 1))
        return (self._cells_of.astype(np.float64) @ sums.reshape(len(self.cells), -1)).reshape(len(self.names), *sums.shape[1:]) / counts

    @contextlib.contextmanager
    def ready(self) -> Generator[None]:
        """Dropout is off and the scope alone carries gradient while the block runs; then both are as before."""
        training = [module for module in self.network.modules() if module.training]
        flags = [(parameter, parameter.requires_grad) for parameter in self.network.parameters()]
        inside = {id(parameter) for parameter in self.parameters.values()}
        self.network.eval()
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(id(parameter) in inside)
            yield
        finally:
            for module in training:
                module.training = True
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    @contextlib.contextmanager
    def moved(self, displacement: Displacement) -> Generator[Callable[[float], None]]:
        """Yield a function that moves the weights to θ + t · Δ; after the block they are θ to the last bit.

        One copy of the displaced parameters is held meanwhile.
        """
        inside = self.check(displacement)
        kept = [(parameter, parameter.detach().clone(), delta) for parameter, delta in inside]

        @torch.no_grad()
        def move(share: float) -> None:
            for parameter, start, delta in kept:
                parameter.copy_(start).add_(delta.to(parameter.device, parameter.dtype), alpha=share)

        try:
            yield move
        finally:
            with torch.no_grad():
                for parameter, start, _ in kept:
                    parameter.copy_(start)

    def check(self, displacement: Displacement) -> list[tuple[nn.Parameter, Tensor]]:
        """Parameters with their displacements.

        Raises:
            UsageError: a displacement outside the scope or of another shape.
        """
        for name, delta in displacement.items():
            if name not in self.parameters:
                raise UsageError(f"The displacement of '{name}' is outside the scope {self.scope}: choose a scope that holds it.")
            if delta.shape != self.parameters[name].shape:
                shape = tuple(self.parameters[name].shape)
                raise UsageError(f"The displacement of '{name}' has shape {tuple(delta.shape)}, the parameter has {shape}.")
        return [(self.parameters[name], delta) for name, delta in displacement.items()]

    @torch.no_grad()
    def sums(self) -> NDArray[np.float64]:
        """The loss summed by cell, (cells,), at the present weights."""
        found = np.zeros(len(self.cells))
        with self.ready():
            for part in self.parts:
                found[part.cell] += float(part.total())
        return found

    def gradient(self) -> Tensor:
        """∇L over the scope, flat, (size,)."""
        flat = self.zeros()
        views, parameters = self.views(flat), list(self.parameters.values())
        with self.ready():
            for part in self.parts:
                total = part.total()
                if total.requires_grad:
                    found = torch.autograd.grad(total, parameters, materialize_grads=True)
                    for view, gradient in zip(views, found, strict=True):
                        view.add_(gradient, alpha=1 / self.units)
        return flat

    def slopes(self, displacement: Displacement) -> NDArray[np.float64]:
        """∇(sum of the cell) · Δ by cell and displaced parameter, (cells, displaced parameters), at the present weights.

        A gradient is met parameter by parameter as the backward pass finishes it, multiplied, and freed: no whole gradient is held.
        """
        inside = self.check(displacement)
        first = inside[0][0]
        found = torch.zeros((len(self.cells), len(inside)), dtype=torch.float64, device=first.device)
        cell = 0

        def meet(place: int, delta: Tensor) -> Callable[[Tensor], None]:
            def multiply(parameter: Tensor) -> None:
                if parameter.grad is not None:
                    product = parameter.grad * delta.to(parameter.device, parameter.dtype)
                    found[cell, place] += product.sum(dtype=torch.float64)
                    parameter.grad = None

            return multiply

        with self.over(tuple(displacement)).ready(), contextlib.ExitStack() as stack:
            for place, (parameter, delta) in enumerate(inside):
                kept, parameter.grad = parameter.grad, None
                stack.callback(setattr, parameter, "grad", kept)
                stack.callback(parameter.register_post_accumulate_grad_hook(meet(place, delta)).remove)
            for part in self.parts:
                cell, total = part.cell, part.total()
                if total.requires_grad:
                    total.backward()
        return found.cpu().numpy()

    def zeros(self) -> Tensor:
        """A flat vector over the scope."""
        first = next(iter(self.parameters.values()))
        return torch.zeros(self.size, dtype=first.dtype, device=first.device)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The pieces of a flat vector in the shapes of the parameters; they share its memory."""
        parameters = list(self.parameters.values())
        pieces = flat.split([parameter.numel() for parameter in parameters])
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True)]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat vector as a displacement; the pieces share its memory."""
        return dict(zip(self.parameters, self.views(flat), strict=True))


def row_loss(
    model: Model,
    rows: Sequence[Row],
    term: Objective,
    *,
    groups: Sequence[Sequence[str]] | None = None,
    scope: Scope = "all",
    batch_tokens: int = BATCH_TOKENS,
) -> Loss:
    """The loss of a term over rows, at a model's present weights: with ``CrossEntropy``, Σ cross-entropy / supervised tokens.

    Args:
        model: with or without edits.
        rows: ``ids`` and ``labels``, as the streams give them; rows without a label count for nothing.
        term: its sum and count over a batch, e.g. :class:`fairforget.objectives.CrossEntropy`.
        groups: of each row; several at once are allowed.
        scope: the parameters that are looked at.
        batch_tokens: padded tokens of a batch; a longer row is a batch of its own.

    Raises:
        UsageError: as :class:`Loss`, or a Self-Debias edit is on the model, which no loss on hidden states shows.
    """
    if active_self_debias(model) is not None:
        raise UsageError("Self-Debias changes the scores after the model, so its loss has no curvature of its own: take the edit off.")
    collate = Collator(model.pad_id)
    signatures = [tuple(sorted(set(own))) for own in groups] if groups is not None else [()] * len(rows)
    if len(signatures) != len(rows):
        raise UsageError(f"{len(rows)} rows came with the groups of {len(signatures)}: give a list of groups for each row.")
    cells = list(dict.fromkeys(signatures)) or [()]
    parts: list[Part] = []
    for cell, signature in enumerate(cells):
        own = [row for row, its in zip(rows, signatures, strict=True) if its == signature]
        for chosen in batches_by_length(own, [len(row["ids"]) for row in own], batch_tokens, CPU_FORWARD_COST):
            batch = collate.batch(chosen)
            if count := term.count(batch):
                parts.append(Part(cell, count, _Total(model, batch, term)))
    return Loss(model.hf, parts, cells, scope)


class _Total:
    """The sum of a term over one batch, which lies on the processor until it is asked for."""

    def __init__(self, model: Model, batch: Batch, term: Objective) -> None:
        self.model, self.batch, self.term = model, batch, term

    def __call__(self) -> Tensor:
        return self.term.sum(self.model, {field: tensor.to(self.model.device) for field, tensor in self.batch.items()})


def displacement(model: Model, after: Edit | Sequence[Edit], before: Edit | Sequence[Edit] = ()) -> dict[str, Tensor]:
    """Δ = θ(after) − θ(before) of every parameter that either touches, in the model's type.

    Args:
        model: the base of all of them, with no edit attached.
        after: edits at the end of the step, each at its strength.
        before: edits at its start; none for a step from the base.

    Raises:
        UsageError: an edit that cannot be written as a change of weights, or nothing that moved.
    """
    found = merged_tensors(model, after)
    start = merged_tensors(model, before) if before else {}
    sites = find_sites(model.hf)
    for name in start.keys() - found.keys():
        found[name] = sites[name].parameter.detach().clone()
    for name, tensor in found.items():
        tensor.sub_(start.pop(name, sites[name].parameter.detach()))
    if not any(bool(tensor.any()) for tensor in found.values()):
        raise UsageError("The step moves no weight: the edits at its start and end are the same, or of strength 0.")
    return found


def _chosen(named: Mapping[str, nn.Parameter], scope: Scope) -> tuple[dict[str, nn.Parameter], str]:
    """Parameters of a scope, and the scope in words."""
    if callable(scope):
        found, words = {name: parameter for name, parameter in named.items() if scope(name)}, "parameters by a test of their names"
    elif scope == "all":
        found, words = dict(named), "all parameters"
    else:
        patterns = [scope] if isinstance(scope, str) else list(scope)
        wild = [pattern for pattern in patterns if any(sign in pattern for sign in "*?[")]
        exact = set(patterns).difference(wild)
        if missing := sorted(exact.difference(named)):
            raise UsageError(
                f"The model has no parameter '{missing[0]}' (a tied one goes by its first name): give names as in its state, or a pattern "
                "such as '*.mlp.*'."
            )
        found = {
            name: parameter
            for name, parameter in named.items()
            if name in exact or any(fnmatch.fnmatchcase(name, pattern) for pattern in wild)
        }
        words = ", ".join(patterns) if len(patterns) <= 3 else f"{len(found)} parameters by name"
    if not found:
        raise UsageError("No parameter of the model is in the scope: choose all, or names or patterns of its parameters.")
    return found, words
