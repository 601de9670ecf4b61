"""How much neurons and single parameters have to do with a pair's margin: integrated gradients, contrastive gradients, Fisher ratio."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from fairforget.errors import UsageError
from fairforget.methods._associations import Association, Sides, gather_sides, in_batches
from fairforget.methods._blocks import find_blocks, residual_width
from fairforget.methods._tuning import gradient_flags
from fairforget.methods._values import stream_batches
from fairforget.models.model import Model
from fairforget.objectives import token_log_probabilities
from fairforget.progress import task, track
from fairforget.training import Stream


def neuron_attributions(model: Model, associations: Sequence[Association], *, steps: int = 8, batch: int = 16) -> list[Tensor]:
    """Integrated gradients of the mean margin with respect to the neurons of every MLP, layer by layer (Dai et al. 2022, arXiv 2104.08696).

    All activations of one layer (the inputs of its down-projection, at all tokens) are scaled by a gate per neuron, and gates go from 0 to
    1 together. The attributions of a layer add up to the margin with it less the margin without it.

    Args:
        model: causal or masked.
        associations: stereotype pairs as associations.
        steps: points of the Gauss-Legendre rule (20 of Riemann's in the paper).
        batch: associations in a forward.

    Returns:
        Per layer float32 (neurons,), nats; above 0 where a neuron favours the stereotype.

    Raises:
        UsageError: captum is not installed, or the blocks have no MLP that can be read.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise UsageError("Selecting neurons needs captum: install it with pip install 'fairforget[interpret]'.") from error
    width = residual_width(model)
    memories = [block.down(width) for block in find_blocks(model)]
    batches = [gather_sides(model, chosen) for chosen in in_batches(associations, batch)]
    found: list[Tensor] = []
    with gradient_flags(model.hf), task("integrated gradients of neurons", len(memories)) as advance:
        model.hf.requires_grad_(False)
        for memory in memories:
            module, total = memory.module, torch.zeros(memory.axes.inputs, device=model.device)
            for sides in batches:

                def margin(gates: Tensor, module: nn.Module = module, sides: Sides = sides) -> Tensor:
                    with _gated(module, gates[0]):
                        return sides.margins(model).sum().unsqueeze(0)

                ones = torch.ones((1, memory.axes.inputs), device=model.device)
                gradients = IntegratedGradients(margin, multiply_by_inputs=True)
                values = gradients.attribute(ones, torch.zeros_like(ones), n_steps=steps, method="gausslegendre", internal_batch_size=1)
                total += values[0].detach().float()
            found.append((total / len(associations)).cpu())
            advance(1)
    return found


def contrastive_gradients(model: Model, associations: Sequence[Association], *, batch: int = 16) -> dict[str, Tensor]:
    """|mean gradient of the margin| of every parameter, i.e. of the gradient for the stereotype less that for the counterpart.

    Returns:
        By parameter name, in the type and shape of the parameter; tied ones once.
    """
    with _trainable(model.hf):
        batches = in_batches(associations, batch)
        for chosen in track(batches, "contrastive gradients", len(batches)):
            (gather_sides(model, chosen).margins(model).sum() / len(associations)).backward()
        return {name: gradient.abs() for name, gradient in _gradients(model.hf)}


def fisher_ratio(model: Model, associations: Sequence[Association], retain: Stream, *, rows: int) -> dict[str, Tensor]:
    """Fisher information of margins over that of neutral text, per parameter: Σᵢ (∂mᵢ)² / n over Σⱼ (∂ℓⱼ)² / r + its mean.

    Gradients are squared per association and per text, never of a batch's mean. The mean of the divisor keeps parameters that neutral text
    hardly touches from being chosen for nothing.

    Args:
        model: causal or masked.
        associations: stereotype pairs as associations.
        retain: neutral text.
        rows: texts of it that are looked at.

    Returns:
        By parameter name, in the shape of the parameter.
    """
    with _trainable(model.hf):
        biased: dict[str, Tensor] = {}
        for association in track(associations, "Fisher information of pairs", len(associations)):
            gather_sides(model, [association]).margins(model).sum().backward()
            _add_squares(model.hf, biased, len(associations))
        neutral: dict[str, Tensor] = {}
        count = min(rows, len(retain))
        with task("Fisher information of neutral text", count) as advance:
            for number, text in enumerate(stream_batches(model, retain, 1)):
                if number == count:
                    break
                (-token_log_probabilities(model, text).sum()).backward()
                _add_squares(model.hf, neutral, count)
                advance(1)
    size = sum(tensor.numel() for tensor in neutral.values())
    mean = float(torch.stack([tensor.double().sum() for tensor in neutral.values()]).sum()) / size
    return {name: tensor / (neutral.get(name, torch.zeros_like(tensor)) + max(mean, 1e-30)) for name, tensor in biased.items()}


def largest(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks of the largest scores over all tensors together, exactly round(share · entries) of them (at least one), zeros never.

    Ties at the threshold go to the first entries. The threshold is found by bisection over the bits of non-negative floats, so that no
    sorted copy of all scores is made.

    Args:
        scores: non-negative, by parameter.
        share: of all entries.

    Raises:
        UsageError: all scores are zero.
    """
    total = sum(tensor.numel() for tensor in scores.values())
    wanted = max(1, round(share * total))
    bits = {name: tensor.float().view(torch.int32) for name, tensor in scores.items()}  # of floats >= 0, ordered as these are
    wanted = min(wanted, sum(int((tensor > 0).sum()) for tensor in bits.values()))
    if wanted == 0:
        raise UsageError("No parameter has anything to do with these pairs (all scores are zero): give other pairs or another selector.")
    low, high = 0, 2**31 - 1  # at least `wanted` scores are > low; fewer are > high
    while high - low > 1:
        middle = (low + high) // 2
        if sum(int((tensor > middle).sum()) for tensor in bits.values()) >= wanted:
            low = middle
        else:
            high = middle
    left = wanted - sum(int((tensor > high).sum()) for tensor in bits.values())
    masks: dict[str, Tensor] = {}
    for name, tensor in bits.items():
        mask = tensor > high
        if left and bool((ties := tensor == high).any()):
            first = ties.flatten().nonzero()[:left, 0]
            mask.view(-1)[first] = True
            left -= len(first)
        if bool(mask.any()):
            masks[name] = mask
    return masks


def _gradients(hf: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in hf.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad.detach()


def _add_squares(hf: nn.Module, sums: dict[str, Tensor], count: int) -> None:
    for name, gradient in _gradients(hf):
        square = gradient.float().square() / count
        sums[name] = sums[name] + square if name in sums else square
    hf.zero_grad(set_to_none=True)


@contextlib.contextmanager
def _trainable(hf: nn.Module) -> Generator[None]:
    """Every floating parameter wants a gradient while the block runs; none is left behind."""
    with gradient_flags(hf):
        for parameter in hf.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        hf.zero_grad(set_to_none=True)
        try:
            yield
        finally:
            hf.zero_grad(set_to_none=True)


@contextlib.contextmanager
def _gated(module: nn.Module, gates: Tensor) -> Generator[None]:
    """While the block runs, the input of a module is multiplied by gates, one per feature."""
    handle = module.register_forward_pre_hook(lambda _module, args: (args[0] * gates.to(args[0].dtype), *args[1:]))
    try:
        yield
    finally:
        handle.remove()
