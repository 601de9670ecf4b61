"""The task matrix R[t, j], the score on task j after stage t, and what continual learning reads from it.

Signs: forgetting is positive where something was lost; backward and forward transfer keep their own sign (positive is better). The three
figures that are all called "forgetting" have three names here: ``forgetting_first`` (score when learned less score at the end; Avalanche),
``forgetting_max`` (highest score before the end less score at the end; Chaudhry et al. 2018, ECCV, "Riemannian Walk") and ``bwt`` (minus
the mean of the first; Lopez-Paz and Ranzato 2017, NeurIPS, "Gradient Episodic Memory").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from fairforget.errors import DataError, UsageError
from fairforget.forgetting._columns import ALL, column, figures, group_names, labels, one_account, scored
from fairforget.forgetting.ledger import KEY
from fairforget.stats import Components, guarded_ratio
from fairforget.stats.cluster_sums import Floats


@dataclass(frozen=True)
class Share:
    """A share of a gain or a loss; ``nan`` with a note where there was none to share."""

    value: float
    note: str = ""


@dataclass(frozen=True)
class TaskMatrix:
    """Scores of J tasks after each of T stages, higher being better.

    Attributes:
        scores: (T, J) R[t, j] after stage t.
        tasks: (J,) names.
        learned: (J,) stage, from 0, that taught task j; -1 for a task that no stage taught, which has forgetting against the base only.
        base: (J,) scores before the first stage; None where they were not measured.
        stages: (T,) names of stages; their numbers where not given.

    Raises:
        DataError: the shapes do not fit together.
    """

    scores: Floats
    tasks: tuple[str, ...]
    learned: tuple[int, ...]
    base: Floats | None = None
    stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, dtype=np.float64)
        base = None if self.base is None else np.asarray(self.base, dtype=np.float64)
        stages = self.stages or tuple(str(number + 1) for number in range(len(scores)))
        count = len(self.tasks)
        fits = scores.ndim == 2 and scores.size > 0 and len(stages) == len(scores) and scores.shape[1] == count == len(self.learned)
        if not fits or (base is not None and base.shape != (count,)):
            raise DataError("A task matrix needs one row of scores per stage, and per task a column, a name and the stage that taught it.")
        if not all(-1 <= stage < len(scores) for stage in self.learned):
            raise DataError(f"A task was learned at a stage that the matrix lacks: it has {len(scores)} stages, counted from 0.")
        for name, value in (("scores", scores), ("base", base), ("stages", stages)):
            object.__setattr__(self, name, value)

    @classmethod
    def square(cls, scores: Any, *, base: Any = None) -> TaskMatrix:
        """A matrix of T stages that taught T tasks in turn."""
        count = len(scores)
        return cls(np.asarray(scores, dtype=np.float64), tuple(str(j + 1) for j in range(count)), tuple(range(count)), base)

    @property
    def when_learned(self) -> Floats:
        """(J,) R[j, j]: score right after the stage that taught the task; ``nan`` for a task that none taught."""
        own = [self.scores[stage, task] if stage >= 0 else np.nan for task, stage in enumerate(self.learned)]
        return np.array(own, dtype=np.float64)

    @property
    def earlier(self) -> list[int]:
        """The tasks that a stage before the last one taught: those that can have been forgotten."""
        return [task for task, stage in enumerate(self.learned) if 0 <= stage < len(self.scores) - 1]

    def accuracy(self) -> float:
        """Mean score over all tasks after the last stage."""
        return float(self.scores[-1].mean())

    def forgetting_first(self) -> Floats:
        """(J,) R[j, j] - R[T, j]; ``nan`` for tasks that the last stage or none taught. For two stages this is F(A | A -> B)."""
        return self._of_earlier(self.when_learned - self.scores[-1])

    def forgetting_max(self) -> Floats:
        """(J,) max over stages l < T of R[l, j], less R[T, j]. The maximum includes stages before the task was taught, as in the paper."""
        if len(self.scores) == 1:
            return np.full(len(self.tasks), np.nan)
        return self._of_earlier(self.scores[:-1].max(axis=0) - self.scores[-1])

    def forgetting_from_base(self) -> Floats:
        """(J,) base - R[T, j], of every task, also of those that no stage taught.

        Raises:
            UsageError: the base was not measured.
        """
        return self._base() - self.scores[-1]

    def bwt(self, *, denominator: Literal["paper", "gem_code"] = "paper") -> float:
        """Backward transfer: mean over earlier tasks of R[T, j] - R[j, j]; negative is forgetting.

        Args:
            denominator: ``paper`` divides by the T - 1 earlier tasks; ``gem_code`` by all T, as the released code does, which also
                averages over the last task's 0 and so shows half as much for two tasks.
        """
        earlier = self.earlier
        if not earlier:
            return float("nan")
        total = float((self.scores[-1] - self.when_learned)[earlier].sum())
        return total / (len(earlier) if denominator == "paper" else len(self.tasks))

    def fwt(self, baseline: Any = None, *, denominator: Literal["paper", "gem_code"] = "paper") -> float:
        """Forward transfer: mean over tasks taught after the first stage of R[j-1, j] - b_j; positive is a head start.

        Args:
            baseline: (J,) or one figure, b: what an untrained model scores (chance); the base's scores when None.
            denominator: as in :meth:`bwt`; the released code's first task adds 0.

        Raises:
            UsageError: there is neither a baseline nor a measured base.
        """
        b = self._base() if baseline is None else np.broadcast_to(np.asarray(baseline, dtype=np.float64), (len(self.tasks),))
        later = [task for task, stage in enumerate(self.learned) if stage > 0]
        if not later:
            return float("nan")
        total = sum(float(self.scores[self.learned[task] - 1, task] - b[task]) for task in later)
        return total / (len(later) if denominator == "paper" else len(self.tasks))

    def retention(self) -> Floats:
        """(J,) R[T, j] / R[j, j]; ``nan`` for tasks that the last stage or none taught, and where nothing was known to begin with."""
        own = self.when_learned
        return self._of_earlier(np.divide(self.scores[-1], own, out=np.full(len(own), np.nan), where=own > 0))

    def gain_normalised(self) -> tuple[Share, ...]:
        """(J,) :func:`gain_normalised` forgetting of each task.

        Raises:
            UsageError: the base was not measured.
        """
        own, base = self.when_learned, self._base()
        known = set(self.earlier)
        return tuple(
            gain_normalised(own[task], self.scores[-1, task], base[task]) if task in known
            else Share(np.nan, "not taught before the last stage")
            for task in range(len(self.tasks))
        )

    def _base(self) -> Floats:
        if self.base is None:
            raise UsageError("The task matrix has no scores of the base: audit the base too, or give a baseline.")
        return self.base

    def _of_earlier(self, values: Floats) -> Floats:
        result = np.full(len(self.tasks), np.nan)
        result[self.earlier] = values[self.earlier]
        return result


def task_matrix(ledger: pl.DataFrame, learned: Mapping[str, int], *, figure: Literal["correct", "nll"] = "correct") -> TaskMatrix:
    """The task matrix of one path of a ledger; seeds are pooled.

    Args:
        ledger: of one run, stages from 1 without a gap.
        learned: for each task that a stage taught, that stage, from 1; other tasks of the ledger are columns too.
        figure: ``correct`` for the mean share of right answers, ``nll`` for minus the likelihood loss in nats a token, so that higher is
            better in both. Tasks without the figure are left out.

    Raises:
        UsageError: several runs, or a stage or task that the ledger lacks.
        DataError: no task has the figure.
    """
    if ledger["run"].n_unique() != 1:
        raise UsageError(f"A task matrix is of one run, but the ledger holds {ledger['run'].n_unique()}: filter it by 'run'.")
    rows = scored(ledger).filter(pl.col(f"{figure}_before").is_not_null())
    if rows.is_empty():
        raise DataError(f"No item of the ledger has '{figure}', so there is no task matrix of it.")
    tasks: list[str] = rows["task"].unique(maintain_order=True).to_list()
    stages: list[int] = sorted(ledger["stage"].unique().to_list())
    strangers = [name for name, stage in learned.items() if name not in tasks or stage not in stages]
    if strangers:
        raise UsageError(
            f"The tasks {', '.join(strangers)} or the stages that taught them are not in the ledger: its tasks are {', '.join(tasks)}, "
            f"its stages {stages}."
        )
    score = {
        state: pl.col(f"correct_{state}").mean() if figure == "correct" else -pl.col(f"nll_{state}").sum() / pl.col(f"tokens_{state}").sum()
        for state in ("before", "after")
    }
    table = rows.group_by("stage", "task").agg(score["before"].alias("before"), score["after"].alias("after"))
    found = {(stage, task): (before, after) for stage, task, before, after in table.select("stage", "task", "before", "after").iter_rows()}
    nothing = (np.nan, np.nan)
    scores = np.array([[found.get((stage, task), nothing)[1] for task in tasks] for stage in stages], dtype=np.float64)
    base = np.array([found.get((stages[0], task), nothing)[0] for task in tasks], dtype=np.float64)
    names = dict(ledger.select("stage", "stage_name").unique().iter_rows())
    taught = tuple(stages.index(learned[task]) if task in learned else -1 for task in tasks)
    return TaskMatrix(scores, tuple(tasks), taught, base, tuple(names[stage] or str(stage) for stage in stages))


def gain_normalised(after_a: float, after_ab: float, base: float) -> Share:
    """(R_A - R_AB) / (R_A - R_base): the share of what stage A taught that stage B took away."""
    if not after_a > base:
        return Share(float("nan"), "stage A taught nothing")
    return Share((after_a - after_ab) / (after_a - base))


def recovery(after_a: float, after_ab: float, after_replay: float) -> Share:
    """(R_replay - R_AB) / (R_A - R_AB): the share of what was lost that a replay stage brought back."""
    if not after_a > after_ab:
        return Share(float("nan"), "stage B lost nothing")
    return Share((after_replay - after_ab) / (after_a - after_ab))


def recovery_table(
    loss: pl.DataFrame, replay: pl.DataFrame, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> pl.DataFrame:
    """Recovery by a replay stage, over all items and by group, with intervals.

    Args:
        loss: ledger of the stage that lost (A -> AB), one task.
        replay: ledger of the replay stage on the same items (AB -> replay).
        resamples: as in :func:`fairforget.stats.cluster_bootstrap`.
        level: as there.
        seed: as there.

    Returns:
        A row for "all" and for each group: ``n``, ``clusters``, ``share`` and ``denominator`` (what was lost) with their ends, ``defined``
        and ``note``. A share is ``nan`` unless the lower end of its denominator is above 0.

    Raises:
        DataError: the ledgers are not of the same items.
    """
    return _shares(loss, replay, "A recovery", lost_first=True, options={"resamples": resamples, "level": level, "seed": seed})


def gain_normalised_table(
    learning: pl.DataFrame, loss: pl.DataFrame, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> pl.DataFrame:
    """Share of what a stage taught that a later stage took away, over all items and by group; columns as in :func:`recovery_table`.

    Args:
        learning: ledger of the stage that taught (base -> A), one task.
        loss: ledger of the stage that lost (A -> AB) on the same items.
        resamples: as in :func:`fairforget.stats.cluster_bootstrap`.
        level: as there.
        seed: as there.

    Raises:
        DataError: the ledgers are not of the same items.
    """
    options = {"resamples": resamples, "level": level, "seed": seed}
    return _shares(learning, loss, "Gain-normalised forgetting", lost_first=False, options=options)


def _shares(first: pl.DataFrame, second: pl.DataFrame, wanted: str, *, lost_first: bool, options: Mapping[str, Any]) -> pl.DataFrame:
    """Shares of what the first ledger lost (or gained) that the second gained (or lost)."""
    sign = 1.0 if lost_first else -1.0
    key = ["seed", *KEY]
    earlier, later = (one_account(table, wanted) for table in (first, second))
    joined = earlier.join(later.select(*key, begun="correct_before", ended="correct_after"), on=key, how="inner", maintain_order="left")
    if joined.height != earlier.height or joined["begun"].ne_missing(joined["correct_after"]).any():
        raise DataError(f"{wanted} needs two ledgers of the same items, the second beginning where the first ended.")
    joined = joined.filter(pl.col("correct_before").is_not_null())
    if joined.is_empty():
        raise DataError(f"{wanted} needs items that can be right or wrong, and the ledger has none.")
    bottom, top = sign * column(joined, pl.col("lost") - pl.col("gained")), sign * column(joined, pl.col("ended") - pl.col("begun"))
    rows: list[dict[str, Any]] = []
    for group in [ALL, *group_names(joined)]:
        inside = np.ones(joined.height) if group == ALL else column(joined, pl.col("groups").list.contains(group))
        cluster, stratum = labels(joined)
        parts = (Components(values, inside, cluster, stratum) for values in (top, bottom))
        share = guarded_ratio(*parts, **options)
        rows.append(
            {"group": group, "n": share.bottom.items, "clusters": share.bottom.clusters} | figures(share.ratio, "share")
            | figures(share.bottom, "denominator") | {"defined": share.defined, "note": share.ratio.note}
        )
    return pl.DataFrame(rows)
