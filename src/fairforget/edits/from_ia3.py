"""The edit that a trained (IA)³ leaves: vectors that scale activations, written as a change of the weights they scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fairforget.edits.base import EditRecord
from fairforget.edits.deltas import Delta, Dense
from fairforget.edits.weight_edit import WeightEdit
from fairforget.errors import FairforgetError, UsageError


@torch.no_grad()
def from_ia3(peft_model: nn.Module, *, record: EditRecord, sign: float = 1.0, adapter: str = "default") -> WeightEdit:
    """The dense edit sign · (l − 1) ⊙ W of an injected PEFT (IA)³ (Liu et al. 2022, arXiv 2205.05638, eq. 1).

    At strength s with sign −1 a weight is W · (1 − s(l − 1)), as if the vector were 1 − s(l − 1): the negation of Dige et al.'s released
    code, (1 + λ) − λl. Where a vector scales the output of a module, its bias is scaled with it.

    Args:
        peft_model: a model that PEFT injected (IA)³ layers into.
        record: of the edit, taken before the injection.
        sign: +1, or −1 for a task vector.
        adapter: name of the adapter.

    Raises:
        UsageError: no (IA)³ in the model, a quantised weight, or nothing that moved.
        FairforgetError: the training ended in numbers that are not finite.
    """
    from peft.tuners.ia3 import IA3Layer

    deltas: dict[str, Delta] = {}
    layers: list[tuple[str, Any]] = [(name, module) for name, module in peft_model.named_modules() if isinstance(module, IA3Layer)]
    if not layers:
        raise UsageError("The model holds no (IA)³ layers, so there is no edit to take from it.")
    for name, layer in layers:
        name = name.removeprefix("base_model.model.")
        vector: Tensor = layer.ia3_l[adapter].detach().float()
        if not bool(torch.isfinite(vector).all()):
            raise FairforgetError(f"Training left numbers in '{name}' that are not finite: lower the learning rate and run it again.")
        gain = (vector - 1.0) * sign
        if not bool(gain.any()):
            continue
        base = layer.get_base_layer()
        if not base.weight.is_floating_point():
            raise UsageError(f"'{name}' is quantised, and scaling its weight needs the weight itself: load it without --load-in-4bit.")
        stored = gain.T if layer.fan_in_fan_out else gain
        deltas[f"{name}.weight"] = Dense((stored * base.weight.detach().float()).cpu())
        if not layer.is_feedforward and base.bias is not None:
            deltas[f"{name}.bias"] = Dense((gain.flatten() * base.bias.detach().float()).cpu())
    if not deltas:
        raise UsageError("Training changed no (IA)³ vector: raise the learning rate or the number of steps.")
    return WeightEdit(deltas, record)
