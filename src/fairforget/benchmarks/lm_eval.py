"""Any task of lm-evaluation-harness, run in this process on the model as it is, edits included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from fairforget.benchmarks._base import Item, MetricDefinition, Scores, StateBenchmark
from fairforget.benchmarks._choices import ACCURACY, ANSWER_NLL, check_chat_template
from fairforget.benchmarks._lm_eval_harness import check_model, document_texts, documents, filters, load_tasks, run_tasks
from fairforget.benchmarks._metrics import MARGIN, PCT_STEREOTYPE, WORD_PERPLEXITY
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.data.lm_eval_logs import ALL_ITEMS, LogReader, read_field
from fairforget.data.parts import SELECT_TEST, assign_parts, home_strata
from fairforget.errors import UsageError
from fairforget.progress import task as progress
from fairforget.settings import Settings
from fairforget.tables import item_table

if TYPE_CHECKING:
    from fairforget.models.model import Model

# What a task does not measure has no denominator, so that the figure is left out instead of being printed as undefined.
_RIGHT = (pl.when(pl.col("correct").is_not_null()).then(1.0),)
_LIKELY = pl.col("correct").is_not_null() & pl.col("nll").is_not_null()
_PREFERRED = (pl.when(pl.col("margin").is_not_null()).then(1.0),)


class LmEvalSettings(SubsetSettings):
    """Which task is run, and how."""

    task: str = ""
    """Name of a task, group or tag of lm-eval; what stands after the colon in `lm-eval:TASK`."""
    include_path: str | None = None
    """Folder of task YAML files of your own, looked at before those of lm-eval."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples before each question; the task's own number when None."""
    batch_size: int = Field(default=16, ge=1)
    """Requests in a forward of the harness."""
    metric: str | None = None
    """Metric that says how right an item is, a share from 0 to 1; when None the first there is of acc, exact_match, em, acc_norm, f1."""
    filter: str | None = None
    """Filter of the answers, for tasks with several (gsm8k: `strict-match`, `flexible-extract`); the task's first when None."""
    role: Literal["ability", "bias"] = "ability"
    """`ability`, or `bias` for a task whose first option is the stereotype and whose second is its counterpart."""
    groups: str | None = None
    """Field of a document that holds its demographic group or a list of them."""
    cluster: str | None = None
    """Field of a document that names what it depends on (template, passage); each document is a cluster of its own when None."""
    stratum: str | None = None
    """Field of a document within whose values clusters are resampled."""
    prompt_format: Literal["plain", "chat"] = "plain"
    """`chat` puts the prompt into the tokenizer's chat template, as `--apply_chat_template` does."""
    seed: int = Field(default=1234, ge=0)
    """Of the choice of examples; the harness's own default."""


class LmEval(StateBenchmark):
    """Documents of a task as items: the harness builds the prompts, scores them and judges them, and its sample log becomes the table.

    Weight edits and projections are on the network that the harness runs. Documents are halved into ``select`` and ``test`` by the hash of
    their cluster. Nothing goes through the score store, so that a second run computes again.
    """

    name = "lm-eval"
    description = "Any task of lm-evaluation-harness by its name, e.g. lm-eval:arc_easy, run in this process on the edited model."
    families = frozenset({"causal"})
    Settings: ClassVar[type[Settings]] = LmEvalSettings
    text_setting: ClassVar[str | None] = "task"
    report_only: ClassVar[bool] = True
    """A search would run the harness at every strength, with nothing kept between."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        if self.settings.task:
            self.name = f"lm-eval:{self.settings.task}"
        self._loaded: dict[str, Any] | None = None

    def items(self, family: str, part: str) -> list[Item]:
        """Documents of one part, of all tasks that the name stands for."""
        del family
        settings: LmEvalSettings = self.settings
        rows: list[tuple[str, int, str, str, dict[str, Any]]] = []
        for name, task in self._tasks().items():
            for number, document in enumerate(documents(task)):
                where = f"lm-eval:{name}, document {number}"
                own = number if settings.cluster is None else read_field(document, settings.cluster, where)
                cluster = str(own) if len(self._tasks()) == 1 else f"{name} {own}"
                stratum = name if len(self._tasks()) > 1 else ALL_ITEMS
                if settings.stratum is not None:
                    stratum = str(read_field(document, settings.stratum, where))
                rows.append((name, number, cluster, stratum, document))
        strata = home_strata([row[2] for row in rows], [row[3] for row in rows])
        parts = assign_parts([row[2] for row in rows], strata, SELECT_TEST)
        return [
            Item(
                str(number), name, settings.role, part, cluster, stratum, self._groups(document, f"lm-eval:{name}, document {number}"),
                document_texts(self._tasks()[name], document),
            )
            for (name, number, cluster, _, document), stratum, own in zip(rows, strata, parts, strict=True)
            if part in ("all", own)
        ]

    def check(self, model: Model) -> None:
        """Refuse masked models, a name without a task, and a state that the harness would not see."""
        super().check(model)
        if not self.settings.task:
            raise UsageError("lm-eval needs the name of a task: write lm-eval:TASK, e.g. lm-eval:arc_easy.")
        check_model(model, self.name)
        if self.settings.prompt_format == "chat":
            check_chat_template(self.name, model)

    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """Run the harness on the documents of `items` and read its samples."""
        del scores
        settings: LmEvalSettings = self.settings
        tasks = self._tasks()
        chosen: dict[str, list[int]] = {}
        for item in items:
            chosen.setdefault(item.task, []).append(int(item.id))
        wanted = {name: self._filter(name) for name in chosen}
        with progress(f"{self.name}: {len(items)} documents", len(items)) as advance:
            samples = run_tasks(
                model, tasks, {name: sorted(numbers) for name, numbers in chosen.items()}, batch_size=settings.batch_size,
                num_fewshot=settings.num_fewshot, chat=settings.prompt_format == "chat", seed=settings.seed,
            )
            advance(len(items))
        lines = {
            (name, str(line["doc_id"])): line for name, found in samples.items() for line in found if str(line["filter"]) == wanted[name]
        }
        rows: list[dict[str, Any]] = []
        for item in items:
            reader = LogReader(item.task, metric=settings.metric, role=item.role)
            measured = reader.measured(lines[item.task, item.id], f"lm-eval:{item.task}, document {item.id}")
            shots = tasks[item.task].get_config("num_fewshot") or 0
            several = f", {wanted[item.task]}" if len(filters(tasks[item.task])) > 1 else ""
            measured["protocol"] += f", {shots}-shot{several}"
            prefix = f"lm-eval's own, {model.prefix_policy} before an empty context"
            rows.append(self.identity(item, model) | {"prompt_format": settings.prompt_format, "prefix": prefix} | measured)
        return item_table(rows)

    def protocol(self, item: Item, family: str) -> str:
        """``lm-eval``; the table adds metric, examples and filter."""
        del item, family
        return "lm-eval"

    def metrics(self) -> list[MetricDefinition]:
        """Those of the following that the task measures: accuracy, likelihood of the right answer, word perplexity, preference."""
        likelihood = replace(
            ANSWER_NLL, numerators=(pl.when(_LIKELY).then(pl.col("nll")),), denominators=(pl.when(_LIKELY).then(1.0),)
        )
        found = [
            replace(ACCURACY, denominators=_RIGHT, description="Mean of the harness's metric over items, in per cent."), likelihood,
            WORD_PERPLEXITY,
        ]
        if self.settings.role == "bias":
            found += [replace(PCT_STEREOTYPE, denominators=_PREFERRED), replace(MARGIN, denominators=_PREFERRED)]
        return found

    def _tasks(self) -> dict[str, Any]:
        if self._loaded is None:
            self._loaded = load_tasks(self.settings.task, self.settings.include_path)
        return self._loaded

    def _filter(self, name: str) -> str:
        known = filters(self._tasks()[name])
        if self.settings.filter is None:
            return known[0]
        if self.settings.filter in known:
            return self.settings.filter
        raise UsageError(f"lm-eval:{name} has no filter '{self.settings.filter}': known are {', '.join(known)}.")

    def _groups(self, document: dict[str, Any], where: str) -> tuple[str, ...]:
        found = read_field(document, self.settings.groups, where)
        return () if found is None else (found,) if isinstance(found, str) else tuple(str(name) for name in found)
