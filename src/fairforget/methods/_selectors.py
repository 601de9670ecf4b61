"""Selectors of selective fine-tuning: which parameters, or parts of them, have to do with what is to be changed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairforget.edits.sites import find_sites
from fairforget.errors import UsageError, unknown_name
from fairforget.methods._associations import Association, find_associations
from fairforget.methods._blocks import Block, LinearModule, find_blocks, head_sizes, mark, parse_layers, residual_width
from fairforget.methods._importance import contrastive_gradients, fisher_ratio, largest, neuron_attributions
from fairforget.methods._mediation import head_effects
from fairforget.methods._tuning import neutral_texts
from fairforget.models.model import Model
from fairforget.training import TextStream
from fairforget.training.selection import Selection

SELECTORS = ("all", "attention", "mlp", "half", "layers", "heads", "neurons", "contrastive-gradient", "fisher-ratio")
"""Names of selectors; ``layers`` is written with its numbers, ``layers:2-4``."""

PAIRS = {"heads": 16, "neurons": 16, "contrastive-gradient": 128, "fisher-ratio": 64}
"""Pairs, drawn by the seed, that a selector looks at; heads and neurons cost a forward per head or a backward per layer and step."""

NEUTRAL_ROWS = 64
"""Neutral texts behind the divisor of the Fisher ratio."""

_LAYERS = re.compile(r"layers:(\d+(?:-\d+)?)")


def find_selection(model: Model, selector: str, data: Sequence[tuple[str, str]], *, share: float = 0.1, seed: int = 0) -> Selection:
    """Find what a selector selects; the model is left as it was.

    - ``all``: every parameter. ``attention``, ``mlp``: the linear modules of that kind in every block, with their biases. ``layers:2-4``:
      all parameters of these blocks, from 0, both ends included.
    - ``half``: in every block half of the modules of attention, of the MLP and of the norms, drawn by the seed (half fine-tuning).
    - ``heads``: the share of attention heads with the largest natural indirect effect on the pairs' margins: rows of query, key and value
      (those of a key and value head where any of the query heads that share it is chosen) and columns of the output projection.
    - ``neurons``: the share of MLP neurons with the largest integrated gradient of the margins: their rows in the modules before and their
      columns in the down-projection.
    - ``contrastive-gradient``, ``fisher-ratio``: the share of single parameters with the largest score.

    Args:
        model: the base.
        selector: one of these.
        data: stereotype and counterpart; the last four selectors need them.
        share: of heads, neurons or parameters.
        seed: of the draw of modules or pairs, and of noise.

    Raises:
        UsageError: no such selector, no pairs where they are needed, a share out of range, or a model that the selector cannot read.
    """
    if not 0 < share <= 1:
        raise UsageError(f"The selected share must be above 0 and at most 1, not {share:g}.")
    layers = _LAYERS.fullmatch(selector)
    if layers is None and (selector not in SELECTORS or selector == "layers"):
        raise unknown_name("selector", selector, [name if name != "layers" else "layers:2-4" for name in SELECTORS])
    facts: dict[str, Any] = {"selector": selector}
    if selector == "all":
        return Selection(tuple(name for name, parameter in model.hf.named_parameters() if parameter.is_floating_point()), facts=facts)
    if layers is not None:
        blocks = find_blocks(model)
        chosen = [blocks[number] for number in parse_layers(layers[1], len(blocks))]
        names = [f"{block.name}.{name}" for block in chosen for name, _ in block.module.named_parameters()]
        return Selection(_canonical(model, names), facts=facts)
    if selector in ("attention", "mlp"):
        linears = [linear for block in find_blocks(model) for linear in (block.attention if selector == "attention" else block.mlp)]
        names = [f"{linear.name}.{name}" for linear in linears for name, _ in linear.module.named_parameters()]
        return Selection(_canonical(model, names), facts=facts)
    if selector == "half":
        names, drawn = draw_half(find_blocks(model), seed)
        return Selection(_canonical(model, names), facts={**facts, "modules": drawn})
    associations = _associations(model, selector, data, seed)
    finders: dict[str, Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]] = {
        "heads": lambda: _heads(model, associations, share, seed),
        "neurons": lambda: _neurons(model, associations, share),
        "contrastive-gradient": lambda: (largest(contrastive_gradients(model, associations), share), {}),
        "fisher-ratio": lambda: (largest(_fisher(model, associations, seed), share), {}),
    }
    masks, found = finders[selector]()
    return Selection(masks=masks, facts={**facts, "share": share, "associations": len(associations), **found})


def _associations(model: Model, selector: str, data: Sequence[tuple[str, str]], seed: int) -> list[Association]:
    if not data:
        raise UsageError(
            f"The selector {selector} compares stereotypes with their counterparts, and the training data give none: use a source with "
            f"counterparts (starter, stereoset), or the selector attention, mlp or layers."
        )
    order = np.random.default_rng([seed, 13]).permutation(len(data))[: PAIRS[selector]].tolist()
    return find_associations(model, [data[index] for index in order])


def _canonical(model: Model, names: Sequence[str]) -> tuple[str, ...]:
    """Each parameter once, under the name that ``named_parameters`` gives it."""
    sites = find_sites(model.hf)
    return tuple(dict.fromkeys(sites[name].name for name in names if sites[name].parameter.is_floating_point()))


def draw_half(blocks: Sequence[Block], seed: int) -> tuple[list[str], dict[str, list[int]]]:
    """Half of the parameters of every block, by category (Hui et al. 2024, arXiv 2404.18466).

    The categories are linear modules of attention, those of the MLP (and whatever else holds a matrix), and norms; a module's weight and
    bias go together. Of an odd number the one in the middle is trained in half of the blocks. What is outside of the blocks, embeddings
    and head, stays as it is (ours). The paper draws anew at every stage of training: give every stage its seed.

    Args:
        blocks: of the model.
        seed: of the draw.

    Returns:
        Names of the parameters, and for each category the number of modules drawn and of all.
    """
    generator = np.random.default_rng([seed, 17])
    kinds: dict[str, list[list[str]]] = {"attention": [], "mlp": [], "norms": []}
    holders: dict[str, list[str]] = {}
    for block in blocks:
        linear = {id(one.module): kind for kind, modules in (("attention", block.attention), ("mlp", block.mlp)) for one in modules}
        found: dict[str, list[str]] = {kind: [] for kind in kinds}
        for name, module in block.module.named_modules(prefix=block.name):
            own = dict(module.named_parameters(recurse=False))
            if own:
                matrix = any(parameter.ndim > 1 for parameter in own.values())
                found[linear.get(id(module), "mlp" if matrix else "norms")].append(name)
                holders[name] = [f"{name}.{parameter}" for parameter in own]
        for kind, names in found.items():
            kinds[kind].append(names)
    chosen: list[str] = []
    facts: dict[str, list[int]] = {}
    for kind, groups in kinds.items():
        fuller = set(generator.permutation(len(groups))[: len(groups) // 2].tolist())
        drawn: list[str] = []
        for number, names in enumerate(groups):
            take = len(names) // 2 + (len(names) % 2 if number in fuller else 0)
            drawn += [names[place] for place in sorted(generator.permutation(len(names))[:take].tolist())]
        facts[kind] = [len(drawn), sum(len(names) for names in groups)]
        chosen += [parameter for name in drawn for parameter in holders[name]]
    return chosen, facts


def _heads(model: Model, associations: Sequence[Association], share: float, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    effects = head_effects(model, associations, seed=seed)
    blocks = find_blocks(model)
    order = effects.flatten().argsort(descending=True, stable=True)[: max(1, round(share * effects.numel()))].tolist()
    chosen = [divmod(index, effects.shape[1]) for index in order]
    masks: dict[str, Tensor] = {}
    for layer, head in chosen:
        mark_head(model, blocks[layer], head, masks)
    return masks, {"heads": [[layer, head, round(float(effects[layer, head]), 5)] for layer, head in chosen]}


def mark_head(model: Model, block: Block, head: int, masks: dict[str, Tensor]) -> None:
    """Set masks to true at the parameters of one query head, and of the key and value head that it reads.

    Raises:
        UsageError: query, key and value cannot be told apart in this attention.
    """
    heads, shared, width = head_sizes(model, block)
    group = head // (heads // shared)
    own, read = range(head * width, (head + 1) * width), range(group * width, (group + 1) * width)
    fused = block.role("fused")
    if fused is not None:
        starts = (0, heads * width, (heads + shared) * width)
        if fused.axes.outputs != (heads + 2 * shared) * width:
            raise UsageError(f"'{fused.name}' is not query, key and value one after another: the selector heads cannot be used on it.")
        rows = [start + index for start, part in zip(starts, (own, read, read), strict=True) for index in part]
        _mark_linear(masks, fused, rows)
    else:
        for role, part in (("query", own), ("key", read), ("value", read)):
            linear = block.role(role)
            if linear is None:
                names = ", ".join(one.name.rpartition(".")[2] for one in block.attention)
                raise UsageError(
                    f"The attention of {block.name} has no {role} module of a known name (it has {names}; fused ones that alternate by "
                    f"head cannot be cut): use the selector attention."
                )
            _mark_linear(masks, linear, part)
    output = block.output()
    mark(_mask(masks, output, "weight"), output.axes, inputs=own)


def _neurons(model: Model, associations: Sequence[Association], share: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
    scores = neuron_attributions(model, associations)
    blocks, width = find_blocks(model), residual_width(model)
    chosen = largest({str(layer): values.clamp_min(0) for layer, values in enumerate(scores)}, share)
    masks: dict[str, Tensor] = {}
    for layer, mask in chosen.items():
        mark_neurons(blocks[int(layer)], mask.nonzero()[:, 0].tolist(), width, masks)
    return masks, {"neurons": {layer: int(mask.sum()) for layer, mask in chosen.items()}}


def mark_neurons(block: Block, neurons: Sequence[int], width: int, masks: dict[str, Tensor]) -> None:
    """Set masks to true at the parameters of some neurons of a block's MLP.

    Raises:
        UsageError: a module before the down-projection whose outputs are not the neurons, once or (gate and up fused) twice.
    """
    down = block.down(width)
    count = down.axes.inputs
    for linear in block.mlp:
        if linear.module is down.module:
            mark(_mask(masks, linear, "weight"), linear.axes, inputs=neurons)
        elif linear.axes.outputs % count == 0:
            _mark_linear(masks, linear, [start + index for start in range(0, linear.axes.outputs, count) for index in neurons])
        else:
            raise UsageError(f"The outputs of '{linear.name}' are not the neurons of its MLP: the selector neurons cannot be used on it.")


def _mark_linear(masks: dict[str, Tensor], linear: LinearModule, outputs: Sequence[int]) -> None:
    """Whole outputs of a linear module: their weights and their biases."""
    mark(_mask(masks, linear, "weight"), linear.axes, outputs=outputs)
    if getattr(linear.module, "bias", None) is not None:
        _mask(masks, linear, "bias")[list(outputs)] = True


def _mask(masks: dict[str, Tensor], linear: LinearModule, attribute: str) -> Tensor:
    name = f"{linear.name}.{attribute}"
    if name not in masks:
        parameter = linear.module.get_parameter(attribute)
        if not parameter.is_floating_point():
            raise UsageError(f"'{name}' is quantised and cannot be trained: load the model without --load-in-4bit, or use tuning=lora.")
        masks[name] = torch.zeros(parameter.shape, dtype=torch.bool)
    return masks[name]


def _fisher(model: Model, associations: Sequence[Association], seed: int) -> dict[str, Tensor]:
    stream = TextStream(model, neutral_texts(seed), seed=seed)
    found = fisher_ratio(model, associations, stream, rows=NEUTRAL_ROWS)
    if not all(math.isfinite(float(tensor.sum())) for tensor in found.values()):
        raise UsageError("The Fisher information of these pairs is not finite: load the model with --dtype float32.")
    return found
