"""Self-Debias: the model is asked to be biased, and what it then finds likelier is made less likely in its plain prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fairforget.edits.base import EditRecord
from fairforget.edits.runtime_edit import RuntimeEdit
from fairforget.edits.storage import SavedEdit
from fairforget.errors import UsageError

if TYPE_CHECKING:
    from fairforget.edits.weight_edit import WeightEdit
    from fairforget.models.model import Model


def self_debiased(logits: Tensor, biased: Sequence[Tensor], decay: float, floor: float) -> Tensor:
    """Return log p + max(−λ · max(p_b − p, 0), log ε), whose softmax is the self-debiased distribution (Schick et al. 2021, section 4).

    p_b is the largest of the biased probabilities of a token.

    Args:
        logits: plain ones, (..., vocabulary).
        biased: logits after each biasing prefix, of the same shape; at least one.
        decay: λ.
        floor: ε, the smallest factor of a probability, above 0.

    Returns:
        Unnormalised log-probabilities of the shape and type of `logits`.
    """
    log_plain = torch.log_softmax(logits, dim=-1)
    largest = torch.softmax(biased[0], dim=-1)
    for other in biased[1:]:
        largest = torch.maximum(largest, torch.softmax(other, dim=-1))
    excess = (largest - log_plain.exp()).clamp_(min=0)
    return log_plain + (-decay * excess).clamp_(min=math.log(floor))


class SelfDebiasEdit(RuntimeEdit):
    """p̃(w) ∝ p(w) · max(exp(−s λ · max(p_b(w) − p(w), 0)), ε), with p_b the model's own prediction after a biasing prefix.

    Nothing in the model changes: whoever reads a distribution applies :meth:`debiased`. The scorer and ``fairforget generate`` do; for
    ``generate`` of transformers there is :class:`fairforget.edits.self_debias_processor.SelfDebiasProcessor`. A prediction costs one
    forward and one more for every prefix.

    Args:
        prefixes: token ids of each biasing prefix, without special tokens.
        record: where the edit comes from.
        strength: s, scales λ.
        decay: λ at strength 1.
        floor: ε, above 0 and at most 1.

    Raises:
        UsageError: no prefix, an empty one, or λ or ε out of range.
    """

    kind: ClassVar[str] = "self-debias"
    changes_hidden_states: ClassVar[bool] = False

    def __init__(
        self, prefixes: Sequence[Sequence[int]], record: EditRecord, strength: float = 1.0, *, decay: float = 50.0, floor: float = 0.01
    ) -> None:
        if not prefixes or not all(prefixes):
            raise UsageError("Self-Debias needs at least one biasing prefix, and none may be empty.")
        if not (decay > 0 and math.isfinite(decay) and 0 < floor <= 1):
            raise UsageError(f"Self-Debias needs a decay above 0 and an epsilon above 0 and at most 1, not {decay} and {floor}.")
        tensors = {f"prefix/{number:03d}": torch.tensor(list(ids), dtype=torch.int64) for number, ids in enumerate(prefixes)}
        super().__init__(tensors, {"decay": float(decay), "floor": float(floor)}, record, strength)
        self.prefixes: tuple[tuple[int, ...], ...] = tuple(tuple(int(token) for token in ids) for ids in prefixes)
        self.decay, self.floor = float(decay), float(floor)

    @property
    def description(self) -> str:
        """How many prefixes are compared with."""
        return f"compares every prediction with that after {len(self.prefixes)} biasing prefix(es), decay {self.decay:g}"

    @property
    def longest(self) -> int:
        """Tokens of the longest prefix: positions that a text must leave free."""
        return max(map(len, self.prefixes))

    def debiased(self, logits: Tensor, biased: Sequence[Tensor]) -> Tensor:
        """Unnormalised log-probabilities at this edit's strength; see :func:`self_debiased`.

        Args:
            logits: plain ones, (..., vocabulary), float32 or wider.
            biased: those after each prefix, in the order of :attr:`prefixes`.
        """
        return self_debiased(logits, biased, self.strength * self.decay, self.floor)

    def check_fits(self, model: Model) -> None:
        """Refuse a model that this edit does not belong to.

        Raises:
            UsageError: another base, tokens outside its vocabulary, or too few positions.
        """
        super().check_fits(model)
        size = int(model.hf.config.get_text_config().vocab_size)
        if any(not 0 <= token < size for ids in self.prefixes for token in ids):
            raise UsageError(f"A biasing prefix holds token ids outside the vocabulary of {model.name} ({size} tokens).")
        if self.longest + 2 > model.max_length:
            raise UsageError(f"A biasing prefix of {self.longest} tokens leaves no room in {model.name}'s {model.max_length} positions.")

    def _install(self, model: Model) -> None:
        if any(isinstance(edit, SelfDebiasEdit) for edit in model.edits):
            raise UsageError(f"{model.name} has a Self-Debias edit on already: give one edit all prefixes, the largest counts.")

    def _remove(self, model: Model) -> None:
        del model  # nothing was put on it

    def _weights(self, model: Model) -> WeightEdit | str:
        del model
        return "it changes predictions, not what is computed before them."

    @classmethod
    def _restored(cls, saved: SavedEdit) -> Self:
        prefixes: list[list[int]] = [saved.tensors[name].tolist() for name in sorted(saved.tensors)]
        facts: dict[str, Any] = saved.facts
        return cls(prefixes, saved.record, saved.strength, decay=facts["decay"], floor=facts["floor"])


def active_self_debias(model: Model) -> SelfDebiasEdit | None:
    """The Self-Debias edit that is on a model; None where there is none, or one at strength 0, which is the base."""
    return next((edit for edit in model.edits if isinstance(edit, SelfDebiasEdit) and edit.strength != 0), None)


def prefixed(model: Model, ids: Sequence[int], prefix: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Token ids with a biasing prefix in front of the text, behind the token that opens every sequence of this model.

    Args:
        model: whose first token (BOS, ``[CLS]``) stays first.
        ids: of a sequence from its beginning.
        prefix: of the biasing text.

    Returns:
        The ids, and how many of the first ones stayed in their places.
    """
    lead: Any = model.prefix_id if model.family == "causal" else model.tokenizer.cls_token_id
    kept = int(lead is not None and bool(ids) and ids[0] == lead)
    return (*ids[:kept], *prefix, *ids[kept:]), kept
