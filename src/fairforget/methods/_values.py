"""What an edited memory should return: values found by a few gradient steps on a pair's margin, keys, and the second moment of all keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fairforget.methods._associations import Association, Sides, difference, gather_sides
from fairforget.methods._blocks import LinearModule
from fairforget.methods._tuning import gradient_flags
from fairforget.models.model import Model
from fairforget.objectives import kl_divergence
from fairforget.training import Batch, Stream
from fairforget.training.streams import Collator

REACHED = 0.05
"""Distance from the wanted margin, nats, at which the search for values ends (0.05 of loss in the code of Meng et al.)."""


@dataclass(frozen=True)
class ValueSearch:
    """How values are found.

    Attributes:
        steps: most gradient steps.
        learning_rate: of Adam, in norms of the present value per step.
        kl_weight: of the divergence at the first predicted place, over all tokens but the pair's own.
        norm_penalty: of the squared norm of the change, in squared norms of the present value.
        clamp: largest norm of the change, in norms of the present value.
    """

    steps: int
    learning_rate: float
    kl_weight: float
    norm_penalty: float
    clamp: float


@dataclass(frozen=True, eq=False)
class Found:
    """Values of a batch of associations.

    Attributes:
        residuals: wanted change of the module's output, float32 (keys, outputs).
        owner: number of the key of each side, (rows,).
        before: margins without the change, (associations,).
        after: margins with it at the sites themselves.
        steps: gradient steps taken.
    """

    residuals: Tensor
    owner: Tensor
    before: Tensor
    after: Tensor
    steps: int


def key_owners(associations: Sequence[Association]) -> Tensor:
    """Number of the key of each side: one for both sides of a ``context`` association, one each for a ``span``."""
    owners: list[int] = []
    for association in associations:
        first = owners[-1] + 1 if owners else 0
        owners += [first, first if association.kind == "context" else first + 1]
    return torch.tensor(owners)


def find_values(
    model: Model, associations: Sequence[Association], memory: LinearModule, search: ValueSearch, share: float
) -> Found:
    """Find what a module should return at the sites of associations for their margins to shrink by a share.

    The loss of an association is smooth L1(margin, (1 - share) · margin now) + kl_weight · KL(now || changed) at the first predicted place
    of each side + norm_penalty · ‖δ‖² / ‖v‖², minimised over δ, which is added to the module's output v at the site.

    Args:
        model: in its present state.
        associations: one batch of them.
        memory: the module whose output is changed.
        search: how.
        share: of each margin that is to go; 1 makes both sides equally likely.
    """
    sides = gather_sides(model, associations)
    owner = key_owners(associations).to(model.device)
    outputs: list[Tensor] = []
    with torch.no_grad(), _output_seen(memory.module, sides, outputs):
        scores, reference = _scores_and_rest(model, sides)
    now = difference(scores)
    wanted = (1.0 - share) * now
    keys = int(owner.max()) + 1
    norms = _mean_by_owner(outputs[0].float().norm(dim=-1, keepdim=True), owner, keys).clamp_min(1e-6)
    unit = norms / outputs[0].shape[-1] ** 0.5  # a step of 1 in every coordinate is one norm of the value
    change = torch.zeros((keys, outputs[0].shape[-1]), device=model.device, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=search.learning_rate)
    best = torch.full_like(now, float("inf"))
    found, after = torch.zeros_like(change), now
    taken = 0
    with gradient_flags(model.hf):
        model.hf.requires_grad_(False)  # so that the backward pass ends at the layer of the change
        while True:
            with shifted(memory.module, sides, (change * unit)[owner]):
                scores, rest = _scores_and_rest(model, sides)
            margins = difference(scores)
            penalty = search.kl_weight * kl_divergence(reference, rest)
            penalty = penalty + search.norm_penalty * (change * unit / norms).square().sum(dim=-1)[owner] / 2
            losses = nn.functional.smooth_l1_loss(margins, wanted, reduction="none") + penalty.view(-1, 2).sum(dim=1)
            with torch.no_grad():  # associations are apart: each keeps its own best step
                better = losses < best
                best, after = torch.where(better, losses, best), torch.where(better, margins, after)
                found = torch.where(_of_keys(better, owner, keys).unsqueeze(1), change, found)
            if taken == search.steps or bool(((after - wanted).abs() < REACHED).all()):
                break
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            with torch.no_grad():
                size = (change * unit).norm(dim=-1, keepdim=True) / norms
                change.mul_((search.clamp / size.clamp_min(1e-12)).clamp_max(1.0))
            taken += 1
    return Found((found * unit).detach(), owner, now, after.detach(), taken)


def _of_keys(chosen: Tensor, owner: Tensor, keys: int) -> Tensor:
    """The keys of chosen associations, bool (keys,)."""
    marks = torch.zeros(keys, dtype=torch.bool, device=owner.device)
    marks[owner[chosen.repeat_interleave(2)]] = True
    return marks


@torch.no_grad()
def find_keys(model: Model, associations: Sequence[Association], memory: LinearModule, contexts: Sequence[Sequence[int]]) -> Tensor:
    """The keys of associations: the module's input at the site, averaged over the sides that share it and over preceding contexts.

    Args:
        model: in its present state.
        associations: one batch of them.
        memory: the module that is edited.
        contexts: ids of neutral text put before each side, besides the bare text.

    Returns:
        Float32 (keys, inputs).
    """
    owner = key_owners(associations).to(model.device)
    total: Tensor | None = None
    for context in [(), *contexts]:
        sides = gather_sides(model, [_after(model, association, tuple(context)) for association in associations])
        seen: list[Tensor] = []
        with _inputs_seen(memory.module, seen):
            model.hidden(sides.batch["ids"], sides.batch["mask"])
        at_site = seen[0][sides.rows, sides.sites].float()
        total = at_site if total is None else total + at_site
    assert total is not None
    return _mean_by_owner(total / (1 + len(contexts)), owner, int(owner.max()) + 1)


@torch.no_grad()
def second_moments(
    model: Model, stream: Stream, memories: Sequence[LinearModule], *, batch: int = 16, advance: Callable[[float], None] = lambda _: None
) -> tuple[list[Tensor], int]:
    """E[k kᵀ] of the inputs of modules over all tokens of a stream, uncentred, in float64 sums of float32 products.

    Returns:
        One (inputs, inputs) tensor per module, float32, and the number of tokens behind them.
    """
    sums = [torch.zeros((memory.axes.inputs, memory.axes.inputs), dtype=torch.float64) for memory in memories]
    tokens = 0
    for rows in stream_batches(model, stream, batch):
        chosen = rows["mask"].bool()
        seen: list[list[Tensor]] = [[] for _ in memories]
        with contextlib.ExitStack() as stack:
            for memory, kept in zip(memories, seen, strict=True):
                stack.enter_context(_inputs_seen(memory.module, kept))
            model.hidden(rows["ids"], rows["mask"])
        for total, kept in zip(sums, seen, strict=True):
            keys = kept[0][chosen].float()
            total += (keys.T @ keys).cpu()
        tokens += int(chosen.sum())
        advance(len(rows["ids"]))
    return [(total / tokens).float() for total in sums], tokens


def stream_batches(model: Model, stream: Stream, size: int) -> Generator[Batch]:
    """The rows of a stream at their first visit, in batches on the model's device."""
    collator = Collator(model.pad_id)
    for start in range(0, len(stream), size):
        rows = [stream.example(index, 0) for index in range(start, min(start + size, len(stream)))]
        yield {name: tensor.to(model.device) for name, tensor in collator.batch(rows).items()}


def _scores_and_rest(model: Model, sides: Sides) -> tuple[Tensor, Tensor]:
    """Scores of the sides, and log-probabilities at the first predicting place of each over all tokens but the pair's first labels."""
    hidden = model.hidden(sides.batch["ids"], sides.batch["mask"])
    predicting = sides.predicting(model)
    labels = sides.batch["labels"]
    targets = labels if model.family == "masked" else torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
    logits = model.head(hidden[predicting]).float()
    values = torch.log_softmax(logits, dim=-1).gather(1, targets[predicting].unsqueeze(1)).squeeze(1)
    owner = predicting.nonzero()[:, 0]
    scores = values.new_zeros(len(sides.sites)).index_add(0, owner, values) * sides.weights
    starts = torch.cat([torch.ones_like(owner[:1], dtype=torch.bool), owner[1:] != owner[:-1]])
    first = targets[predicting][starts]
    pair = torch.stack([first, first.view(-1, 2).flip(1).flatten()], dim=1)
    # A large finite value: a divergence of minus infinities would be no number.
    return scores, torch.log_softmax(logits[starts].scatter(1, pair, -1e4), dim=-1)


def _after(model: Model, association: Association, context: tuple[int, ...]) -> Association:
    """The association with a context put behind the prefix or the first special token."""
    if not context:
        return association
    lead = len(model.prefix) if model.family == "causal" else 1
    sides = tuple(
        type(side)(
            (*side.ids[:lead], *context, *side.ids[lead:]), (*side.labels[:lead], *[-100] * len(context), *side.labels[lead:]),
            side.site + len(context), tuple(place + len(context) for place in side.source), side.weight,
        )
        for side in association.sides
    )
    return Association((sides[0], sides[1]), association.kind, association.pair)


def _mean_by_owner(values: Tensor, owner: Tensor, owners: int) -> Tensor:
    counts = torch.zeros(owners, device=values.device).index_add(0, owner, torch.ones_like(owner, dtype=torch.float32))
    return torch.zeros((owners, values.shape[1]), device=values.device).index_add(0, owner, values) / counts.unsqueeze(1)


@contextlib.contextmanager
def shifted(module: nn.Module, sides: Sides, change: Tensor) -> Generator[None]:
    """While the block runs, `change`, (rows, outputs), is added to what the module returns at each row's site."""

    def add(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        placed = torch.zeros_like(output).index_put((sides.rows, sides.sites), change.to(output.dtype))
        return output + placed

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _output_seen(module: nn.Module, sides: Sides, kept: list[Tensor]) -> Generator[None]:
    handle = module.register_forward_hook(lambda _module, _args, output: kept.append(output[sides.rows, sides.sites]))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _inputs_seen(module: nn.Module, kept: list[Tensor]) -> Generator[None]:
    handle = module.register_forward_pre_hook(lambda _module, args: kept.append(args[0]))
    try:
        yield
    finally:
        handle.remove()
