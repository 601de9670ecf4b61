"""Self-Debias: predictions are corrected while the model runs, by what it predicts when it is told that a text discriminates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from fairforget.data.training import TrainingSource, TrainingText
from fairforget.edits import Edit, EditRecord, SelfDebiasEdit
from fairforget.errors import UsageError
from fairforget.methods._base import Method
from fairforget.models.model import Model
from fairforget.settings import Settings
from fairforget.training import Monitor

Domain = Literal[
    "age", "disability", "gender", "nationality", "physical-appearance", "profession", "race-color", "religion", "sexual-orientation",
    "socioeconomic",
]

NOUNS: dict[str, str] = {
    "physical-appearance": "physical appearance",
    "race-color": "race/color",
    "sexual-orientation": "sexual orientation",
    "socioeconomic": "socioeconomic status/occupation",
}
"""What a prefix calls a domain, where that is not the domain's name."""

PREFIX = "The following text discriminates against people because of their {noun}:"
"""Wording of Bias Bench."""

SEPARATORS = {"space": " ", "newline": "\n", "none": ""}


class SelfDebiasSettings(Settings):
    """What the model is told, and how much of what it then prefers is taken back; the edit's strength scales `decay`."""

    domains: list[Domain] = Field(default=["gender", "race-color", "religion"])
    """Domains with a prefix each, worded as in Bias Bench ("The following text discriminates against people because of their ...:");
    `profession` is ours. Bias Bench takes the one of the tested domain. Each prefix costs one more forward for every prediction."""
    prefixes: list[str] = Field(default=[])
    """Prefixes of your own, taken as they are, besides those of `domains`."""
    decay: float = Field(50.0, gt=0, le=1000)
    """λ at strength 1. 50 in Schick et al. 2021 and Bias Bench."""
    epsilon: float = Field(0.01, gt=0, le=1)
    """ε, the smallest factor of a probability. 0.01 in Schick et al. 2021 and Bias Bench."""
    separator: Literal["auto", "newline", "space", "none"] = "auto"
    """What ends a prefix of `domains`: `auto` is a new line for causal models, so that a text begins as it does alone, and nothing for
    masked ones. `space` is Bias Bench's, which leaves a lone space token before the text in most vocabularies of causal models."""


class SelfDebias(Method):
    """p̃(w) ∝ p(w) · max(exp(−s λ · max(p_b(w) − p(w), 0)), ε), p_b the largest prediction after any of the biasing prefixes."""

    name: ClassVar[str] = "self-debias"
    summary: ClassVar[str] = "Make less likely what the model finds likelier when told that the text discriminates (run time, untrained)."
    source: ClassVar[str] = "Schick et al. 2021 (arXiv 2103.00453), section 4; Meade et al. 2022 (arXiv 2110.08527)"
    settings_class: ClassVar[type[Settings]] = SelfDebiasSettings
    settings: SelfDebiasSettings

    def fit(
        self,
        model: Model,
        data: TrainingSource | Sequence[TrainingText] | Sequence[str],
        *,
        seed: int = 0,
        folder: Path | None = None,
        monitor: Monitor | None = None,
    ) -> Edit:
        """Tokenise the prefixes; see :meth:`Method.fit`. Nothing is trained, so data, seed, folder and monitor say nothing.

        Raises:
            UsageError: no prefix at all, an empty one, or one that fills the model's positions.
        """
        del data, folder, monitor
        self.check(model)
        settings = self.settings
        texts = [*(prefix_text(domain, self._separator(model)) for domain in dict.fromkeys(settings.domains)), *settings.prefixes]
        if not texts or not all(text.strip() for text in texts):
            raise UsageError(f"{self.name}: name at least one of domains= or prefixes=, and no empty prefix.")
        record = EditRecord.for_model(model, self.name, settings=settings.model_dump(mode="json"), seed=seed)
        ids = [model.token_ids(text) for text in texts]
        edit = SelfDebiasEdit(ids, record, decay=settings.decay, floor=settings.epsilon)
        edit.check_fits(model)
        facts: dict[str, Any] = {
            "prefixes": [{"text": text, "tokens": len(row)} for text, row in zip(texts, ids, strict=True)],
            "training_data": {"source": "none", "taken": "nothing is trained: the model's own predictions are compared", "texts": 0},
        }
        return edit.with_provenance(facts)

    def _separator(self, model: Model) -> str:
        chosen = self.settings.separator
        return SEPARATORS[chosen if chosen != "auto" else "newline" if model.family == "causal" else "none"]


def prefix_text(domain: str, separator: str) -> str:
    """The biasing prefix of a domain."""
    return PREFIX.format(noun=NOUNS.get(domain, domain)) + separator
