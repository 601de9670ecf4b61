"""What a model writes before and after an edit, side by side: continuations of causal models, fills of masked ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from fairforget.edits import Edit
from fairforget.edits.self_debias import active_self_debias
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.scoring.generation import Decoding, Generator
from fairforget.scoring.masked import position_logits

MASK = "[MASK]"
"""How a prompt for a masked model marks a gap, whatever the tokenizer's own mask token is."""


@dataclass(frozen=True)
class Fill:
    """A token that a masked model would put into a gap, and its probability."""

    text: str
    probability: float


Output: TypeAlias = str | tuple[tuple[Fill, ...], ...]
"""A continuation, or for each gap its likeliest fills."""


@dataclass(frozen=True)
class Generation:
    """What the base makes of a prompt, and what the edited model does."""

    prompt: str
    base: Output
    edited: Output | None = None


def generate(
    model: Model,
    prompts: Sequence[str],
    edit: Edit | None = None,
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    fills: int = 5,
    seed: int = 0,
) -> list[Generation]:
    """Run prompts through a model, and through it with an edit on.

    Args:
        model: the base, without the edit.
        prompts: plain texts; for a masked model with one or more ``[MASK]``.
        edit: put on at its strength for the second run.
        max_new_tokens: length of a continuation.
        temperature: 0 takes the likeliest token; above 0 tokens are drawn, with the same random numbers for base and edited.
        fills: for a masked model, how many fills of a gap.
        seed: of the drawing; it and the prompt give each continuation random numbers of its own.

    Raises:
        UsageError: no prompt, one without a gap for a masked model, one that is too long, or a negative temperature.
    """
    if not prompts:
        raise UsageError("Give at least one --prompt.")
    decoding = Decoding(max_new_tokens, temperature, seed=seed)

    def run() -> list[Output]:
        if model.family == "masked":
            return [_fills(model, prompt, fills) for prompt in prompts]
        return [*_continuations(model, prompts, decoding)]

    base = run()
    if edit is None:
        return [Generation(prompt, output) for prompt, output in zip(prompts, base, strict=True)]
    with edit.applied(model):
        edited = run()
    return [Generation(prompt, first, second) for prompt, first, second in zip(prompts, base, edited, strict=True)]


def _continuations(model: Model, prompts: Sequence[str], decoding: Decoding) -> list[str]:
    ids = [[*model.prefix, *model.token_ids(prompt)] for prompt in prompts]
    answers = [answer for (answer,) in Generator(model, decoding, store=False).generate(ids)]
    for prompt_ids, answer in zip(ids, answers, strict=True):
        if answer.skipped is not None:
            remedy = "shorten the prompt or --max-new-tokens" if prompt_ids else "write a prompt, or choose another --prefix"
            raise UsageError(f"{model.name}: {answer.skipped}: {remedy}.")
    return [answer.text for answer in answers]


def _fills(model: Model, prompt: str, count: int) -> tuple[tuple[Fill, ...], ...]:
    tokenizer = model.tokenizer
    ids = model.sequence_ids(prompt.replace(MASK, str(tokenizer.mask_token)))
    places = [place for place, token in enumerate(ids) if token == model.mask_id]
    if not places:
        raise UsageError(f"{model.name} is a masked model: a prompt needs at least one {MASK} for it to fill, e.g. 'The {MASK} is here.'")
    edit = active_self_debias(model)
    room = model.max_length - (edit.longest if edit else 0)
    if len(ids) > room:
        raise UsageError(f"The prompt of {len(ids)} tokens is longer than the {room} positions that {model.name} has for it: shorten it.")
    with torch.inference_mode():
        best = torch.softmax(position_logits(model, ids, places), dim=-1).topk(min(count, len(tokenizer)))
    return tuple(
        tuple(Fill(str(tokenizer.decode([token])).strip(), value) for token, value in zip(tokens, values, strict=True))
        for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
