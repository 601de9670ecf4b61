"""Where hidden states leave a module: behind the whole body (what the head reads), or behind one of its blocks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from transformers.utils.generic import ModelOutput

from fairforget.errors import UsageError

if TYPE_CHECKING:
    from fairforget.models.model import Model

Layer: TypeAlias = int | Literal["final"]
"""``final``: what the head reads; k ≥ 0: what block k gives to the next one."""

PROBES = 16
"""Random states on which it is seen what a head reads."""


def hidden_site(model: Model, layer: Layer) -> nn.Module:
    """The module whose output is the hidden states of a layer.

    Raises:
        UsageError: the model has no such layer, or its blocks cannot be told (layers that share their weights).
    """
    body: nn.Module = model.hf.base_model
    if layer == "final":
        if body is model.hf:
            raise UsageError(f"The head of {model.name} cannot be told from its body, so its final hidden states cannot be reached.")
        return body
    found = transformer_blocks(model)
    if found is None:
        raise UsageError(f"The layers of {model.name} cannot be told apart: use layer=final.")
    if not 0 <= layer < len(found):
        raise UsageError(f"{model.name} has the layers 0 to {len(found) - 1} and 'final'; there is no layer {layer}.")
    return found[layer]


def transformer_blocks(model: Model) -> nn.ModuleList | None:
    """The list of the body's blocks, as many as its configuration says; None where there is none (layers that share their weights)."""
    count = int(getattr(model.hf.config.get_text_config(), "num_hidden_layers", 0))
    lists = [module for module in model.hf.base_model.modules() if isinstance(module, nn.ModuleList) and count and len(module) == count]
    return lists[0] if lists else None


def in_attention(name: str) -> bool:
    """Whether a module or parameter inside of a block belongs to attention, by its dotted name."""
    return re.search(r"attn|attention", name, re.IGNORECASE) is not None


def states_of(output: Any) -> Tensor:
    """The hidden states (batch, length, width) in what a body or block returned."""
    return output if isinstance(output, Tensor) else output[0]


def with_states(output: Any, states: Tensor) -> Any:
    """What a body or block returned, with other hidden states in it."""
    if isinstance(output, Tensor):
        return states
    if isinstance(output, ModelOutput):
        output[next(iter(output))] = states
        return output
    return (states, *output[1:])


@torch.no_grad()
def head_readers(model: Model) -> list[tuple[str, nn.Module]]:
    """The linear modules of the head, with their names, that read the final hidden states themselves.

    Seen, not guessed: random states go through the head, and every linear module outside the body is watched.
    """
    body = set(model.hf.base_model.modules())
    states = random_states(model)
    readers: dict[str, nn.Module] = {}

    def watch(name: str, module: nn.Module) -> Any:
        def note(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if arguments and isinstance(arguments[0], Tensor) and torch.equal(arguments[0].reshape(-1, states.shape[-1]), states):
                readers[name] = module

        return module.register_forward_pre_hook(note)

    linears = [
        (name, module) for name, module in model.hf.named_modules() if isinstance(module, nn.Linear | Conv1D) and module not in body
    ]
    handles = [watch(name, module) for name, module in linears if _inputs(module) == states.shape[-1]]
    try:
        model.head(states)
    finally:
        for handle in handles:
            handle.remove()
    return list(readers.items())


def random_states(model: Model) -> Tensor:
    """Seeded normal states (PROBES, width) in the model's type and on its device."""
    width = int(model.hf.config.get_text_config().hidden_size)
    return torch.randn((PROBES, width), generator=torch.Generator().manual_seed(0)).to(device=model.device, dtype=model.dtype)


def _inputs(module: nn.Linear | Conv1D) -> int:
    return int(module.nx) if isinstance(module, Conv1D) else module.in_features
