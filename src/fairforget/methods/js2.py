"""Make stereotype and anti-stereotype equally probable, by a bounded divergence."""

from __future__ import annotations

from typing import ClassVar

from fairforget.methods._pair_fairness import PairFairness
from fairforget.methods._trained import Job
from fairforget.objectives.drift import Reference
from fairforget.objectives.fairness import EvenDivergence
from fairforget.training import Objective


class Js2(PairFairness):
    """L = mean over pairs of JS(π, swap π) = log 2 - H(π), π = softmax(log p_s, log p_a)."""

    name: ClassVar[str] = "js2"
    summary: ClassVar[str] = "Make stereotype and anti-stereotype equally probable, by a bounded divergence."
    source: ClassVar[str] = "Ours: a bounded form of the gender-equalising loss of Qian et al. 2019 (arXiv 1905.12801)"

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """The divergence from even odds."""
        del job, reference
        return [EvenDivergence(stream="forget")]
