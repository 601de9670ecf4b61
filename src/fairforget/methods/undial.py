"""UNDIAL: distil the base with the logits of the tokens to be forgotten lowered."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fairforget.methods._forget import FORGET, ForgetMethod, ForgetSettings
from fairforget.methods._trained import Job
from fairforget.objectives import Undial as UndialTerm
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective


class UndialSettings(ForgetSettings):
    """Settings of UNDIAL."""

    penalty: float = Field(10.0, gt=0)
    """What is subtracted from the base's logit of each token (10 in open-unlearning): its odds fall by the factor e^penalty."""


class Undial(ForgetMethod):
    """L = mean_t CE(softmax(z_ref - penalty · onehot(x_t)), p_t), without dropout."""

    name: ClassVar[str] = "undial"
    summary: ClassVar[str] = "Distil the base with the logits of biased text lowered: a fixed target, so that training converges."
    source: ClassVar[str] = "Dong et al. 2025 (arXiv 2402.10052)"
    settings_class: ClassVar[type[Settings]] = UndialSettings
    settings: UndialSettings

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Distillation on the texts."""
        del job
        return [UndialTerm(reference, self.settings.penalty, self.settings.forget_weight, FORGET)]
