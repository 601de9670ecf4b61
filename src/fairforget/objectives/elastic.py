"""Terms that hold the weights near the base's: L2-SP and elastic weight consolidation, for full tuning and for low-rank factors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairforget.models.model import Model
from fairforget.objectives.likelihood import label_logits
from fairforget.progress import task
from fairforget.training.objective import Batch, Objective, Role
from fairforget.training.streams import Collator, Stream

FISHER_ROWS = 64


@dataclass(frozen=True)
class Adapter:
    """Low-rank factors on one linear module, (rank, in) and (out, rank); `name` is that of the weight in the plain model."""

    name: str
    weight: nn.Parameter
    first: nn.Parameter
    second: nn.Parameter
    scale: float
    transposed: bool

    def change(self) -> Tensor:
        """The change of the weight, stored as the weight is."""
        change = self.scale * (self.second @ self.first)
        return change.T if self.transposed else change


class _Anchored(Objective):
    """What both terms share: which weights are trained, and how far they are from the base's."""

    role: ClassVar[Role] = "regularize"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight, stream=None)
        self.anchors: dict[str, tuple[nn.Parameter, Tensor]] = {}
        self.adapters: list[Adapter] = []

    def prepare(self, model: Model) -> None:
        """Keep a copy of the weights that are trained; of adapters nothing needs keeping, since they start at no change."""
        self.adapters = list(find_adapters(model.hf))
        factors = {id(factor) for adapter in self.adapters for factor in (adapter.first, adapter.second)}
        self.anchors = {
            name: (parameter, parameter.detach().clone())
            for name, parameter in model.hf.named_parameters()
            if parameter.requires_grad and id(parameter) not in factors
        }

    def count(self, batch: Batch) -> int:
        """One: the term is of the parameters."""
        del batch
        return 1


class L2ToBase(_Anchored):
    """L2-SP: ½ ‖θ - θ₀‖² over what is trained (Li, Grandvalet, Davoine 2018, arXiv 1802.01483, eq. 3, with β = 0).

    For low-rank factors it is the distance of the product, ‖s·B·A‖² = s² tr((BᵀB)(AAᵀ)), without a dense matrix.
    """

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Half the squared distance."""
        del model, batch
        terms = [(parameter.float() - base.float()).square().sum() for parameter, base in self.anchors.values()]
        for adapter in self.adapters:
            first, second = adapter.first.float(), adapter.second.float()
            terms.append(adapter.scale**2 * ((second.T @ second) * (first @ first.T)).sum())
        return 0.5 * torch.stack(terms).sum()


class ElasticWeightConsolidation(_Anchored):
    """EWC: ½ Σ_j F_j (θ_j - θ₀_j)², F_j = mean over texts of (∂ log p(text) / ∂θ_j)² at the base (Kirkpatrick et al. 2017, eq. 3).

    The Fisher information is taken text by text, the square before the mean; a text's likelihood is that of its labelled tokens, of a
    question's answer for instance. Under low-rank tuning F is that of the adapted weights and the distance is that of the product.

    Args:
        stream: texts whose likelihood is to stay.
        weight: factor of the term.
        rows: texts that F is the mean over.
        cumulative: square the sum of the gradients so far at each text, as the released code of BERT-ASE does.
        drawn: labels are drawn from the base's own predictions, see :func:`fisher_information`.
        seed: of the draw.
    """

    def __init__(
        self, stream: Stream, weight: float = 1.0, rows: int = FISHER_ROWS, *, cumulative: bool = False, drawn: bool = False, seed: int = 0
    ) -> None:
        super().__init__(weight)
        self.texts, self.rows, self.cumulative, self.drawn, self.seed = stream, rows, cumulative, drawn, seed
        self.fisher: dict[str, Tensor] = {}

    def prepare(self, model: Model) -> None:
        """Compute the Fisher information of what is trained."""
        super().prepare(model)
        held = {name: parameter for name, (parameter, _) in self.anchors.items()} | {
            adapter.name: adapter.weight for adapter in self.adapters
        }
        self.fisher = fisher_information(
            model, self.texts, held, self.rows, cumulative=self.cumulative, drawn=self.drawn, seed=self.seed
        )

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Half the weighted squared distance."""
        del model, batch
        terms = [
            (self.fisher[name] * (parameter.float() - base.float()).square()).sum() for name, (parameter, base) in self.anchors.items()
        ]
        terms += [(self.fisher[adapter.name] * adapter.change().float().square()).sum() for adapter in self.adapters]
        return 0.5 * torch.stack(terms).sum()


def fisher_information(
    model: Model, stream: Stream, parameters: dict[str, nn.Parameter], rows: int = FISHER_ROWS, *, cumulative: bool = False,
    drawn: bool = False, seed: int = 0,
) -> dict[str, Tensor]:
    """Diagonal Fisher information, per text: the empirical one, of the texts' own labels, or one of drawn labels.

    Args:
        model: the model, at the point where the information is wanted.
        stream: texts.
        parameters: what it is taken of, by name; those that need no gradient are given one for the while.
        rows: number of texts, the first of the stream.
        cumulative: square the sum of the gradients so far in place of each text's own.
        drawn: draw each label from the model's prediction at its place, the context as it is in the text: an estimate, by one draw a
            text, of the Fisher information proper, which does not vanish on texts that the model is sure of.
        seed: of the draw.

    Returns:
        float32 tensors of the parameters' shapes: mean over texts of the squared gradient of the text's log-likelihood.
    """
    found = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()} if cumulative else {}
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    held = {id(parameter): parameter.grad for parameter in parameters.values()}
    was_training = model.hf.training
    model.hf.eval()
    collator, rows = Collator(model.pad_id), min(rows, len(stream))
    generator = torch.Generator().manual_seed(seed)
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with torch.enable_grad(), task("Fisher information", rows) as advance:
            for row in range(rows):
                batch = {field: tensor.to(model.device) for field, tensor in collator.batch([stream.example(row, 0)]).items()}
                logits, labels = label_logits(model, batch)
                if drawn:
                    predicted = torch.softmax(logits.detach().cpu(), dim=-1)
                    labels = torch.multinomial(predicted, 1, generator=generator).squeeze(1).to(labels.device)
                likelihood = torch.log_softmax(logits, dim=-1).gather(1, labels.unsqueeze(1)).sum()
                gradients = torch.autograd.grad(likelihood, list(parameters.values()), allow_unused=True, materialize_grads=True)
                for name, gradient in zip(parameters, gradients, strict=True):
                    if cumulative:
                        sums[name] = gradient = sums[name] + gradient
                    found[name] += gradient.float().square() / rows
                advance(1)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
            parameter.grad = held[id(parameter)]
        model.hf.train(was_training)
    return found


def find_adapters(hf: nn.Module) -> Iterator[Adapter]:
    """The trained LoRA factors of a model that PEFT wrapped."""
    for name, module in hf.named_modules():
        layer: Any = module
        factors: Any = getattr(layer, "lora_A", None)
        if factors is None:
            continue
        for adapter in layer.active_adapters:
            if adapter in factors and factors[adapter].weight.requires_grad:
                weight = layer.get_base_layer().weight
                yield Adapter(
                    f"{name}.weight", weight, factors[adapter].weight, layer.lora_B[adapter].weight, float(layer.scaling[adapter]),
                    transposed=tuple(weight.shape) != (layer.out_features, layer.in_features) or bool(layer.fan_in_fan_out),
                )
