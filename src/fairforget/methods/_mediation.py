"""Causal mediation by attention heads: how much of a pair's margin passes through each head (Vig et al. 2020, arXiv 2004.12265)."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairforget.methods._associations import Association, Sides, difference, gather_sides, in_batches
from fairforget.methods._blocks import Block, find_blocks, head_sizes
from fairforget.methods._tracing import corruption, draw_noise
from fairforget.models.model import Model
from fairforget.progress import task

NOISE = 3.0
"""Noise of the counterfactual run of `context` associations, in standard deviations of the embedding table (as in causal tracing)."""


@torch.inference_mode()
def head_effects(model: Model, associations: Sequence[Association], *, batch: int = 16, seed: int = 0) -> Tensor:
    """Mean natural indirect effect of every head, nats.

    With y = p(counterpart) / p(stereotype), the effect is log y with the head's output from a counterfactual run, less log y of the run
    itself: how far the margin falls when this head alone sees the other case. Of a ``span`` association the counterfactual of a text is
    its counterpart (each text in turn takes the head from the other, tokens aligned from both ends, and the two are averaged); of a
    ``context`` association, whose texts share their context, it is the same text with noise on the embeddings of that context. The paper
    averages the ratio y' / y - 1; its logarithm is taken here, since the ratio's mean is that of its few largest values.

    Args:
        model: causal or masked.
        associations: stereotype pairs as associations.
        batch: associations in a forward.
        seed: of the noise.

    Returns:
        Float64 (layers, heads); above 0 where a head favours the stereotype.

    Raises:
        UsageError: the model's attention is not made of equal heads.
    """
    blocks = find_blocks(model)
    sizes = [head_sizes(model, block) for block in blocks]
    total = torch.zeros((len(blocks), max(heads for heads, _, _ in sizes)), dtype=torch.float64)
    batches = in_batches(associations, batch)
    with task("mediation by heads", len(batches) * sum(heads for heads, _, _ in sizes)) as advance:
        for number, chosen in enumerate(batches):
            sides = gather_sides(model, chosen)
            inputs: dict[int, Tensor] = {}
            with _inputs_of(blocks, inputs):
                scores = sides.scores(model)
            counterfactual = _counterfactual(model, chosen, sides, blocks, inputs, seed + number)
            # Each side of a span in turn takes the head from the other: the mean of the two. Both sides of a context have one cause.
            factor = torch.tensor([0.5 if one.kind == "span" else 1.0 for one in chosen], device=scores.device)
            for layer, block in enumerate(blocks):
                heads, _, width = sizes[layer]
                for head in range(heads):
                    part = slice(head * width, (head + 1) * width)
                    with _head_from(block, part, counterfactual[layer]):
                        effect = difference(scores - sides.scores(model)) * factor
                    total[layer, head] += float(effect.double().sum())
                    advance(1)
    return total / len(associations)


def _counterfactual(
    model: Model, associations: Sequence[Association], sides: Sides, blocks: Sequence[Block], inputs: dict[int, Tensor], seed: int
) -> dict[int, Tensor]:
    """Inputs of the output projections in the counterfactual runs, aligned to the texts' own places."""
    noise = draw_noise(model, sides, NOISE, torch.Generator().manual_seed(seed))
    corrupted: dict[int, Tensor] = {}
    with _inputs_of(blocks, corrupted), corruption(model, sides, noise):
        model.hidden(sides.batch["ids"], sides.batch["mask"])
    rows, places = _aligned(associations, sides)
    swapped = torch.tensor([one.kind == "span" for one in associations for _ in one.sides], device=rows.device)[:, None, None]
    return {layer: torch.where(swapped, inputs[layer][rows, places], corrupted[layer]) for layer in inputs}


def _aligned(associations: Sequence[Association], sides: Sides) -> tuple[Tensor, Tensor]:
    """For every place of every side, the row and place of the other side that stand for it.

    Before the sites places are the same; from a site on they are counted from it, so that the last differing token stands for the other
    text's last one.
    """
    length = sides.batch["ids"].shape[1]
    rows = torch.arange(len(sides.sites)).unsqueeze(1).expand(-1, length).clone()
    places = torch.arange(length).expand(len(sides.sites), -1).clone()
    for number, association in enumerate(associations):
        for own, other in ((0, 1), (1, 0)):
            mine, theirs = association.sides[own], association.sides[other]
            first, shift = min(mine.site, theirs.site), theirs.site - mine.site
            for place in range(len(mine.ids)):
                moved = place if place < first else max(first, place + shift)
                if moved < len(theirs.ids):
                    rows[2 * number + own, place], places[2 * number + own, place] = 2 * number + other, moved
    return rows.to(sides.sites.device), places.to(sides.sites.device)


@contextlib.contextmanager
def _inputs_of(blocks: Sequence[Block], kept: dict[int, Tensor]) -> Generator[None]:
    """While the block runs, what enters attention's output projections is kept by layer."""

    def keeper(layer: int) -> Any:
        def keep(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            kept[layer] = args[0]

        return keep

    handles = [block.output().module.register_forward_pre_hook(keeper(layer)) for layer, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _head_from(block: Block, part: slice, values: Tensor) -> Generator[None]:
    """While the block runs, one head's output is taken from `values`."""

    def put(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mixed = args[0].clone()
        mixed[..., part] = values[..., part]
        return (mixed, *args[1:])

    handle = block.output().module.register_forward_pre_hook(put)
    try:
        yield
    finally:
        handle.remove()
