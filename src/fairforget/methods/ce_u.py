"""CE-U: cross-entropy to the model's own distribution without the token to be forgotten."""

from __future__ import annotations

from typing import ClassVar

from fairforget.methods._forget import FORGET, ForgetMethod, ForgetSettings
from fairforget.methods._trained import Job
from fairforget.objectives import CrossEntropyUnlearning
from fairforget.objectives.drift import Reference
from fairforget.training import Objective


class CeU(ForgetMethod):
    """L = mean_t CE(q_t, p_t), q_t the model's own distribution with p(x_t) set to 0, held constant in the gradient; without dropout."""

    name: ClassVar[str] = "ce-u"
    summary: ClassVar[str] = "Teach the model its own distribution without the tokens of biased text."
    source: ClassVar[str] = "Yang 2025 (arXiv 2503.01224)"
    settings: ForgetSettings

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Cross-entropy unlearning on the texts."""
        del job, reference
        return [CrossEntropyUnlearning(self.settings.forget_weight, FORGET)]
