"""What a benchmark is: items, the requests that score them, a row of the item table for each, and the metrics over such rows."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fairforget.benchmarks._subset import SubsetSettings, subset
from fairforget.errors import DataError, UsageError
from fairforget.scoring.requests import Request
from fairforget.settings import Settings as BaseSettings
from fairforget.tables import item_table

if TYPE_CHECKING:
    from fairforget.models.model import Model
    from fairforget.scoring.scorer import Scorer

Part: TypeAlias = Literal["train", "select", "test", "all"]
"""``all`` is every item of the released set, for parity with figures published on it; it is never reported beside ``select``."""

Scores: TypeAlias = Sequence[NDArray[np.float64]]
"""Log-probabilities in nats, one array per request."""

Better: TypeAlias = Literal["neutral", "higher", "lower"]


@dataclass(frozen=True)
class Item:
    """One unit to be scored.

    Attributes:
        id: unique within (benchmark, task).
        task: unit of the ledger, e.g. ``stereoset-intrasentence``.
        role: ``bias`` (to be forgotten) or ``ability`` (to be kept).
        part: the part that was asked for, as written in tables.
        cluster: what is resampled (template, prompt, target term, article); a cluster lies in one stratum.
        stratum: clusters are resampled within strata: domain or category.
        groups: demographic groups and domains, several at once allowed.
        texts: what is compared, most stereotypical first.
        payload: whatever else the benchmark needs to make requests.
    """

    id: str
    task: str
    role: Literal["bias", "ability"]
    part: str
    cluster: str
    stratum: str
    groups: tuple[str, ...]
    texts: tuple[str, ...]
    payload: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def prompt_hash(self) -> str:
        """16 hexadecimal digits of what the item asks: texts in their order, and the prompt with whatever else requests are made of."""
        asked = json.dumps([self.texts, self.payload], sort_keys=True, default=str)
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """How one item is scored with one model: the requests behind each of its texts, or why it cannot be scored."""

    requests: tuple[tuple[Request, ...], ...] = ()
    skipped: str | None = None


@dataclass(frozen=True)
class MetricDefinition:
    """A figure over an item table: a function of K ratios, each the sum of one column over the sum of another.

    Attributes:
        name: as printed and as named in ``BENCHMARK:METRIC``.
        numerators: K expressions over the item table.
        denominators: K expressions over the item table.
        unit: ``%``, ``nats``, ``ppl``, ``ratio``, ``cosine``, or none.
        better: the direction that is better; ``neutral`` where the neutral point is.
        description: one sentence with the formula's source.
        neutral: value of an unbiased model, where there is one.
        function: maps ratios (..., K) to values (...); the only ratio itself by default.
        aggregate: ``micro`` = ratios of sums over items; ``macro`` = means over clusters of ratios within clusters.
        ratio_name: also report after / before under this name, for figures that are compared as ratios.
        scope: reported for a whole task, for its groups, or for both; a figure may mean nothing on one of them.
        bounds: the least and the largest value that the figure can have, where its unit does not say it; see :attr:`limits`.
    """

    name: str
    numerators: tuple[pl.Expr, ...]
    denominators: tuple[pl.Expr, ...]
    unit: Literal["%", "nats", "ppl", "ratio", "cosine", ""]
    better: Better
    description: str
    neutral: float | None = None
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda ratios: ratios[..., 0]
    aggregate: Literal["micro", "macro"] = "micro"
    ratio_name: str | None = None
    scope: Literal["both", "task", "groups"] = "both"
    bounds: tuple[float, float] | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value that the figure can have: as stated, else of a share, a difference of shares, or a cosine."""
        if self.bounds is not None:
            return self.bounds
        if self.unit == "%":
            return (-100.0 if self.neutral == 0 else 0.0), 100.0
        return (-1.0, 1.0) if self.unit == "cosine" else (-math.inf, math.inf)

    def columns(self, table: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Numerators and denominators (rows, K) of an item table; rows without a score give zeros."""
        return tuple(  # type: ignore[return-value]
            np.column_stack([table.select(expression.cast(pl.Float64).fill_null(0.0).alias("x"))["x"].to_numpy() for expression in side])
            for side in (self.numerators, self.denominators)
        )


@dataclass(frozen=True)
class SetTest:
    """A figure of a whole set of items that is no function of ratios, such as the p value of a permutation test; it has no interval.

    Attributes:
        metric: as printed.
        value: ``nan`` where it is not defined; `note` then says why.
        n: items, or pairs of items, behind it.
        group: ``all``, or the group of items that was tested.
        note: the test in words, and what to make of it.
    """

    metric: str
    value: float
    n: int
    group: str = "all"
    note: str = ""


class Benchmark(ABC):
    """A named set of items, how they are scored, and which metrics come out.

    Subclasses set the class variables and write :meth:`items`, :meth:`plan`, :meth:`row` and :meth:`metrics`.

    Args:
        settings: an instance of ``Settings``; its defaults when None.
    """

    name: str
    """Registry name: the module's name with hyphens; of a benchmark with a :attr:`text_setting`, that and its value."""
    description: str
    families: ClassVar[frozenset[str]] = frozenset({"causal", "masked"})
    Settings: ClassVar[type[BaseSettings]] = BaseSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings by name, chosen by ``BENCHMARK:PRESET``."""
    text_setting: ClassVar[str | None] = None
    """The setting that takes any text after the colon, as in ``lm-eval:arc_easy``; such a benchmark has no presets."""
    datasets: tuple[str, ...] = ()
    """Catalogue names of the data, for licences and citations."""
    report_only: ClassVar[bool] = False
    """Set-level tests that have no ``select`` part and must not steer a search."""
    caution: str = ""
    """Words that must stand wherever a figure of this benchmark is printed; they go into the note of every row."""
    pooled: str | None = None
    """Name under which all tasks together are reported, where that is a published figure."""

    def __init__(self, settings: BaseSettings | None = None) -> None:
        self.settings: Any = self.Settings() if settings is None else settings
        self._plans: dict[tuple[str, str], Plan] = {}
        self._planned_for: tuple[object, object] | None = None

    @abstractmethod
    def items(self, family: str, part: str) -> list[Item]:
        """All items of one part (``select``, ``test`` or ``all``) for a model family.

        Raises:
            DataError: the data are missing or damaged.
        """

    def measured_items(self, family: str, part: str) -> list[Item]:
        """The items of one part that are measured: all, or the subset that the settings name.

        Raises:
            DataError: the data are missing or damaged.
        """
        items = self.items(family, part)
        return subset(items, self.settings) if isinstance(self.settings, SubsetSettings) else items

    @abstractmethod
    def plan(self, item: Item, model: Model) -> Plan:
        """The requests behind each text of an item."""

    @abstractmethod
    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """The measured columns of an item's row: ``scores``, ``margin``, ``correct``, ``nll``, ``tokens`` ...

        Args:
            item: a scored item.
            scores: one sequence of arrays per text, parallel to ``plan(item, model).requests``.
            model: the model that was scored.
        """

    @abstractmethod
    def protocol(self, item: Item, family: str) -> str:
        """Name of how an item is scored."""

    @abstractmethod
    def metrics(self) -> list[MetricDefinition]:
        """The figures this benchmark reports, overall and by group, for each of its tasks."""

    def sentences(self, item: Item) -> tuple[str, str] | None:
        """Stereotype and anti-stereotype of a bias item as texts that stand for themselves; None for options, which need their question."""
        if item.role != "bias" or len(item.texts) < 2 or item.payload.get("context"):
            return None
        return item.texts[0], item.texts[1]

    def task_metrics(self, task: str) -> list[MetricDefinition]:
        """The figures of one task (or of all together, see :attr:`pooled`): those of :meth:`metrics`, where tasks do not differ."""
        del task
        return self.metrics()

    def set_tests(self, task: str, table: pl.DataFrame, seed: int) -> list[SetTest]:
        """Tests of whole sets, whose figures stand beside the metrics of a state; none, where a benchmark has only metrics.

        Args:
            task: a task, or the name of all together.
            table: its items, skipped ones included.
            seed: of whatever is drawn.
        """
        del task, table, seed
        return []

    def check(self, model: Model) -> None:
        """Refuse a model family that this benchmark, or the chosen protocol, cannot score.

        Raises:
            UsageError: it cannot.
        """
        if model.family not in self.families:
            known = " and ".join(sorted(self.families))
            raise UsageError(f"The benchmark {self.name} scores {known} models, and {model.name} is a {model.family} one.")

    def requests(self, items: Sequence[Item], model: Model) -> list[list[Request]]:
        """All requests of each item; an item that cannot be scored has none."""
        self.check(model)
        return [[request for text in self._planned(item, model).requests for request in text] for item in items]

    def tokens_beside(self, items: Sequence[Item], model: Model) -> tuple[int, int]:
        """Tokens that the model reads for `items` beside those of :meth:`requests`, and at most so many that it writes; for estimates."""
        del items, model
        return 0, 0

    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """The item table (``tables.ITEM_SCHEMA``) from the scores of :meth:`requests`, parallel to `items`."""
        rows: list[dict[str, Any]] = []
        for item, flat in zip(items, scores, strict=True):
            plan = self._planned(item, model)
            row = self.identity(item, model)
            if plan.skipped is not None:
                row["skipped"] = plan.skipped
            else:
                flat_scores = iter(flat)
                parts = [[next(flat_scores) for _ in text] for text in plan.requests]
                if next(flat_scores, None) is not None:
                    raise ValueError(f"{self.name}: item {item.id} has more scores than requests")
                row |= self.row(item, parts, model)
            rows.append(row)
        return item_table(rows)

    def measure(self, scorer: Scorer, part: str) -> pl.DataFrame:
        """Score one part and return its item table.

        Args:
            scorer: of the model in the state that is wanted.
            part: ``select``, ``test`` or ``all``.

        Raises:
            UsageError: the model's family cannot be scored.
            DataError: the data are missing or damaged, or the part is empty.
        """
        self.check(scorer.model)
        items = self.measured_items(scorer.model.family, part)
        if not items:
            raise DataError(f"The benchmark {self.name} has no items in its part '{part}'.")
        return self.measure_items(scorer, items, f"scoring {self.name} ({part})")

    def measure_items(self, scorer: Scorer, items: Sequence[Item], description: str) -> pl.DataFrame:
        """Score items, be they this benchmark's own or others of their form, and return their item table.

        Args:
            scorer: of the model in the state that is wanted.
            items: what to score.
            description: what the progress display says.
        """
        requests = self.requests(items, scorer.model)
        scores = iter(scorer.score([request for group in requests for request in group], description))
        return self.table(items, [[next(scores) for _ in group] for group in requests], scorer.model)

    def identity(self, item: Item, model: Model) -> dict[str, Any]:
        """The columns of a row that do not depend on scores."""
        return {
            "benchmark": self.name,
            "protocol": self.protocol(item, model.family),
            "task": item.task,
            "role": item.role,
            "part": item.part,
            "item": item.id,
            "cluster": item.cluster,
            "stratum": item.stratum,
            "groups": list(item.groups),
            "texts": list(item.texts),
            "prefix": model.prefix_policy,
            "prompt_format": "plain",
            "prompt_hash": item.prompt_hash,
        }

    def _planned(self, item: Item, model: Model) -> Plan:
        # Requests depend on tokenizer and prefix alone, so that the many states of one model share their plans.
        if self._planned_for is None or self._planned_for[0] is not model.tokenizer or self._planned_for[1] != model.prefix_id:
            self._planned_for = (model.tokenizer, model.prefix_id)
            self._plans = {}
        key = (item.task, item.id)
        if key not in self._plans:
            self._plans[key] = self.plan(item, model)
        return self._plans[key]


class StateBenchmark(Benchmark):
    """Benchmarks that ask for no log-probability: they read states, generate or train, and fill their table themselves."""

    def plan(self, item: Item, model: Model) -> Plan:
        """No request."""
        del item, model
        return Plan()

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """Nothing: an item has no figure without the others; see :meth:`table`."""
        del item, scores, model
        return {}

    @abstractmethod
    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """The item table from the model's present state; `scores` are empty."""
