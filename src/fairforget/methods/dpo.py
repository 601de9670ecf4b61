"""DPO: prefer the counterpart to the stereotype, more than the base does."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fairforget.methods._pair_fairness import PairFairness, PairFairnessSettings
from fairforget.methods._trained import Job
from fairforget.objectives import DirectPreference
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective


class DpoSettings(PairFairnessSettings):
    """Settings of DPO."""

    beta: float = Field(0.1, gt=0)
    """Inverse temperature β (0.1 in the released code of Dige et al. 2024 and in open-unlearning)."""
    retain: Literal["none", "cross-entropy", "kl", "hidden"] = "none"
    """What holds the model on `retain_text`; the loss has the base in it, and the released code adds nothing."""
    scaling: Literal["trl", "open-unlearning"] = "trl"
    """`trl`: the paper's loss; `open-unlearning`: another factor 2 / beta, which matters against a retain term alone."""


class Dpo(PairFairness):
    """L = -mean log σ(β [(S - S_ref)(counterpart) - (S - S_ref)(stereotype)]), without dropout."""

    name: ClassVar[str] = "dpo"
    summary: ClassVar[str] = "Prefer the anti-stereotype of each pair to its stereotype, more than the base does."
    source: ClassVar[str] = "Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; for social bias Dige et al. 2024 (EMNLP industry track)"
    settings_class: ClassVar[type[Settings]] = DpoSettings

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """The preference term on the pairs."""
        del job
        assert isinstance(self.settings, DpoSettings)
        return [DirectPreference(reference, self.settings.beta, scaling=self.settings.scaling)]
