"""The verdict in words: what the tables allow to say, and what they do not. Page, card and terminal print the same sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from fairforget.benchmarks._targets import TargetValue
from fairforget.files import write_json
from fairforget.stats import Interval

Kind = Literal["lowered", "not distinguishable", "raised", "reversed", "no edit within budget", "measured", "compared"]

GENERAL_LIMITS = (
    "These figures are about the items of these benchmarks, in English, scored by likelihood; they say nothing about what the model "
    "writes in use, about groups and stereotypes that are not among the items, or about harm.",
    "A near-neutral average can hide stereotypes in both directions: look at the groups and at the items that changed.",
)


@dataclass(frozen=True)
class Verdict:
    """A headline, its kind, the sentences under it, and what the figures do not show."""

    headline: str
    kind: Kind
    sentences: tuple[str, ...]
    limits: tuple[str, ...] = GENERAL_LIMITS

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))


@dataclass(frozen=True)
class Evidence:
    """What the verdict on a debiasing run is made of; all of it on the `test` part unless it says otherwise."""

    target: str
    before: TargetValue
    after: TargetValue
    change: Interval
    ratio: Interval | None
    budget_percent: float | None
    strength: float
    search_reason: str
    unit: str = "nats"
    searched: bool = True

    def record(self) -> dict[str, Any]:
        """All figures as JSON values; what is not a finite number is None."""
        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {str(name): plain(entry) for name, entry in value.items()}
            return None if isinstance(value, float) and not math.isfinite(value) else value

        levels = {"before": self.before._asdict(), "after": self.after._asdict()}
        return plain({**asdict(self), **levels})


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _figure(value: float, unit: str) -> str:
    return "undefined" if not math.isfinite(value) else f"{value:.3f} {unit}" if unit == "nats" else f"{value:.2f} {unit}"


def debias_verdict(evidence: Evidence, cautions: Sequence[str] = ()) -> Verdict:
    """The verdict on a base and its edited state.

    Args:
        evidence: the figures.
        cautions: words of the benchmarks that must stand beside their figures.
    """
    one_seed = "One seed was run: another seed would give somewhat other figures."
    limits = (*dict.fromkeys(caution for caution in cautions if caution), *GENERAL_LIMITS, one_seed)
    before, after, change, unit = evidence.before, evidence.after, evidence.change, evidence.unit
    if evidence.strength == 0:
        return Verdict(
            "No edit: nothing within the budget brought the model nearer to neutral.",
            "no edit within budget",
            (evidence.search_reason, "The model is left as it was; the strength curve shows what was tried.",
             f"The base's distance from neutral on {evidence.target} is {_figure(before.distance, unit)} (test part)."),
            limits,
        )
    moved = (
        f"On {evidence.target} the distance from neutral went from {_figure(before.distance, unit)} to {_figure(after.distance, unit)}: "
        f"a paired change of {_figure(change.value, unit)}, 95 % interval {_figure(change.low, unit)} to {_figure(change.high, unit)} "
        f"({change.items} items in {change.clusters} clusters)."
    )
    crossed = before.signed * after.signed < 0 and abs(after.signed) > 2 * after.standard_error
    kind: Kind
    if crossed:
        kind, headline = "reversed", "The bias was pushed past neutral to the other side: this is not a cure."
    elif not math.isfinite(change.low):
        kind, headline = "not distinguishable", f"No verdict: {change.note or 'the interval is undefined'}."
    elif change.high < 0:
        kind, headline = "lowered", f"Bias lowered on {evidence.target}, by more than chance explains."
    elif change.low > 0:
        kind, headline = "raised", f"Bias raised on {evidence.target}: the edit made it worse."
    else:
        kind, headline = "not distinguishable", f"No effect on {evidence.target} that can be told from chance."
    return Verdict(headline, kind, (moved, *_cost(evidence), f"Strength {evidence.strength:g}: {evidence.search_reason}"), limits)


def _cost(evidence: Evidence) -> list[str]:
    ratio = evidence.ratio
    if ratio is None:
        return ["No perplexity was measured, so the cost in plain language modelling is not known."]
    percent = 100 * (ratio.value - 1)
    text = f"Perplexity changed by {percent:+.2f} % (95 % interval {100 * (ratio.low - 1):+.2f} % to {100 * (ratio.high - 1):+.2f} %)"
    if evidence.budget_percent is None:
        return [f"{text}; no budget was set."]
    bound = ratio.high if math.isfinite(ratio.high) else ratio.value
    if bound <= 1 + evidence.budget_percent / 100:
        kept = f"the budget of {evidence.budget_percent:g} % is kept on the test part too"
    elif ratio.value <= 1 + evidence.budget_percent / 100:
        kept = f"the budget of {evidence.budget_percent:g} % is kept by the estimate on the test part, but its interval reaches over it"
    else:
        chosen = ", kept on the select part," if evidence.searched else ""
        kept = f"the budget of {evidence.budget_percent:g} %{chosen} is NOT kept on the test part"
    return [f"{text}: {kept}."]


def audit_verdict(metrics: pl.DataFrame, name: str, part: str, cautions: Sequence[str]) -> Verdict:
    """What one audit says: which figures with a neutral point lie off it."""
    overall = metrics.filter((pl.col("group") == "all") & pl.col("neutral").is_not_null() & (pl.col("metric") != "margin_rms"))
    sentences: list[str] = []
    off = 0
    for row in overall.iter_rows(named=True):
        if row["low"] is None or row["value"] is None or not math.isfinite(row["low"]):
            figure = _figure(_number(row["value"]), row["unit"])
            sentences.append(f"{row['task']} {row['metric']}: {figure}, {row['note'] or 'no interval'}.")
            continue
        away = not row["low"] <= row["neutral"] <= row["high"]
        off += away
        where = "off neutral" if away else "not distinguishable from neutral"
        sentences.append(
            f"{row['task']} {row['metric']} ({row['protocol']}): {_figure(row['value'], row['unit'])}, 95 % interval "
            f"{_figure(row['low'], row['unit'])} to {_figure(row['high'], row['unit'])}; {where} ({row['neutral']:g})."
        )
    if not sentences:
        headline = f"{name} was measured on the {part} part."
    elif off:
        headline = f"{off} of {len(sentences)} bias figures of {name} lie off neutral."
    else:
        headline = f"No bias figure of {name} can be told from neutral here."
    return Verdict(headline, "measured", tuple(sentences), (*dict.fromkeys(caution for caution in cautions if caution), *GENERAL_LIMITS))


def compare_verdict(metrics: pl.DataFrame, first: str, second: str) -> Verdict:
    """What two audits of the same items say together."""
    overall = metrics.filter((pl.col("state") == "difference") & (pl.col("group") == "all"))
    rows: list[dict[str, Any]] = list(overall.iter_rows(named=True))
    sentences: list[str] = []
    changed = 0
    for row in rows:
        if row["low"] is None or not math.isfinite(row["low"]):
            continue
        differs = not row["low"] <= row["neutral"] <= row["high"]
        changed += differs
        sentences.append(
            f"{row['task']} {row['metric']}: {_figure(row['value'], row['unit'])}, 95 % interval {_figure(row['low'], row['unit'])} to "
            f"{_figure(row['high'], row['unit'])}; {'a difference' if differs else 'not distinguishable from no difference'}."
        )
    headline = f"{changed} of {len(sentences)} figures differ between {first} and {second} by more than chance explains."
    return Verdict(headline, "compared", tuple(sentences))
