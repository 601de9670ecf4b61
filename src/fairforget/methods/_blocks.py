"""The transformer blocks of a model, and in each the modules that editing, tracing and selecting need.

They are read from shapes and names of modules, never from the name of the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from fairforget.edits.sites import LinearAxes, linear_axes
from fairforget.errors import UsageError
from fairforget.models.hidden_sites import in_attention, transformer_blocks
from fairforget.models.model import Model

_ROLES = {
    "query": ("q_proj", "query", "q_lin", "query_proj", "q"),
    "key": ("k_proj", "key", "k_lin", "key_proj", "k"),
    "value": ("v_proj", "value", "v_lin", "value_proj", "v"),
    "fused": ("c_attn", "qkv_proj", "Wqkv"),
    "output": ("o_proj", "out_proj", "c_proj", "dense", "out_lin", "Wo", "o"),
}
"""Last part of the names of attention's linear modules, by what they compute; `fused` ones hold [query | key | value] one after another."""


@dataclass(frozen=True, eq=False)
class LinearModule:
    """A linear module: its dotted name in the whole model, itself, and its axes."""

    name: str
    module: nn.Module
    axes: LinearAxes


@dataclass(frozen=True, eq=False)
class Block:
    """One transformer block.

    Attributes:
        index: number from 0, as in the names of the parameters.
        name: dotted name in the whole model.
        module: the block.
        attention: linear modules of self-attention.
        mlp: all other linear modules.
    """

    index: int
    name: str
    module: nn.Module
    attention: tuple[LinearModule, ...]
    mlp: tuple[LinearModule, ...]

    def down(self, width: int) -> LinearModule:
        """The module that writes what the MLP found into the residual stream, the associative memory of Meng et al. 2022.

        Args:
            width: of the residual stream.

        Raises:
            UsageError: there is none, or several (a mixture of experts).
        """
        writing = [linear for linear in self.mlp if linear.axes.outputs == width]
        narrowing = [linear for linear in writing if linear.axes.inputs != width] or writing[-1:]
        if len(narrowing) != 1:
            raise UsageError(
                f"The block {self.name} has {len(narrowing)} modules that write an MLP's result, where one is needed: mixtures of experts "
                f"and blocks without an MLP cannot be edited in this way."
            )
        return narrowing[0]

    def role(self, role: str) -> LinearModule | None:
        """Attention's module of a role (``query``, ``key``, ``value``, ``fused``, ``output``), or None."""
        found = [linear for linear in self.attention if linear.name.rpartition(".")[2] in _ROLES[role]]
        return found[-1] if found else None

    def output(self) -> LinearModule:
        """Attention's output projection, whose input holds the heads one after another.

        Raises:
            UsageError: no module of a known name.
        """
        found = self.role("output")
        if found is None:
            names = ", ".join(linear.name.rpartition(".")[2] for linear in self.attention) or "none"
            raise UsageError(f"The attention of {self.name} has no output projection of a known name (its linear modules: {names}).")
        return found


def find_blocks(model: Model) -> list[Block]:
    """The blocks of a model in their order.

    Raises:
        UsageError: they cannot be found, or one block serves as every layer (ALBERT).
    """
    found = transformer_blocks(model)
    if found is None:
        layers = int(model.hf.config.get_text_config().num_hidden_layers)
        raise UsageError(
            f"{model.name} has {layers} layers but no list of {layers} blocks (some models share one block between layers): "
            f"what works by layer cannot be used on it."
        )
    place = next(name for name, module in model.hf.named_modules() if module is found)
    return [_block(index, f"{place}.{index}", module) for index, module in enumerate(found)]


def _block(index: int, name: str, module: nn.Module) -> Block:
    linears = [(inner, found, axes) for inner, found in module.named_modules() if (axes := linear_axes(found)) is not None]
    attention = tuple(LinearModule(f"{name}.{inner}", found, axes) for inner, found, axes in linears if in_attention(inner))
    mlp = tuple(LinearModule(f"{name}.{inner}", found, axes) for inner, found, axes in linears if not in_attention(inner))
    return Block(index, name, module, attention, mlp)


def residual_width(model: Model) -> int:
    """Width of the residual stream."""
    return int(model.hf.config.get_text_config().hidden_size)


def head_sizes(model: Model, block: Block) -> tuple[int, int, int]:
    """Number of query heads, number of key and value heads, and width of a head.

    Raises:
        UsageError: the input of the output projection is not a row of equal heads.
    """
    config = model.hf.config.get_text_config()
    heads = int(config.num_attention_heads)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    inputs = block.output().axes.inputs
    if inputs % heads or heads % shared:
        raise UsageError(f"The attention of {block.name} is not made of {heads} equal heads: the selector heads cannot be used on it.")
    return heads, shared, inputs // heads


def parse_layers(text: str, count: int) -> list[int]:
    """Layer numbers of ``4`` or ``2-4`` (both ends belong to it), from 0.

    Raises:
        UsageError: a layer that the model has not, or ends in the wrong order.
    """
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if low > high or high >= count:
        raise UsageError(f"layers {text}: this model has the layers 0 to {count - 1}; write one of them, or two as 0-{count - 1}.")
    return list(range(low, high + 1))


def mark(mask: Tensor, axes: LinearAxes, *, outputs: Iterable[int] = (), inputs: Iterable[int] = ()) -> None:
    """Set a mask of a linear module's weight to true at whole outputs or inputs, whichever way the weight is stored."""
    rows, columns = list(outputs), list(inputs)
    if axes.transposed:
        rows, columns = columns, rows
    if rows:
        mask[rows] = True
    if columns:
        mask[:, columns] = True
