"""The two gradients of a batch of pairs, of which only one is ever held whole, and statistics of retained text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fairforget.errors import FairforgetError
from fairforget.methods._pcgu_ranking import Update
from fairforget.methods._pcgu_vectors import VectorPartition, VectorTensor, vector_sums
from fairforget.models.model import Model
from fairforget.objectives import token_log_probabilities
from fairforget.training import IGNORED, Batch

Preference = Literal["log-probability", "logit"]


class NonFiniteGradientError(FairforgetError):
    """A gradient is infinite or not a number."""


@dataclass(frozen=True)
class PairBatch:
    """Some pairs of an update: both sides, and the factor of each pair in the objective."""

    advantaged: Batch
    disadvantaged: Batch
    weights: Tensor
    """float32 (pairs,)."""

    def halves(self) -> tuple[Batch, Batch]:
        """The disadvantaged and the advantaged side."""
        return self.disadvantaged, self.advantaged


@dataclass(frozen=True)
class Contrast:
    """What an update is made of.

    Attributes:
        direction: u by parameter name; the step is −η u.
        sums: float32 (3, vectors), ⟨G_dis, G_adv⟩, ‖G_dis‖², ‖G_adv‖².
        present: bool (vectors,), whether both gradients exist.
        margin: mean of J_adv − J_dis over the pairs, before the update.
    """

    direction: dict[str, Tensor]
    sums: Tensor
    present: Tensor
    margin: float


def preferences(model: Model, batch: Batch, preference: Preference) -> Tensor:
    """How much the model prefers each text, its mean over the labelled tokens: log p (natural), or the raw logit (Yu et al. 2023).

    Returns:
        float32 (rows,).
    """
    values = token_log_probabilities(model, batch) if preference == "log-probability" else _token_logits(model, batch)
    labels = batch["labels"][:, 1:] if model.family == "causal" else batch["labels"]
    labelled = labels != IGNORED
    rows = labelled.nonzero()[:, 0]
    return torch.zeros(len(labels), device=values.device).index_add(0, rows, values) / labelled.sum(dim=1)


def _token_logits(model: Model, batch: Batch) -> Tensor:
    hidden, labels = model.hidden(batch["ids"], batch["mask"]), batch["labels"]
    if model.family == "causal":
        hidden, labels = hidden[:, :-1], labels[:, 1:]
    chosen = labels != IGNORED
    return model.head(hidden[chosen]).float().gather(1, labels[chosen].unsqueeze(1)).squeeze(1)


def contrast(
    model: Model, partition: VectorPartition, batches: Sequence[PairBatch], *, update: Update, preference: Preference, blocks: int = 1
) -> Contrast:
    """Both gradients of Σ_i w_i J_i over the pairs of one update, with one of them in memory.

    The gradient that the step is made of is summed in the parameters' ``grad`` and kept. The other one is met tensor by tensor: as soon as
    the backward pass has finished a parameter, its three sums are taken and it is freed. Over several micro-batches a norm is known at the
    last one only, so that a second gradient would build up; `blocks` > 1 repeats the second pass for a share of the parameters at a time.

    Args:
        model: with the gradients of its parameters empty; they are empty again when this returns.
        partition: the vectors.
        batches: micro-batches of the update.
        update: which direction is kept.
        preference: J.
        blocks: in how many parts the second gradient is found.

    Raises:
        NonFiniteGradientError: a gradient is not.
    """
    keep_disadvantaged = update == "disadvantaged"
    subtract = update in ("contrast", "dynamic")
    kept_sides = [batch.halves()[0 if keep_disadvantaged else 1] for batch in batches]
    other_sides = [batch.halves()[1 if keep_disadvantaged else 0] for batch in batches]
    weights = [batch.weights for batch in batches]

    preferred = sum(_backward(model, side, factors, preference) for side, factors in zip(kept_sides, weights, strict=True))
    kept: dict[str, Tensor] = {}
    for tensor in partition:
        if tensor.parameter.grad is not None:
            kept[tensor.name], tensor.parameter.grad = tensor.parameter.grad, None

    device = partition.tensors[0].parameter.device
    sums = torch.zeros((3, partition.count), device=device)
    present = torch.zeros(partition.count, dtype=torch.bool, device=device)

    def met(tensor: VectorTensor) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            other, own = parameter.grad, kept.get(tensor.name)
            parameter.grad = None
            if other is None or own is None:
                return
            pair = (own, other) if keep_disadvantaged else (other, own)
            sums[:, tensor.span] = vector_sums(*pair, tensor.along).to(device)
            present[tensor.span] = True
            if subtract:
                own.sub_(other)

        return hook

    opposed = 0.0
    size = -(-len(partition.tensors) // blocks)
    for start in range(0, len(partition.tensors), size):
        block = partition.tensors[start : start + size]
        opposed = 0.0
        with _only(partition, block):
            for number, (side, factors) in enumerate(zip(other_sides, weights, strict=True), start=1):
                last = number == len(other_sides)
                handles = [tensor.parameter.register_post_accumulate_grad_hook(met(tensor)) for tensor in block] if last else []
                try:
                    opposed += _backward(model, side, factors, preference)
                finally:
                    for handle in handles:
                        handle.remove()
            for tensor in block:  # had a part in an earlier micro-batch and none in the last, as an expert may
                if tensor.parameter.grad is not None:
                    met(tensor)(tensor.parameter)
    if not bool(torch.isfinite(sums).all()):
        raise NonFiniteGradientError(
            "PCGU's gradients are not finite: lower method.learning_rate, or load the model in float32; the base is unchanged."
        )
    if keep_disadvantaged:
        for gradient in kept.values():
            gradient.neg_()
    margin = (preferred - opposed) / sum(len(factors) for factors in weights)
    return Contrast(kept, sums, present, -margin if keep_disadvantaged else margin)


def _backward(model: Model, batch: Batch, weights: Tensor, preference: Preference) -> float:
    """Add the gradient of Σ_i w_i J_i to what the parameters hold; returns Σ_i J_i."""
    found = preferences(model, batch, preference)
    if found.requires_grad:  # a block of parameters may have no part in it
        (found * weights).sum().backward()
    return float(found.detach().sum())


@contextlib.contextmanager
def _only(partition: VectorPartition, block: Sequence[VectorTensor]) -> Generator[None]:
    """Only the parameters of a block require gradients while this runs."""
    chosen = {tensor.name for tensor in block}
    try:
        for tensor in partition:
            tensor.parameter.requires_grad_(tensor.name in chosen)
        yield
    finally:
        for tensor in partition:
            tensor.parameter.requires_grad_(True)


@dataclass(frozen=True)
class RetainStatistics:
    """Gradient and diagonal Fisher information of the cross-entropy on retained text, kept in the processor's memory.

    Attributes:
        gradient: g_ret by parameter name, of the mean over tokens.
        fisher: mean over batches of the squared gradient (an empirical Fisher with batches for examples).
    """

    gradient: dict[str, Tensor]
    fisher: dict[str, Tensor]

    @classmethod
    def of(cls, model: Model, partition: VectorPartition, batches: Sequence[Batch]) -> RetainStatistics:
        """One pass over retained text; each batch counts the same."""
        gradient = {tensor.name: torch.zeros(tensor.parameter.shape) for tensor in partition}
        fisher = {name: torch.zeros_like(value) for name, value in gradient.items()}
        for batch in batches:
            (-token_log_probabilities(model, batch).mean()).backward()
            for tensor in partition:
                if (found := tensor.parameter.grad) is not None:
                    found = found.to("cpu", torch.float32)
                    gradient[tensor.name].add_(found, alpha=1 / len(batches))
                    fisher[tensor.name].addcmul_(found, found, value=1 / len(batches))
                    tensor.parameter.grad = None
        return cls(gradient, fisher)

    def along(self, partition: VectorPartition, direction: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """⟨g_ret, u⟩ and Σ F_j u_j² of every vector, float32 (vectors,)."""
        products, curvatures = torch.zeros(partition.count), torch.zeros(partition.count)
        for tensor in partition:
            if tensor.name in direction:
                step = direction[tensor.name].to("cpu", torch.float32)
                products[tensor.span] = vector_sums(self.gradient[tensor.name], step, tensor.along)[0]
                curvatures[tensor.span] = vector_sums(self.fisher[tensor.name], step.square(), tensor.along)[0]
        return products, curvatures
