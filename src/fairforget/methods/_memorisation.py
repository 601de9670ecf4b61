"""How well a model knows texts by heart, and a guard that stops a training once it no longer does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from fairforget.errors import UsageError
from fairforget.models.model import Model
from fairforget.objectives.likelihood import label_logits
from fairforget.training import Monitor, StopCondition, TextStream
from fairforget.training.streams import Collator

TEXTS = 32
"""Texts looked at: the size of the forget sets of Jang et al. 2023."""
BATCH = 8
NGRAM = 10


@torch.no_grad()
def memorisation_accuracy(model: Model, stream: TextStream, most: int = TEXTS) -> float:
    """MA: share of tokens that are the likeliest in their context (Jang et al. 2023; Tirumala et al. 2022).

    For masked models the tokens are those that the stream masks at its first visit.
    """
    collator, count = Collator(model.pad_id), min(most, len(stream))
    right, all_tokens = 0, 0
    for start in range(0, count, BATCH):
        batch = collator.batch([stream.example(row, 0) for row in range(start, min(start + BATCH, count))])
        logits, labels = label_logits(model, {field: tensor.to(model.device) for field, tensor in batch.items()})
        right += int((logits.argmax(dim=-1) == labels).sum())
        all_tokens += len(labels)
    return right / all_tokens


@torch.no_grad()
def extraction_likelihood(model: Model, rows: Sequence[Sequence[int]], n: int = NGRAM) -> float:
    """EL_n: mean over prefixes, then over texts, of the share of n-grams of the greedy continuation that the true one holds.

    Jang et al. 2023 (arXiv 2210.01504): EL_n(x) = Σ_{t=1}^{T-n} overlap_n(f(x_{<=t}), x_{>t}) / (T - n). A continuation is as long as
    the true one.

    Args:
        model: a causal model.
        rows: ids of the texts, the prefix token included.
        n: length of the n-grams.

    Returns:
        Between 0 and 1; 0 where no text is longer than n tokens.
    """
    shares: dict[int, list[float]] = defaultdict(list)
    for length in range(1, max((len(row) for row in rows), default=0) - n + 1):
        present = [number for number, row in enumerate(rows) if len(row) >= length + n]
        for start in range(0, len(present), BATCH):
            numbers = present[start : start + BATCH]
            longest = max(len(rows[number]) for number in numbers) - length
            ids = torch.tensor([list(rows[number][:length]) for number in numbers], device=model.device)
            continued = _greedy(model, ids, longest)
            for number, found in zip(numbers, continued, strict=True):
                true = list(rows[number][length:])
                shares[number].append(ngram_overlap(found[: len(true)], true, n))
    means = [sum(values) / len(values) for values in shares.values()]
    return sum(means) / len(means) if means else 0.0


def ngram_overlap(found: Sequence[int], true: Sequence[int], n: int) -> float:
    """Share of the n-grams of one sequence that the other one holds; 0 where there is none."""
    grams = [tuple(found[start : start + n]) for start in range(len(found) - n + 1)]
    held = {tuple(true[start : start + n]) for start in range(len(true) - n + 1)}
    return sum(gram in held for gram in grams) / len(grams) if grams else 0.0


def _greedy(model: Model, ids: torch.Tensor, steps: int) -> list[list[int]]:
    """The likeliest next tokens, one after another; an end-of-text token does not end them."""
    from transformers import DynamicCache

    cache = DynamicCache() if model.shares_prefixes else None
    found: list[torch.Tensor] = []
    shown = ids
    for _ in range(steps):
        whole = torch.cat([ids, *found], dim=1)
        hidden = model.hidden(shown, torch.ones_like(whole), cache=cache)
        found.append(model.head(hidden[:, -1]).argmax(dim=-1, keepdim=True))
        shown = found[-1] if cache is not None else torch.cat([ids, *found], dim=1)
    return torch.cat(found, dim=1).tolist()


class MemorisationStop(StopCondition):
    """Stops a training once the texts are known no better than asked.

    Args:
        model: the model.
        stream: the texts.
        accuracy: memorisation accuracy below which to stop, or None.
        extraction: extraction likelihood of 10-grams below which to stop, or None; with both, both must hold.
        inner: the monitor of the run.

    Raises:
        UsageError: extraction likelihood is asked for on a masked model.
    """

    def __init__(
        self, model: Model, stream: TextStream, *, accuracy: float | None, extraction: float | None, inner: Monitor | None = None
    ) -> None:
        if extraction is not None and model.family != "causal":
            raise UsageError(f"stop_extraction needs a causal model, which continues a text; {model.name} is masked: use stop_accuracy.")
        super().__init__(inner)
        self.stream, self.accuracy, self.extraction = stream, accuracy, extraction

    def reached(self, model: Model, step: int) -> str | None:
        """Measure what was asked for."""
        found: list[str] = []
        if self.accuracy is not None:
            accuracy = memorisation_accuracy(model, self.stream)
            if accuracy >= self.accuracy:
                return None
            found.append(f"memorisation accuracy {accuracy:.4f} < {self.accuracy}")
        if self.extraction is not None:
            extraction = extraction_likelihood(model, self.stream.rows[:TEXTS])
            if extraction >= self.extraction:
                return None
            found.append(f"extraction likelihood {extraction:.4f} < {self.extraction}")
        return f"forgotten at step {step}: {' and '.join(found)}"
