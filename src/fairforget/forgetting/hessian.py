"""Products of a loss's Hessian with vectors, by differentiating twice or by central differences of the gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairforget.errors import UsageError
from fairforget.forgetting.row_loss import Displacement, Loss
from fairforget.progress import track

Product: TypeAlias = Literal["auto", "autograd", "finite-difference"]
"""How a Hessian meets a vector; ``auto`` differentiates twice wherever eager attention can be switched on."""

STEPS: tuple[float, ...] = tuple(10.0 ** -(2 + half / 2) for half in range(8))
"""Steps tried, as shares of the norm of the scope's parameters, largest first."""
SWEPT_PARTS = 4
"""Batches that the sweep looks at: the best step is a matter of weights and arithmetic more than of rows."""


class Hessian:
    """H v for a loss at its present weights; ``hessian(v)`` takes and gives flat vectors over the scope.

    - ``autograd``: ∇(∇L · v), exact but for rounding; the graph of a batch's gradient is held. Fused attention kernels have no second
      derivative (pytorch issue 116350), so attention is eager meanwhile.
    - ``finite-difference``: (∇L(θ + ε v/‖v‖) − ∇L(θ − ε v/‖v‖)) ‖v‖ / 2ε, with any kernel and in the memory of training. ε is that of a
      sweep along the gradient, where curvature is high and too long a step shows first; see :func:`sweep_steps`.

    Args:
        loss: whose Hessian.
        product: how.
        step: ε, a distance in weight space; of the sweep by default.

    Attributes:
        product: ``autograd`` or ``finite-difference``, as chosen.
        step: ε, None under ``autograd``.

    Raises:
        UsageError: attention has no eager form, and ``autograd`` was asked for.
    """

    def __init__(self, loss: Loss, product: Product = "auto", step: float | None = None) -> None:
        self.loss = loss
        if product == "auto":
            product = "autograd" if _has_eager_attention(loss.network) else "finite-difference"
        self.product: Literal["autograd", "finite-difference"] = product
        self.step: float | None = None
        if product == "finite-difference":
            self.step = best_step(sweep_steps(loss)) if step is None else step
            if not self.step > 0:
                raise UsageError(f"The step of a central difference is a distance above 0, not {self.step}.")

    def __call__(self, vector: Tensor) -> Tensor:
        """H v, (size,)."""
        if self.step is None:
            return self._differentiated(vector)
        return central_difference(self.loss, vector, self.step)

    def quadratic(self, displacement: Displacement) -> NDArray[np.float64]:
        """Δᵀ H Δ of the summed loss of each cell, (cells,), in one pass over the rows: scalars are kept, not products."""
        loss = self.loss
        names = tuple(displacement)
        found = np.zeros(len(loss.cells))
        if self.step is not None:
            norm = float(np.sqrt(sum(float(delta.double().square().sum()) for delta in displacement.values())))
            share = self.step / norm
            with loss.moved(displacement) as move:
                move(share)
                ahead = loss.slopes(displacement)
                move(-share)
                return (ahead - loss.slopes(displacement)).sum(axis=1) / (2 * share)
        inner = loss.over(names)
        deltas = [displacement[name].to(parameter) for name, parameter in inner.parameters.items()]
        with inner.ready(), eager_attention(inner.network), _told():
            for part in track(inner.parts, "directional curvature", len(inner.parts)):
                curved = _second(part.total(), list(inner.parameters.values()), deltas)
                if curved is not None:
                    found[part.cell] += sum(
                        float((delta * product).sum(dtype=torch.float64)) for delta, product in zip(deltas, curved, strict=True)
                    )
        return found

    def _differentiated(self, vector: Tensor) -> Tensor:
        loss = self.loss
        flat = loss.zeros()
        views, parameters, pieces = loss.views(flat), list(loss.parameters.values()), loss.views(vector)
        with loss.ready(), eager_attention(loss.network), _told():
            for part in loss.parts:
                curved = _second(part.total(), parameters, pieces)
                for view, product in zip(views, curved or (), strict=curved is not None):
                    view.add_(product, alpha=1 / loss.units)
        return flat


def central_difference(loss: Loss, vector: Tensor, step: float) -> Tensor:
    """H v from two gradients a distance 2 · `step` apart, (size,)."""
    norm = float(vector.norm())
    if norm == 0:
        return loss.zeros()
    with loss.moved(loss.named(vector)) as move:
        move(step / norm)
        ahead = loss.gradient()
        move(-step / norm)
        ahead.sub_(loss.gradient())
    return ahead.mul_(norm / (2 * step))


def sweep_steps(loss: Loss, steps: Sequence[float] = STEPS) -> list[tuple[float, float]]:
    """How much products change from one step to the next, along the unit gradient.

    A long step errs by the third derivatives, a short one by rounding; between them neighbours agree.

    Args:
        loss: of which the first batches are used.
        steps: shares of the norm of the scope's parameters, in order.

    Returns:
        Step (a distance) and the mean of the relative differences ‖h − h'‖ / ‖h‖ to the products of its neighbours.
    """
    first = loss.beginning(SWEPT_PARTS)
    scale = float(np.sqrt(sum(float(parameter.detach().double().square().sum()) for parameter in first.parameters.values()))) or 1.0
    direction = first.gradient()
    if float(direction.norm()) == 0:
        direction = torch.randn(first.size, generator=torch.Generator().manual_seed(0), dtype=direction.dtype).to(direction.device)
    distances = [scale * step for step in steps]
    changes: list[float] = []
    before: Tensor | None = None
    for distance in track(distances, "step of central differences", len(distances)):
        product = central_difference(first, direction, distance)
        if before is not None:
            size = float(product.norm())
            # weights that a short step does not move at all would seem to agree
            changes.append(float((product - before).norm()) / size if size else float("inf"))
        before = product
    around = [changes[max(place - 1, 0) : place + 1] for place in range(len(distances))]
    return [(distance, float(np.mean(own))) for distance, own in zip(distances, around, strict=True)]


def best_step(sweep: Sequence[tuple[float, float]]) -> float:
    """The longest step whose products agree with their neighbours' within twice the best agreement.

    Rounding weighs more along directions of less curvature than the gradient's, so of equals the longest. Steps at the ends have one
    neighbour and are never taken.
    """
    inner = [(step, change if np.isfinite(change) else float("inf")) for step, change in sweep[1:-1]]
    best = min(change for _, change in inner)
    return max(step for step, change in inner if change <= 2 * best)


@contextlib.contextmanager
def eager_attention(network: nn.Module) -> Generator[None]:
    """Attention has second derivatives while the block runs; then the network's own kernel is back.

    Raises:
        UsageError: it has no eager form.
    """
    kernel = _kernel(network)
    if kernel == "eager":
        yield
        return
    switch: Any = getattr(network, "set_attn_implementation", None)
    if not _has_eager_attention(network):
        raise UsageError(
            f"The attention of this model ({kernel}) has no second derivative and no eager form: use finite-difference products."
        )
    switch("eager")
    try:
        yield
    finally:
        switch(kernel)


def _kernel(network: nn.Module) -> str:
    """Attention kernel of a transformers model; a plain module counts as eager."""
    return str(getattr(getattr(network, "config", None), "_attn_implementation", None) or "eager")


def _has_eager_attention(network: nn.Module) -> bool:
    return _kernel(network) == "eager" or hasattr(network, "set_attn_implementation")


def _second(total: Tensor, parameters: Sequence[Tensor], vector: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """∇(∇total · v) tensor by tensor, or None where the total is linear in the parameters."""
    if not total.requires_grad:
        return None
    gradients = torch.autograd.grad(total, parameters, create_graph=True, materialize_grads=True)
    slope = torch.stack([(gradient * piece).sum() for gradient, piece in zip(gradients, vector, strict=True)]).sum()
    return torch.autograd.grad(slope, parameters, materialize_grads=True) if slope.requires_grad else None


@contextlib.contextmanager
def _told() -> Generator[None]:
    """Turn torch's refusal of a second derivative into a sentence."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if "not implemented" not in text and "differentiate twice" not in text:
            raise
        raise UsageError(
            f"A part of this model has no second derivative ({text.splitlines()[0]}): use finite-difference products."
        ) from error
