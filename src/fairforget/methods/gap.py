"""Close the gap in log-probability between stereotype and anti-stereotype."""

from __future__ import annotations

from typing import ClassVar

from fairforget.methods._pair_fairness import PairFairness
from fairforget.methods._trained import Job
from fairforget.objectives.drift import Reference
from fairforget.objectives.fairness import SquaredGap
from fairforget.training import Objective


class Gap(PairFairness):
    """L = mean over pairs of (log p_s - log p_a)²."""

    name: ClassVar[str] = "gap"
    summary: ClassVar[str] = "Close the gap in log-probability between stereotype and anti-stereotype."
    source: ClassVar[str] = (
        "The gender-equalising loss of Qian et al. 2019 (arXiv 1905.12801), squared and over whole pairs; in this form ours"
    )

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """The squared gap."""
        del job, reference
        return [SquaredGap(stream="forget")]
