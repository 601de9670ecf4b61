"""The guard of a training run: looks at the `select` part now and then and ends the run when it has done what it may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fairforget.benchmarks import Benchmark
from fairforget.benchmarks._targets import perplexity_ratio, target_value
from fairforget.models import Model
from fairforget.workflows.audit import measure

if TYPE_CHECKING:
    import polars as pl

    from fairforget.workflows.recipe import Guard

RESAMPLES = 200
"""The point estimate steers; the interval is not looked at."""
SURE = 2.0
"""Standard errors that the base's bias must be from neutral for its sign to be a sign."""


class SelectGuard:
    """Ends a training run whose perplexity is over budget or whose bias has crossed neutral.

    A stop rule that gradient ascent needs most; compare Jang et al. 2023, section 3.

    Args:
        settings: what is looked at.
        target: bias benchmark, with its item table of the base on `select`.
        metric: the target's metric.
        cost: perplexity benchmark with its table of the base; None without a budget.
        budget_percent: what the perplexity may rise by.
    """

    def __init__(
        self,
        settings: Guard,
        target: tuple[Benchmark, pl.DataFrame],
        metric: str,
        cost: tuple[Benchmark, pl.DataFrame] | None,
        budget_percent: float | None,
    ) -> None:
        self.looks = settings.looks
        self.metric = metric
        self.cost = cost if settings.perplexity and budget_percent is not None else None
        self.limit = 1 + (budget_percent or 0.0) / 100
        base = target_value(target[1], metric)
        sure = bool(np.isfinite(base.standard_error)) and base.distance > SURE * base.standard_error
        # A base that cannot be told from neutral crosses it by chance.
        self.target = target[0] if settings.reversal and sure else None
        self.sign = float(np.sign(base.signed))

    @property
    def watches(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self.looks) and (self.target is not None or self.cost is not None)

    def look(self, model: Model, step: int) -> str | None:
        """The reason why training should stop now, or None."""
        if self.cost is not None:
            benchmark, before = self.cost
            ratio = perplexity_ratio(before, self._table(model, benchmark, step), resamples=RESAMPLES).value
            if ratio > self.limit:
                return f"perplexity on select at {ratio:.4f} of the base's, over the budget of {self.limit:g}"
        if self.target is not None:
            signed = target_value(self._table(model, self.target, step), self.metric).signed
            if signed * self.sign < 0:
                return "the bias on select has crossed neutral"
        return None

    def _table(self, model: Model, benchmark: Benchmark, step: int) -> pl.DataFrame:
        # Weights in training have no identity, so their scores are not stored.
        return measure(model, [benchmark], "select", f"guard at step {step}: {benchmark.name}", store=False)[0]

