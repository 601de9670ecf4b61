"""Losses with a known Hessian, and rows for tiny models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairforget.forgetting.row_loss import Loss, Part, row_loss
from fairforget.models import Model
from fairforget.objectives import CrossEntropy
from fairforget.training import TextStream

TEXTS = [
    "the nurse said that she would be late", "he is old", "the river is long and the hill is green", "a dog", "rain on the street",
    "the old doctor had his book", "a red bird by the river", "she was at home with her friend",
]
GROUPS = [("woman",), ("man", "age"), (), (), (), ("man", "age"), (), ("woman",)]


class Point(nn.Module):
    """Parameters and nothing else."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def quadratic(matrix: Tensor, values: Sequence[float]) -> Loss:
    """L = ½ θᵀ A θ."""
    point = Point(values)
    return Loss(point, [Part(0, 1, lambda: 0.5 * point.theta @ matrix @ point.theta)])


def text_loss(model: Model, *, grouped: bool = False, **options) -> Loss:
    """Cross-entropy of a model on TEXTS."""
    stream = TextStream(model, TEXTS, masking_rate=0.4)
    rows = [stream.example(index, 0) for index in range(len(stream))]
    return row_loss(model, rows, CrossEntropy(), groups=GROUPS if grouped else None, **options)


class DoubleCrossEntropy(CrossEntropy):
    """The same loss from the network's own logits, without rounding to float32."""

    def sum(self, model: Model, batch: dict[str, Tensor]) -> Tensor:
        logits = model.hf(input_ids=batch["ids"], attention_mask=batch["mask"]).logits
        labels = batch["labels"]
        if model.family == "causal":
            logits, labels = logits[:, :-1], labels[:, 1:]
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def double_loss(model: Model, **options) -> Loss:
    """Cross-entropy on TEXTS with everything in float64."""
    model.hf.double()
    stream = TextStream(model, TEXTS, masking_rate=0.4)
    rows = [stream.example(index, 0) for index in range(len(stream))]
    return row_loss(model, rows, DoubleCrossEntropy(), **options)


def random_step(model: Model, size: float, names: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    """A random displacement, of all parameters or of some."""
    generator = torch.Generator().manual_seed(1)
    chosen = {name: parameter for name, parameter in model.hf.named_parameters() if names is None or name in names}
    return {name: size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) for name, parameter in chosen.items()}
