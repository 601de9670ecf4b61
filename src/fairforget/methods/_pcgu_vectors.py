"""PCGU's partition: every parameter as vectors along a semantic axis, and the three sums per vector that its cosine needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fairforget.edits.sites import Site, find_sites, stored_transposed
from fairforget.errors import UsageError

Aggregation = Literal["input", "output"]

_BLOCK = 1 << 22
"""Numbers of a tensor that are multiplied at once: what a product takes beside the gradients stays under 16 MB in float32."""


@dataclass(frozen=True, eq=False)
class VectorTensor:
    """One parameter as vectors.

    Attributes:
        name: of the parameter, the first of its names.
        parameter: the tensor.
        along: axis of the stored tensor that a vector runs along.
        count: number of vectors.
        first: number of its first vector in the whole partition.
    """

    name: str
    parameter: nn.Parameter
    along: int
    count: int
    first: int

    @property
    def span(self) -> slice:
        """Its vectors in the numbering of the partition."""
        return slice(self.first, self.first + self.count)

    def rows(self, tensor: Tensor) -> Tensor:
        """A view of a tensor of this shape with vectors along the last axis: (..., length), the leading axes being those of `lead`."""
        return tensor.unsqueeze(0) if tensor.ndim == 1 else tensor.movedim(self.along, -1)

    def places(self, numbers: Tensor) -> tuple[Tensor, ...]:
        """Indices into :meth:`rows` of the vectors with these numbers, counted within the tensor."""
        return tuple(torch.unravel_index(numbers, self.rows(self.parameter).shape[:-1]))


class VectorPartition:
    """The vectors of all trainable floating parameters of a module, numbered through; tied weights count once.

    A matrix gives a vector of its inputs per output (``input``, the default of both released implementations) or the other way round
    (``output``), whatever way it is stored: GPT-2's Conv1D holds (in, out). An embedding gives its rows, or columns. A parameter with one
    axis is one vector. Of a tensor with more axes every index of the others gives one (Yu et al. 2023, section 3).

    Args:
        hf: the module; tensors may be on the meta device, where only counting makes sense.
        aggregation: axis that is summed over.

    Raises:
        UsageError: a parameter is a single number, or nothing is trainable.
    """

    def __init__(self, hf: nn.Module, aggregation: Aggregation = "input") -> None:
        sites = find_sites(hf)
        tensors: list[VectorTensor] = []
        first = 0
        for name, parameter in hf.named_parameters():
            if not parameter.requires_grad or not parameter.is_floating_point():
                continue
            along = _axis(sites[name], aggregation)
            count = 1 if parameter.ndim == 1 else parameter.numel() // parameter.shape[along]
            tensors.append(VectorTensor(name, parameter, along, count, first))
            first += count
        if not tensors:
            raise UsageError("The model has no trainable parameter that could be cut into vectors.")
        self.tensors = tuple(tensors)
        self.count = first

    def __iter__(self) -> Iterator[VectorTensor]:
        return iter(self.tensors)


def _axis(site: Site, aggregation: Aggregation) -> int:
    dimensions = site.parameter.ndim
    if dimensions == 0:
        raise UsageError(f"'{site.name}' is a single number and has no vectors: freeze it (requires_grad=False) before PCGU.")
    if dimensions == 1:
        return 0
    last = (aggregation == "input") != stored_transposed(site)
    return dimensions - 1 if last else dimensions - 2


@torch.no_grad()
def vector_sums(first: Tensor, second: Tensor, along: int) -> Tensor:
    """⟨a, b⟩, ⟨a, a⟩ and ⟨b, b⟩ of every vector of two tensors.

    The sums add up over pieces of a tensor, so a tensor cut over processes (a ``DTensor``, along any axis) gives the sums of the whole:
    each process sums what it holds, and one all-reduce adds them.

    Args:
        first: (…) floating.
        second: the same shape.
        along: axis of the vectors.

    Returns:
        float32 (3, number of vectors), in the order of the other axes.
    """
    if hasattr(first, "full_tensor"):
        return torch.stack([_whole(_product(*pair, along)) for pair in ((first, second), (first, first), (second, second))])
    if first.ndim == 1:
        return torch.stack([_product(*pair, 0).reshape(1) for pair in ((first, second), (first, first), (second, second))])
    along %= first.ndim
    across = 1 if along == 0 else 0
    width = max(1, _BLOCK * first.shape[across] // max(first.numel(), 1))
    pieces = [
        torch.stack([_product(a, b, along), _product(a, a, along), _product(b, b, along)])
        for a, b in zip(first.split(width, across), second.split(width, across), strict=True)
    ]
    return torch.cat(pieces, dim=1).flatten(1)


def _product(first: Tensor, second: Tensor, along: int) -> Tensor:
    return (first.float() * second.float()).sum(along)


def _whole(total: Any) -> Tensor:
    return total.full_tensor().flatten()


def cosines(sums: Tensor) -> Tensor:
    """Cosine of every vector from its three sums, as ``torch.nn.functional.cosine_similarity`` defines it (norms of at least 1e-8).

    Args:
        sums: (3, vectors).

    Returns:
        (vectors,); a vector of zeros has cosine 0.
    """
    dot, first, second = sums
    return dot / (first.sqrt().clamp_min(1e-8) * second.sqrt().clamp_min(1e-8))
