"""Unlearning of masked spans: what a row shows and labels, and the posterior of a word given both of its sides in a causal model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fairforget.errors import UsageError
from fairforget.models.model import Model
from fairforget.objectives.likelihood import row_log_probabilities, without_dropout
from fairforget.training.objective import IGNORED, Batch, Objective, Role
from fairforget.training.streams import Row


class SpanStream:
    """Texts of which only the tokens of marked spans are labelled; a token belongs to a span that it shares a character with.

    A causal model sees the left context as it is, and a row ends with its last label, since what follows has no effect. For masked models
    labelled places hold the mask, one per token. Field ``place`` is one labelled place of the row, drawn anew at every visit.

    Args:
        model: whose tokenizer and family decide ids and labels.
        texts: one text a row.
        spans: characters of each text that are marked.
        max_length: longer texts are cut on the right.
        whole: keep what follows the last label (causal models), for terms that look at the right context.
        hide: masked models: put the mask at labelled places; not for terms that look at the states of the words themselves.
        context: causal models: leave out labelled places with fewer tokens before them.
        seed: places are a function of (seed, row, visit) alone.

    Attributes:
        left_out: texts without a marked token.

    Raises:
        UsageError: no text has one.
    """

    def __init__(
        self,
        model: Model,
        texts: Sequence[str],
        spans: Sequence[Sequence[tuple[int, int]]],
        *,
        max_length: int = 128,
        whole: bool = False,
        hide: bool = True,
        context: int = 0,
        seed: int = 0,
    ) -> None:
        self.model, self.seed = model, seed
        self.hide, self.context = hide and model.mask_id is not None, context if model.family == "causal" else 0
        self.rows: list[tuple[list[int], list[int]]] = []
        limit = min(max_length, model.max_length)
        for text, marked in zip(texts, spans, strict=True):
            ids, places = self._tokens(text, marked, limit)
            if places:
                self.rows.append((ids if whole or model.family == "masked" else ids[: places[-1] + 1], places))
        self.left_out = len(texts) - len(self.rows)
        if not self.rows:
            needed = f" with {self.context} tokens before it" if self.context else ""
            raise UsageError(
                f"None of the {len(texts)} texts has a marked word{needed} in its first {limit} tokens: use another finder or word list, "
                "or texts that have some."
            )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def marked_share(self) -> float:
        """Labelled tokens among all."""
        return sum(len(places) for _, places in self.rows) / sum(len(ids) for ids, _ in self.rows)

    def example(self, index: int, visit: int) -> Row:
        """``ids``, ``labels`` and ``place`` of a row at its n-th visit."""
        index %= len(self.rows)
        ids, places = self.rows[index]
        shown, labels = list(ids), [IGNORED] * len(ids)
        for place in places:
            labels[place] = ids[place]
            if self.hide and self.model.mask_id is not None:
                shown[place] = self.model.mask_id
        place = places[int(np.random.default_rng([self.seed, index, visit]).integers(len(places)))]
        return {"ids": shown, "labels": labels, "place": [place]}

    def _tokens(self, text: str, marked: Sequence[tuple[int, int]], limit: int) -> tuple[list[int], list[int]]:
        entry = self.model.tokenizer(
            text, add_special_tokens=self.model.family == "masked", return_offsets_mapping=True, verbose=False
        )
        ids, offsets = list(entry["input_ids"]), list(entry["offset_mapping"])
        if len(ids) > limit and self.model.family == "masked":
            ids, offsets = [*ids[: limit - 1], ids[-1]], [*offsets[: limit - 1], offsets[-1]]
        prefix = list(self.model.prefix) if self.model.family == "causal" else []
        ids = [*prefix, *ids][:limit]
        first = 1 if self.model.family == "causal" and not prefix else 0  # a first token without prefix has no distribution
        first = max(first, self.context)
        places = [
            number + len(prefix)
            for number, (start, end) in enumerate(offsets)
            if number >= first and number + len(prefix) < len(ids) and any(start < stop and begin < end for begin, stop in marked)
        ]
        return ids, places


class CandidatePosterior(Objective):
    """Ascent on log P(x_i | the rest) of a causal model by its posterior over candidates, with the words after x_i taken into account.

    log P(x_i | rest) ≈ log p(X) - log Σ_{v ∈ C} p(X with x_i = v), C = the K most likely tokens by the left context and x_i itself; with
    all tokens in C it is the true conditional. What stands before x_i is the same in every candidate and cancels, so that only the
    likelihood from place i on is computed. One marked place of a row is taken at every visit; K + 1 sequences a row.

    Args:
        weight: factor of the term.
        stream: a :class:`SpanStream` with whole rows.
        candidates: K.
        clamp: floor of a word's posterior, in uniform guesses 1 / V over the vocabulary: a rarer one gets no gradient but still counts;
            0 for none.
    """

    role: ClassVar[Role] = "forget"

    def __init__(self, weight: float = 1.0, stream: str = "forget", *, candidates: int = 8, clamp: float = 0.0) -> None:
        super().__init__(weight, stream)
        self.candidates, self.clamp = candidates, clamp

    def count(self, batch: Batch) -> int:
        """Number of rows."""
        return batch["ids"].shape[0]

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed log-posterior, nats."""
        ids, mask, places = batch["ids"], batch["mask"], batch["place"][:, 0]
        rows = torch.arange(len(ids), device=ids.device)
        true = ids[rows, places]
        with torch.no_grad(), without_dropout(model):
            logits = model.head(model.hidden(ids, mask)[rows, places - 1]).float()
            logits[rows, true] = torch.inf  # the word itself is always the first candidate
            tokens = logits.topk(min(self.candidates + 1, logits.shape[-1]), dim=-1).indices
        filled = ids.unsqueeze(1).repeat(1, tokens.shape[1], 1)
        filled[rows, :, places] = tokens
        after = torch.arange(ids.shape[1], device=ids.device) >= places.unsqueeze(1)
        scored = (after & mask.bool()).unsqueeze(1).expand_as(filled)
        flat = {
            "ids": filled.flatten(0, 1),
            "mask": mask.unsqueeze(1).expand_as(filled).flatten(0, 1),
            "labels": torch.where(scored, filled, torch.full_like(filled, IGNORED)).flatten(0, 1),
        }
        with without_dropout(model):
            found = row_log_probabilities(model, flat).view(len(ids), -1)
        posterior = found[:, 0] - torch.logsumexp(found, dim=1)
        if self.clamp:
            posterior = posterior.clamp(min=math.log(self.clamp / logits.shape[-1]))
        return posterior.sum()
