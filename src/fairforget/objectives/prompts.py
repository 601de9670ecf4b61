"""Even predictions after prompts that differ in one group's word: the stream of prompts and the divergence of what follows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fairforget.models.model import Model
from fairforget.objectives.drift import kl_divergence
from fairforget.objectives.fairness import jensen_shannon
from fairforget.objectives.likelihood import label_logits, other_side, without_dropout
from fairforget.training.objective import IGNORED, Batch, Objective, Role
from fairforget.training.streams import Row


class PromptStream:
    """Rows of a prompt after two words: "w₁ prompt [MASK]." and "w₂ prompt [MASK].", with the mask's place labelled.

    For causal models it is "w₁ prompt" and what comes next; a last token that nothing looks at holds the label's place.

    Args:
        model: whose tokenizer and family decide ids and labels.
        prompts: (first word, second word, prompt).
    """

    def __init__(self, model: Model, prompts: Sequence[tuple[str, str, str]]) -> None:
        self.model = model
        self.rows = [(self._ids(first, prompt), self._ids(second, prompt)) for first, second, prompt in prompts]

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int, visit: int) -> Row:
        """``ids``, ``labels`` and those of the other word."""
        del visit
        first, second = self.rows[index % len(self.rows)]
        return {"ids": first, "labels": self._labels(first), "other_ids": second, "other_labels": self._labels(second)}

    def _ids(self, word: str, prompt: str) -> list[int]:
        model = self.model
        if model.family == "causal":
            return [*model.prefix, *model.token_ids(f"{word} {prompt}".strip()), model.pad_id]
        return model.sequence_ids(f"{word} {prompt} {model.tokenizer.mask_token}.")

    def _labels(self, ids: Sequence[int]) -> list[int]:
        place = len(ids) - 1 if self.model.mask_id is None else list(ids).index(self.model.mask_id)
        return [0 if number == place else IGNORED for number in range(len(ids))]


class PromptDivergence(Objective):
    """Mean over prompts of JS(p(· | w₁ prompt) ‖ p(· | w₂ prompt)) over the whole vocabulary, nats (Auto-Debias, Guo et al. 2022, eq. 2).

    The released code gives its divergence the arguments the other way round, ½ Σ KL(m ‖ p_i), which is no Jensen-Shannon divergence and
    has no upper bound: `reverse_kl`.

    Args:
        weight: factor of the term.
        stream: a :class:`PromptStream`.
        reverse_kl: the released code's form.
    """

    role: ClassVar[Role] = "forget"

    def __init__(self, weight: float = 1.0, stream: str = "forget", *, reverse_kl: bool = False) -> None:
        super().__init__(weight, stream)
        self.reverse_kl = reverse_kl

    def count(self, batch: Batch) -> int:
        """Number of prompts."""
        return len(batch["ids"])

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """Summed divergence, nats."""
        with without_dropout(model):
            first, second = (torch.log_softmax(label_logits(model, side)[0], dim=-1) for side in (batch, other_side(batch)))
        if not self.reverse_kl:
            return jensen_shannon(first, second).sum()
        middle = torch.logaddexp(first, second) - math.log(2)
        return 0.5 * (kl_divergence(middle, first) + kl_divergence(middle, second)).sum()
