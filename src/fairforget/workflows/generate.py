"""What a model writes before and after an edit, side by side: continuations of causal models, fills of masked ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from transformers import GenerationConfig, LogitsProcessorList, set_seed

from fairforget.edits import Edit
from fairforget.edits.self_debias import active_self_debias
from fairforget.edits.self_debias_processor import SelfDebiasProcessor
from fairforget.errors import UsageError
from fairforget.models import Model
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
        seed: of the drawing; each prompt starts from it.

    Raises:
        UsageError: no prompt, one without a gap for a masked model, one that is too long, or a negative temperature.
    """
    if not prompts:
        raise UsageError("Give at least one --prompt.")
    if temperature < 0:
        raise UsageError(f"The temperature must be 0 (greedy) or above, not {temperature:g}.")

    def run() -> list[Output]:
        if model.family == "masked":
            return [_fills(model, prompt, fills) for prompt in prompts]
        return [_continuation(model, prompt, max_new_tokens, temperature, seed) for prompt in prompts]

    base = run()
    if edit is None:
        return [Generation(prompt, output) for prompt, output in zip(prompts, base, strict=True)]
    with edit.applied(model):
        edited = run()
    return [Generation(prompt, first, second) for prompt, first, second in zip(prompts, base, edited, strict=True)]


def _continuation(model: Model, prompt: str, max_new_tokens: int, temperature: float, seed: int) -> str:
    ids = [*model.prefix, *model.token_ids(prompt)]
    if not ids:
        raise UsageError("An empty prompt needs a prefix token to start from: write a prompt, or choose another --prefix.")
    edit = active_self_debias(model)
    room = model.max_length - (edit.longest if edit else 0)
    if len(ids) + max_new_tokens > room:
        raise UsageError(
            f"The prompt of {len(ids)} tokens and {max_new_tokens} new ones are more than the {room} positions "
            f"{'that the biasing prefix leaves' if edit else 'of ' + model.name}: shorten the prompt or --max-new-tokens."
        )
    inputs = torch.tensor([ids], device=model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, pad_token_id=model.pad_id, eos_token_id=_ends(model), **sampling  # type: ignore[arg-type]
    )
    set_seed(seed)
    processors = LogitsProcessorList([SelfDebiasProcessor(model, edit)] if edit else [])
    with torch.inference_mode():
        output = model.hf.generate(  # type: ignore[operator]
            inputs, attention_mask=torch.ones_like(inputs), generation_config=config, logits_processor=processors
        )
    return model.tokenizer.decode(output[0, len(ids) :].tolist(), skip_special_tokens=True)  # type: ignore[return-value]


def _ends(model: Model) -> list[int] | None:
    own = getattr(model.hf.generation_config, "eos_token_id", None)
    ends = own if isinstance(own, list) else [own]
    ends = [int(end) for end in (*ends, model.tokenizer.eos_token_id) if isinstance(end, int)]
    return sorted(set(ends)) or None


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
