"""Self-Debias while text is generated: a logits processor for ``generate`` of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor

from fairforget.edits.self_debias import SelfDebiasEdit, prefixed
from fairforget.errors import UsageError

if TYPE_CHECKING:
    from fairforget.models.model import Model


class SelfDebiasProcessor(LogitsProcessor):
    """Replaces next-token scores by the self-debiased ones.

    The biased predictions are computed beside the plain ones, each prefix with its own keys and values; where the rows do not go on from
    the ones seen last (beam search, a new prompt) they are computed anew, so that every decoding is right and greedy or sampled ones are
    quick.

    Args:
        model: a causal model.
        edit: at its strength.
        mask: (prompts, prompt length), 0 where a prompt of a batch is padded on the left; None for prompts without padding.

    Raises:
        UsageError: the model is masked.
    """

    def __init__(self, model: Model, edit: SelfDebiasEdit, mask: Tensor | None = None) -> None:
        if model.family != "causal":
            raise UsageError(f"{model.name} is a masked model and generates no text; its fills are self-debiased by the scorer.")
        self._model, self._edit, self._mask = model, edit, mask
        self._seen: Tensor | None = None
        self._states: list[tuple[DynamicCache, Tensor]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Scores after Self-Debias: unnormalised log-probabilities, (rows, vocabulary)."""
        if self._edit.strength == 0:
            return scores
        seen, self._seen = self._seen, input_ids.clone()
        goes_on = (
            seen is not None and bool(self._states) and seen.shape == input_ids[:, :-1].shape and torch.equal(seen, input_ids[:, :-1])
        )
        biased = self._next(input_ids[:, -1:]) if goes_on else self._anew(input_ids)
        return self._edit.debiased(scores.float(), [logits.to(scores.device) for logits in biased]).to(scores.dtype)

    def _anew(self, input_ids: Tensor) -> list[Tensor]:
        """Logits after each prefix, from the first token on."""
        model = self._model
        mask = torch.ones_like(input_ids)
        if self._mask is not None:
            copies = len(input_ids) // len(self._mask)
            mask[:, : self._mask.shape[1]] = self._mask.to(mask.device).repeat_interleave(copies, dim=0)
        texts = [row[kept.bool()].tolist() for row, kept in zip(input_ids, mask, strict=True)]
        self._states = []
        found: list[Tensor] = []
        for prefix in self._edit.prefixes:
            rows = [prefixed(model, text, prefix)[0] for text in texts]
            width = max(map(len, rows))
            ids = torch.tensor([[*row, *([model.pad_id] * (width - len(row)))] for row in rows], device=input_ids.device)
            lengths = torch.tensor([len(row) for row in rows], device=input_ids.device)
            filled = (torch.arange(width, device=ids.device) < lengths[:, None]).long()
            cache = DynamicCache() if model.shares_prefixes else None
            hidden = model.hidden(ids, filled, positions=_positions(filled), cache=cache)
            found.append(model.head(hidden[torch.arange(len(rows), device=hidden.device), lengths.to(hidden.device) - 1]).float())
            if cache is not None:
                self._states.append((cache, filled))
        return found

    def _next(self, tokens: Tensor) -> list[Tensor]:
        """Logits after each prefix and one token more, (rows, 1)."""
        found: list[Tensor] = []
        for number, (cache, mask) in enumerate(self._states):
            longer = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            hidden = self._model.hidden(tokens, longer, positions=mask.sum(dim=1, keepdim=True), cache=cache)
            self._states[number] = (cache, longer)
            found.append(self._model.head(hidden[:, -1]).float())
        return found


def _positions(mask: Tensor) -> Tensor:
    """Place of each token in its row; padding on the right goes on from the last one's."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
