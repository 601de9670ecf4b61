"""Tuning with what it changes taken out of the model again: low-rank factors, all weights, or selected ones."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fairforget.data.starter import load_starter
from fairforget.edits import EditRecord, WeightEdit, copy_parameters, difference, from_ia3, from_lora, restore_parameters
from fairforget.errors import UsageError
from fairforget.models.model import Model
from fairforget.objectives.drift import Reference

if TYPE_CHECKING:
    from peft import PeftConfig

Run = Callable[[Reference], dict[str, Any]]
"""Trains the model that was made ready, given how to compute its base; returns what the record says of the training."""


def tune_lora(
    model: Model, record: EditRecord, run: Run, *, rank: int, alpha: float, dropout: float, targets: str | list[str], sign: float = 1.0
) -> WeightEdit:
    """Train low-rank factors and give them as an edit; the model is as before when this returns.

    Args:
        model: the base.
        record: of the edit, taken before.
        run: trains whatever requires a gradient.
        rank: rank of the factors.
        alpha: LoRA scaling; the change is alpha / rank · B · A.
        dropout: on the LoRA's input.
        targets: see :func:`lora_targets`.
        sign: +1, or -1 for what is to be subtracted.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=lora_targets(model, targets),
    )
    with adapted(model, config) as wrapped:
        outcome = run(wrapped.disable_adapter)
        edit = from_lora(wrapped, record=record, sign=sign)
    return edit.with_provenance({"training": outcome})


def tune_ia3(model: Model, record: EditRecord, run: Run, *, sign: float = 1.0) -> WeightEdit:
    """Train (IA)³ vectors on PEFT's modules for the architecture and give them as an edit; the model is as before when this returns.

    Args:
        model: the base.
        record: of the edit, taken before.
        run: trains whatever requires a gradient.
        sign: +1, or -1 for what is to be subtracted.

    Raises:
        UsageError: PEFT has no choice of modules for the architecture.
    """
    from peft import IA3Config
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING

    kind = model.hf.config.get_text_config().model_type
    if kind not in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        raise UsageError(f"PEFT knows no modules for (IA)³ in a {kind} model ({model.name}): use tuning=lora.")
    with adapted(model, IA3Config()) as wrapped:
        outcome = run(wrapped.disable_adapter)
        edit = from_ia3(wrapped, record=record, sign=sign)
    return edit.with_provenance({"training": outcome})


@contextlib.contextmanager
def adapted(model: Model, config: PeftConfig) -> Generator[Any]:
    """The model with a PEFT adapter in it, of which nothing is left when the block ends."""
    from peft import get_peft_model

    with gradient_flags(model.hf), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        wrapped: Any = get_peft_model(model.hf, config)  # type: ignore[arg-type]
        try:
            yield wrapped
        finally:
            model.hf.zero_grad(set_to_none=True)
            wrapped.unload()
            # PEFT marks the model it was in; a marked one would be saved and loaded as if it still had an adapter.
            for mark in ("peft_config", "_hf_peft_config_loaded"):
                if mark in vars(model.hf):
                    delattr(model.hf, mark)
            model.hf.eval()


def tune_weights(
    model: Model, record: EditRecord, run: Run, *, selected: contextlib.AbstractContextManager[Any] | None = None, sign: float = 1.0
) -> WeightEdit:
    """Train weights themselves and give their difference as an edit; the model is as before when this returns.

    Args:
        model: the base.
        record: of the edit, taken before.
        run: trains whatever requires a gradient.
        selected: within it only chosen parameters, or parts of them, are trained; all by default.
        sign: +1, or -1 for what is to be subtracted.
    """
    with gradient_flags(model.hf):
        for parameter in model.hf.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        with selected or contextlib.nullcontext():
            before = copy_parameters(model.hf)
            try:
                outcome = run(lambda: base_values(model.hf, before))
                edit = difference(model, before, model.hf, record=record, sign=sign)
            finally:
                model.hf.zero_grad(set_to_none=True)
                restore_parameters(model.hf, before)
                model.hf.eval()
    return edit.with_provenance({"training": outcome})


def lora_targets(model: Model, targets: str | list[str]) -> list[str] | str:
    """Module names for a LoRA.

    Args:
        model: the model.
        targets: ``attention`` (PEFT's choice for the architecture, else every linear), ``all-linear`` or names.

    Raises:
        UsageError: a name that ends no linear module's name.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    if targets == "attention":
        targets = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.hf.config.get_text_config().model_type, "all-linear")
    if isinstance(targets, str):
        return targets
    modules = [name for name, module in model.hf.named_modules() if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            known = sorted({name.rpartition(".")[2] for name in modules})
            raise UsageError(f"targets: the model has no linear module named '{target}'; it has {', '.join(known)}.")
    return list(targets)


NEUTRAL_SENTENCES = 2
"""Neutral sentences in a row, so that drift is limited after a stretch of context too and not at the start of a text alone."""


def neutral_texts(seed: int) -> list[str]:
    """Text on which a tuned model should stay as it is: stretches of the starter set's neutral sentences, in a seeded order."""
    sentences = [text.text for text in load_starter().neutral]
    order = np.random.default_rng(seed).permutation(len(sentences)).tolist()
    starts = range(0, len(order), NEUTRAL_SENTENCES)
    return [" ".join(sentences[index] for index in order[start : start + NEUTRAL_SENTENCES]) for start in starts]


@contextlib.contextmanager
def base_values(hf: nn.Module, base: Mapping[str, Tensor]) -> Generator[None]:
    """The base's values are in the model's parameters while the block runs.

    Values are exchanged, not copied: a graph that was recorded before must find the parameters as they were. Autocast keeps the rounded
    copy of a parameter for as long as its context lasts, whatever values the parameter has by then, so these are thrown away.
    """
    tuned = {name: parameter.data for name, parameter in hf.named_parameters()}
    for name, parameter in hf.named_parameters():
        if name in base:
            parameter.data = base[name].to(parameter.device)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        for name, parameter in hf.named_parameters():
            parameter.data = tuned[name]
        torch.clear_autocast_cache()


@contextlib.contextmanager
def gradient_flags(hf: nn.Module) -> Generator[None]:
    """Give every parameter its requires_grad back when the block ends."""
    flags = {name: parameter.requires_grad for name, parameter in hf.named_parameters()}
    try:
        with torch.enable_grad():
            yield
    finally:
        for name, parameter in hf.named_parameters():
            if name in flags:
                parameter.requires_grad_(flags[name])
