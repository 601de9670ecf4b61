"""Orthogonal low-rank tuning: new factors read the input in directions that earlier ones do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from fairforget.errors import UsageError
from fairforget.models.model import Model
from fairforget.objectives.elastic import find_adapters
from fairforget.training.objective import Batch, Objective, Role


class OrthogonalFactors(Objective):
    """O-LoRA: Σ |A_prev A_newᵀ| over all entries of all shared modules (Wang et al. 2023, arXiv 2310.14152; as in the released code).

    What an earlier change reads of an input is its projection on the rows of A_prev; where the product is 0 the new change reads nothing
    of it. The released runs take a weight λ₁ of 0.5, some of 5. Modules that an earlier change left alone are free.

    Args:
        earlier: for each earlier change, by a name for messages, its factors A (rank, in) by the name of the weight they change.
        weight: λ₁.
    """

    role: ClassVar[Role] = "regularize"

    def __init__(self, earlier: Mapping[str, Mapping[str, Tensor]], weight: float = 0.5) -> None:
        super().__init__(weight, stream=None)
        self.earlier = {name: dict(factors) for name, factors in earlier.items()}
        self._pairs: list[tuple[Tensor, nn.Parameter]] = []

    def prepare(self, model: Model) -> None:
        """Find the new factors that go with the earlier ones.

        Raises:
            UsageError: there are no low-rank factors, they share no module with an earlier change, or the sizes differ.
        """
        new = {adapter.name: adapter.first for adapter in find_adapters(model.hf)}
        if not new:
            raise UsageError("Factors can be orthogonal to earlier ones only where low-rank factors are trained: set method.tuning=lora.")
        self._pairs = []
        for name, factors in self.earlier.items():
            shared = [weight for weight in factors if weight in new]
            if not shared:
                raise UsageError(
                    f"orthogonal_to: {name} changed other modules ({_few(factors)}) than are tuned now ({_few(new)}): tune the same ones "
                    "(method.targets), or leave it out."
                )
            for weight in shared:
                if factors[weight].shape[1] != new[weight].shape[1]:
                    raise UsageError(
                        f"orthogonal_to: {name} reads {factors[weight].shape[1]} inputs at '{weight}', where this model has "
                        f"{new[weight].shape[1]}: it is an edit of another model."
                    )
                self._pairs.append((factors[weight].to(new[weight].device, torch.float32), new[weight]))

    def count(self, batch: Batch) -> int:
        """One: the term is of the parameters."""
        del batch
        return 1

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed absolute products of the rows."""
        del model, batch
        return torch.stack([(before @ now.float().T).abs().sum() for before, now in self._pairs]).sum()


def _few(names: Mapping[str, object]) -> str:
    """The last parts of module names, each once."""
    return ", ".join(dict.fromkeys(name.removesuffix(".weight").rpartition(".")[2] for name in names))
