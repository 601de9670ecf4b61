"""Edits from what training left behind: the difference of two sets of weights, or the factors of a LoRA.

Both take a sign: +1 is the fine-tuning itself, −1 its negation, the edit of a task vector (Ilharco et al. 2023, arXiv 2212.04089).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fairforget.edits.base import EditRecord
from fairforget.edits.deltas import Delta, Dense, LowRank
from fairforget.edits.sites import find_sites
from fairforget.edits.weight_edit import WeightEdit
from fairforget.errors import FairforgetError, UsageError, nearest_names

if TYPE_CHECKING:
    from fairforget.models.model import Model


def copy_parameters(hf: nn.Module, *, trainable_only: bool = True) -> dict[str, Tensor]:
    """Copy the parameters of a module to the processor's memory before training, tied ones once, for :func:`difference`.

    Args:
        hf: the module.
        trainable_only: leave out parameters that need no gradient.
    """
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in hf.named_parameters()
        if parameter.is_floating_point() and (parameter.requires_grad or not trainable_only)
    }


@torch.no_grad()
def restore_parameters(hf: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy parameters back to what :func:`copy_parameters` kept, to the last bit."""
    sites = find_sites(hf)
    for name, tensor in tensors.items():
        sites[name].parameter.copy_(tensor)


@torch.no_grad()
def difference(
    model: Model, base_tensors: Mapping[str, Tensor], trained: nn.Module | Mapping[str, Tensor], *, record: EditRecord, sign: float = 1.0
) -> WeightEdit:
    """The dense edit sign · (θ₁ − θ₀), one change per parameter, in float32.

    Tied weights count once, buffers are left alone, and parameters that did not move or are in one set only are left out.

    Args:
        model: the base, for the names and ties of its parameters.
        base_tensors: θ₀ by parameter name.
        trained: θ₁, as a module of the same class (which may be ``model.hf`` itself, trained in place) or by parameter name.
        record: of the edit, taken before training with :meth:`EditRecord.for_model`.
        sign: +1, or −1 for a task vector.

    Raises:
        UsageError: a name the model has not, a shape that changed, or nothing that moved.
        FairforgetError: the training ended in numbers that are not finite.
    """
    _check_sign(sign)
    sites = find_sites(model.hf)
    buffers = {name for name, _ in model.hf.named_buffers(remove_duplicate=False)}
    after = dict(trained.named_parameters(remove_duplicate=False)) if isinstance(trained, nn.Module) else trained
    deltas: dict[str, Delta] = {}
    for name, before in base_tensors.items():
        if name in buffers or name not in after or not before.is_floating_point():
            continue
        if name not in sites:
            raise UsageError(f"The model has no parameter '{name}', which was trained: {nearest_names(name, sites)}")
        now = after[name].detach()
        if now.shape != before.shape:
            raise UsageError(
                f"'{name}' had shape {tuple(before.shape)} and has {tuple(now.shape)} after training: an edit cannot resize a model "
                f"(embeddings are resized when tokens are added)."
            )
        canonical = sites[name].name
        if canonical in deltas:
            continue
        start, end = before.detach().cpu(), now.cpu()
        if not torch.equal(start, end):
            deltas[canonical] = Dense(_finite(canonical, (end.float() - start.float()) * sign))
    if not deltas:
        raise UsageError("Training changed no parameter of the model: raise the learning rate or the number of steps.")
    return WeightEdit(deltas, record)


@torch.no_grad()
def from_lora(peft_model: nn.Module, *, record: EditRecord, sign: float = 1.0, adapter: str | None = None) -> WeightEdit:
    """The low-rank edit sign · scaling · B · A of an injected PEFT LoRA, with PEFT's own scaling (alpha / r, or alpha / √r for rsLoRA).

    The sign goes into B alone: negating both factors would cancel.

    Args:
        peft_model: a ``PeftModel``, or a model that PEFT injected LoRA layers into.
        record: of the edit, taken before the injection with :meth:`EditRecord.for_model`.
        sign: +1, or −1 for a task vector.
        adapter: name of the adapter; the active one by default.

    Raises:
        UsageError: no LoRA in the model, or a variant that is not base + B · A on linear modules (DoRA, trained biases, saved modules,
            adapted embeddings, an initialisation that changes the base).
        FairforgetError: the training ended in numbers that are not finite.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from peft.utils import AuxiliaryTrainingWrapper

    _check_sign(sign)
    inner: nn.Module = peft_model.get_base_model() if isinstance(peft_model, PeftModel) else peft_model
    layers = [(name, module) for name, module in inner.named_modules() if isinstance(module, LoraLayer)]
    if not layers:
        raise UsageError("The model holds no LoRA layers, so there is no low-rank edit to take from it.")
    kept = next((name for name, module in inner.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)), None)
    if kept is not None:
        raise UsageError(
            f"'{kept}' was trained beside the LoRA (modules_to_save or trainable tokens), which a low-rank edit cannot hold: leave it out."
        )
    adapter = adapter or _active_adapter(layers[0][1])
    _check_plain(getattr(peft_model, "peft_config", {}).get(adapter))
    deltas: dict[str, Delta] = {}
    for name, layer in layers:
        if adapter in layer.lora_A:
            deltas[f"{name}.weight"] = _low_rank(f"{name}.weight", layer, adapter, sign)
        elif adapter in layer.lora_embedding_A:
            raise UsageError(f"'{name}' is an embedding; a low-rank edit takes linear modules only: leave it out of target_modules.")
    if not deltas:
        raise UsageError(f"The model holds no LoRA adapter named '{adapter}'.")
    return WeightEdit(deltas, record)


def _active_adapter(layer: Any) -> str:
    active: list[str] = list(layer.active_adapters)
    if len(active) != 1:
        raise UsageError(f"{len(active)} adapters are active ({', '.join(active)}): say which one with adapter=.")
    return active[0]


def _check_plain(config: Any) -> None:
    """Refuse LoRA variants whose change is not scaling · B · A over the untouched base."""
    if config is None:
        return
    start = config.init_lora_weights
    if isinstance(start, str) and start not in ("gaussian", "eva"):
        raise UsageError(f"init_lora_weights='{start}' changes the base before training, so B · A is not the change: use the default one.")
    if getattr(config, "bias", "none") != "none":
        raise UsageError(f"This LoRA trained biases too (bias='{config.bias}'), which a low-rank edit cannot hold: use bias='none'.")


def _low_rank(name: str, layer: Any, adapter: str, sign: float) -> LowRank:
    from peft.tuners.lora.layer import ParamWrapper

    if adapter in getattr(layer, "lora_variant", {}) or getattr(layer, "lora_bias", {}).get(adapter):
        raise UsageError(f"'{name}' has a LoRA variant (such as DoRA) or a LoRA bias: not a plain B · A, and not linear in strength.")
    a, b = (factors[adapter].weight.detach().to("cpu", torch.float32, copy=True) for factors in (layer.lora_A, layer.lora_B))
    if a.ndim != 2 or isinstance(layer, ParamWrapper):
        raise UsageError(f"'{name}' is not the weight of a linear module; leave it out of target_modules.")
    return LowRank(_finite(name, a), _finite(name, b * sign), scale=float(layer.scaling[adapter]))


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise FairforgetError(f"Training left numbers in '{name}' that are not finite: lower the learning rate and run it again.")
    return tensor


def _check_sign(sign: float) -> None:
    if sign not in (1.0, -1.0):
        raise UsageError(f"The sign of an edit is +1 or -1, not {sign}; how much of it is applied is its strength.")
