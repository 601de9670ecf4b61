"""Causal tracing: where in a network the preference for a stereotype passes through (Meng et al. 2022, arXiv 2202.05262, section 2).

Three runs: clean; corrupted, with noise on the embeddings of the tokens that a pair's margin comes from; and restored, corrupted but with
the clean values of one layer at some places. How far restoring brings the margin back is the indirect effect of these places there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import polars as pl
import torch
from torch import Tensor, nn

from fairforget.methods._associations import Association, Sides, gather_sides, in_batches
from fairforget.methods._blocks import Block, find_blocks, residual_width
from fairforget.models.hidden_sites import states_of, with_states
from fairforget.models.model import Model
from fairforget.progress import task

Part: TypeAlias = Literal["hidden", "mlp", "attention"]
PARTS: tuple[Part, ...] = ("hidden", "mlp", "attention")
ROLES = ("site", "source", "predicting", "other")
"""Places of a text: the key of the association, the corrupted tokens, those that predict what is scored, and all others; the first that
fits counts."""

TRACE_SCHEMA = {
    "pair": pl.Int64(),  # number of the pair in what was given
    "kind": pl.String(),  # context or span
    "part": pl.String(),  # what was restored: hidden (a block's output), mlp or attention (what these add)
    "layer": pl.Int64(),  # from 0; the middle of the window
    "role": pl.String(),  # at which places
    "clean": pl.Float64(),  # margin of the clean run, nats
    "corrupted": pl.Float64(),  # margin of the corrupted run, mean over noises
    "restored": pl.Float64(),  # margin with the clean values put back, mean over the same noises
}
"""Columns of a table of traces: one row per association, part, layer and role."""


@dataclass(frozen=True)
class Tracing:
    """How to trace.

    Attributes:
        noise: standard deviation of the noise, in those of the embedding table (3 in the paper).
        samples: draws of noise per association (10 in the paper).
        parts: what is restored.
        roles: at which places.
        window: layers restored together for ``mlp`` and ``attention``, centred (10 of GPT2-XL's 48 in the paper); hidden states always one.
        batch: associations in a forward.
    """

    noise: float = 3.0
    samples: int = 3
    parts: tuple[Part, ...] = PARTS
    roles: tuple[str, ...] = ROLES
    window: int = 1
    batch: int = 16


def trace(model: Model, associations: Sequence[Association], tracing: Tracing, *, seed: int = 0) -> pl.DataFrame:
    """Trace associations through a model.

    Args:
        model: causal or masked, in its present state.
        associations: what to trace.
        tracing: how.
        seed: of the noise; the two sides of an association get the same noise at the same place, so that shared text stays shared.

    Returns:
        A table of :data:`TRACE_SCHEMA`.

    Raises:
        UsageError: the blocks of the model cannot be found.
    """
    blocks, width = find_blocks(model), residual_width(model)
    rows: list[dict[str, Any]] = []
    batches = in_batches(associations, tracing.batch)
    runs = len(batches) * tracing.samples * len(tracing.parts) * len(blocks) * len(tracing.roles)
    with task("tracing", runs) as advance, torch.inference_mode():
        for number, chosen in enumerate(batches):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            rows += _trace_batch(model, chosen, blocks, width, tracing, generator, lambda: advance(1))
    return pl.DataFrame(rows, schema=TRACE_SCHEMA)


def summarise(traces: pl.DataFrame) -> pl.DataFrame:
    """Average indirect effect by part, layer and role.

    The effect of a row is how far restoring moves its margin from the corrupted toward the clean one, sign(clean - corrupted) · (restored -
    corrupted), and the total |clean - corrupted|: pairs that prefer the counterpart count like those that prefer the stereotype.

    Returns:
        Columns part, layer, role, ``effect`` (mean, nats), ``share`` (of the total effect) and ``associations`` (rows behind it).
    """
    total = pl.col("clean") - pl.col("corrupted")
    return (
        traces.with_columns(effect=total.sign() * (pl.col("restored") - pl.col("corrupted")), total=total.abs())
        .group_by("part", "layer", "role", maintain_order=True)
        .agg(pl.col("effect").mean(), share=pl.col("effect").sum() / pl.col("total").sum(), associations=pl.len())
    )


def strongest_layers(traces: pl.DataFrame, count: int) -> list[int]:
    """The run of `count` layers whose MLPs, at the key's place, carry the largest effect in sum; the whole network where it is shorter."""
    found = summarise(traces.filter((pl.col("part") == "mlp") & (pl.col("role") == "site"))).sort("layer")
    layers, effects = found["layer"].to_list(), found["effect"].to_list()
    count = min(count, len(layers))
    sums = [sum(effects[start : start + count]) for start in range(len(layers) - count + 1)]
    start = max(range(len(sums)), key=sums.__getitem__)
    return layers[start : start + count]


def _trace_batch(
    model: Model,
    associations: Sequence[Association],
    blocks: Sequence[Block],
    width: int,
    tracing: Tracing,
    generator: torch.Generator,
    advance: Callable[[], None],
) -> list[dict[str, Any]]:
    sides = gather_sides(model, associations)
    places = role_places(model, sides)
    traced: dict[Part, list[nn.Module]] = {part: [_module(block, part, width) for block in blocks] for part in tracing.parts}
    kept: dict[nn.Module, Tensor] = {}
    with recorded([module for modules in traced.values() for module in modules], kept):
        clean = sides.margins(model)
    noises = [draw_noise(model, sides, tracing.noise, generator) for _ in range(tracing.samples)]
    corrupted = torch.zeros_like(clean)
    for noise in noises:
        with corruption(model, sides, noise):
            corrupted += sides.margins(model) / len(noises)
    rows: list[dict[str, Any]] = []
    for part, modules in traced.items():
        window = 1 if part == "hidden" else tracing.window
        for layer in range(len(modules)):
            low = max(0, layer - window // 2)
            patched = modules[low : low + window]
            for role in tracing.roles:
                restored = torch.zeros_like(clean)
                for noise in noises:
                    with corruption(model, sides, noise), replaced({module: kept[module] for module in patched}, places[role]):
                        restored += sides.margins(model) / len(noises)
                    advance()
                margins = zip(associations, clean.tolist(), corrupted.tolist(), restored.tolist(), strict=True)
                rows += [
                    {
                        "pair": association.pair, "kind": association.kind, "part": part, "layer": layer, "role": role, "clean": before,
                        "corrupted": without, "restored": after,
                    }
                    for association, before, without, after in margins
                ]
    return rows


def role_places(model: Model, sides: Sides) -> dict[str, Tensor]:
    """Places of each role, bool (rows, length); every token has one role."""
    free = sides.batch["mask"].bool()
    site = torch.zeros_like(free)
    site[sides.rows, sides.sites] = True
    places: dict[str, Tensor] = {}
    for role, candidates in zip(ROLES, (site, sides.source, sides.predicting(model), free), strict=True):
        places[role] = candidates & free
        free = free & ~places[role]
    return places


def draw_noise(model: Model, sides: Sides, scale: float, generator: torch.Generator) -> Tensor:
    """Noise for a batch of sides, (rows, length, embedding width), equal for the two sides of an association."""
    table = _embeddings(model).get_parameter("weight")
    rows, length = sides.batch["ids"].shape
    drawn = torch.randn((rows // 2, length, table.shape[1]), generator=generator).repeat_interleave(2, dim=0)
    return (drawn * (scale * float(table.float().std()))).to(device=table.device, dtype=table.dtype)


@contextlib.contextmanager
def corruption(model: Model, sides: Sides, noise: Tensor) -> Generator[None]:
    """While the block runs the embeddings of the sides' sources carry the noise."""
    added = noise * sides.source.unsqueeze(-1)

    def add(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output + added

    handle = _embeddings(model).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def recorded(modules: Sequence[nn.Module], kept: dict[nn.Module, Tensor]) -> Generator[None]:
    """While the block runs, the states that each module returns are kept."""

    def keep(module: nn.Module, _args: Any, output: Any) -> None:
        kept[module] = states_of(output)

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def replaced(values: Mapping[nn.Module, Tensor], places: Tensor) -> Generator[None]:
    """While the block runs, modules return these values, (rows, length, width), at these places, (rows, length), else their own."""

    def put(module: nn.Module, _args: Any, output: Any) -> Any:
        return with_states(output, torch.where(places.unsqueeze(-1), values[module], states_of(output)))

    handles = [module.register_forward_hook(put) for module in values]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _embeddings(model: Model) -> nn.Module:
    return model.hf.get_input_embeddings()


def _module(block: Block, part: Part, width: int) -> nn.Module:
    if part == "hidden":
        return block.module
    return block.down(width).module if part == "mlp" else block.output().module
