"""How tokens are drawn: nucleus sampling with a stream of random numbers for each sequence, and the end at a stop string."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase, StoppingCriteria

_FIRST_CANDIDATES = 1024
"""Likeliest tokens that are sorted first; a nucleus is seldom larger, and sorting a whole vocabulary costs as much as a small forward."""


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Probabilities (rows, vocabulary) with those outside of the nucleus set to 0, not normalised.

    The nucleus is the smallest set of likeliest tokens whose probabilities reach `top_p` (Holtzman et al. 2020); tokens as likely as its
    least likely one are in it too.
    """
    size, most = min(_FIRST_CANDIDATES, probabilities.shape[-1]), probabilities.shape[-1]
    while True:
        top = probabilities.topk(size, dim=-1).values
        before = top.cumsum(dim=-1) - top  # mass of all likelier tokens
        if size == most or bool((before[:, -1] >= top_p).all()):
            break
        size = min(most, 8 * size)
    last = (before < top_p).sum(dim=-1, keepdim=True).clamp(min=1) - 1
    return probabilities * (probabilities >= top.gather(-1, last))


class SeededSampling(LogitsProcessor):
    """Draws each sequence's next token with random numbers of its own, and leaves it as the only possible one.

    Token argmax_w p(w) / E_w with E_w ~ Exp(1) is a draw from p: log p(w) - log E_w are Gumbel-perturbed log-probabilities (Gumbel-max
    trick). Every step takes one E for each word of the vocabulary from the sequence's own generator, whatever is in the nucleus, so that a
    draw depends on the seed, the step and the distribution, and not on the other sequences of the batch; two states of a model share their
    noise, and differ only where their distributions do.

    Args:
        seeds: one for each row of the batch.
        temperature: above 0; logits are divided by it.
        top_p: mass of the nucleus, above 0; 1 draws from all tokens.
        device: where the scores are.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float, device: torch.device) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._temperature, self._top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """0 for the drawn token of each row and minus infinity elsewhere, (rows, vocabulary)."""
        del input_ids
        probabilities = torch.softmax(scores.float() / self._temperature, dim=-1)
        if self._top_p < 1:
            probabilities = nucleus(probabilities, self._top_p)
        noise = torch.empty_like(probabilities)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        drawn = (probabilities / noise).argmax(dim=-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)


class StopStrings(StoppingCriteria):
    """Ends a row once its new text holds a stop string.

    Args:
        tokenizer: decodes new tokens.
        stop: strings, none of them empty.
        start: tokens of the (padded) prompt.

    Attributes:
        lengths: new tokens of each row that was ended, by row.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], start: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, tuple(stop), start
        # A token is at least one byte, so a stop string that ends with the newest token lies within so many.
        self._window = max(len(text.encode()) for text in stop) + 1
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:  # type: ignore[override]
        """Which rows have ended, (rows,)."""
        del scores
        new = input_ids[:, self._start :]
        for row, tail in enumerate(new[:, -self._window :].tolist()):
            if row not in self.lengths and any(text in str(self._tokenizer.decode(tail)) for text in self._stop):
                self.lengths[row] = new.shape[1]
        return torch.tensor([row in self.lengths for row in range(len(new))], device=input_ids.device)
