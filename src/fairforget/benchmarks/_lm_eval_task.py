"""Our benchmarks as tasks of lm-evaluation-harness: each text of an item is a log-likelihood request, our row the judgement."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fairforget.benchmarks._base import Benchmark, Item
from fairforget.benchmarks._choices import ChoiceBenchmark, ChoiceSettings
from fairforget.benchmarks._lm_eval_harness import harness, quiet
from fairforget.benchmarks._pairs import PairBenchmark, PairSettings
from fairforget.benchmarks.file import FileBenchmark
from fairforget.errors import UsageError
from fairforget.files import write_text

if TYPE_CHECKING:
    from fairforget.models.model import Model

MODULE = "fairforget_tasks"
"""Name of the Python file beside the task YAML files."""

_CAUSAL = SimpleNamespace(family="causal")
"""All that a row asks of its model, where sums of log-probabilities are known."""

HIGHER_IS_BETTER = {"acc": True, "answer_nll": False, "pct_stereotype": False, "margin": False}
"""Figures of a task. Of the last two neither end is better: their neutral points are 50 and 0, which lm-eval has no word for."""


def as_lm_eval_task(benchmark: Benchmark | str, part: str = "test", name: str | None = None) -> Any:
    """A benchmark of pairs or choices as an ``lm_eval.api.task.Task``, to be given to ``simple_evaluate`` or named in a task YAML.

    Figures are those of our own audit on the same part: ``pct_stereotype`` (per cent) and ``margin`` (nats) of pairs and bias items,
    ``acc`` (0 to 1) and ``answer_nll`` of items with a right option. Items that are too long for the model are skipped in our audit and
    cut by the harness.

    The harness puts ``prefix_token_id`` before an empty context alone and a BOS before others where the tokenizer does; our audit puts its
    prefix before both. For equal figures of choices with a context, give the harness ``add_bos_token`` where the prefix is the BOS token.

    Args:
        benchmark: a benchmark, or its name as on the command line.
        part: ``test``, ``select`` or ``all``.
        name: of the task; ``fairforget_NAME`` when None.

    Raises:
        UsageError: lm-eval is not installed, or the benchmark needs more than the sum of log-probabilities of its texts.
        DataError: the benchmark's data are missing or damaged.
    """
    from fairforget.benchmarks import resolve

    chosen = resolve(benchmark) if isinstance(benchmark, str) else benchmark
    refuse_unfit(chosen)
    items = chosen.measured_items("causal", part)
    base: Any = harness("api.task").Task
    own = {method: vars(_Adapter)[method] for method in vars(_Adapter) if not method.startswith("__")}
    kind: Any = type("FairforgetTask", (base,), own | {"VERSION": 1, "OUTPUT_TYPE": "loglikelihood"})
    kind.benchmark, kind.items = chosen, items
    label = name or task_name(chosen.name)
    with quiet():
        task = kind()
    for key, value in {"task": label, "output_type": "loglikelihood", "num_fewshot": 0, "metadata": {"version": 1}}.items():
        task.set_config(key, value)
    return task


def refuse_unfit(benchmark: Benchmark) -> None:
    """Refuse a benchmark that lm-eval's interface cannot carry: all that it hands over is the sum of a text's log-probabilities.

    Raises:
        UsageError: it cannot.
    """
    inner = _scorer(benchmark)
    settings: Any = inner.settings
    reason = None
    if isinstance(inner, PairBenchmark) and type(inner).plan is PairBenchmark.plan:
        pairs: PairSettings = settings
        if inner.method("causal") != "sum" or pairs.split_first:
            reason = f"its protocol '{inner.method('causal')}{', split_first' * pairs.split_first}' needs more than the sum of a sentence"
    elif isinstance(inner, ChoiceBenchmark) and inner.sums_suffice:
        choices: ChoiceSettings = settings
        if choices.normalization == "token-mean" or choices.prompt_format == "chat":
            reason = "lm-eval hands over no token counts and makes chat prompts itself; use normalization sum or character-mean, and plain"
    else:
        reason = "only pairs and choices are offered there, which the sums of log-probabilities of their texts decide"
    if reason is None and "causal" not in benchmark.families:
        reason = "it scores masked models, and lm-eval knows none"
    if reason is not None:
        raise UsageError(f"The benchmark {benchmark.name} cannot be a task of lm-eval: {reason}.")


def task_name(benchmark: str) -> str:
    """Name of a benchmark as a task: ``fairforget_crows-pairs``."""
    return "fairforget_" + re.sub(r"[^\w.-]+", "_", benchmark)


def write_lm_eval_tasks(folder: Path, benchmarks: Sequence[str], part: str = "test") -> list[str]:
    """Write a folder for ``lm_eval --include_path``: a YAML file for each benchmark, and a Python file that makes the tasks.

    Args:
        folder: made when it is missing.
        benchmarks: names as on the command line.
        part: ``test``, ``select`` or ``all``.

    Returns:
        Names of the tasks.

    Raises:
        UsageError: a benchmark that is not known, or cannot be a task.
    """
    from fairforget.benchmarks import resolve

    names: list[str] = []
    functions = ['"""Tasks that fairforget wrote for lm_eval --include_path."""\n\nfrom fairforget.benchmarks import as_lm_eval_task\n']
    for number, benchmark in enumerate(benchmarks):
        chosen = resolve(benchmark)
        refuse_unfit(chosen)
        name = task_name(chosen.name if ":" not in benchmark or chosen.text_setting else benchmark)
        names.append(name)
        # A described file is named by its whole path, since lm_eval may run elsewhere.
        said = str(Path(benchmark).expanduser().resolve()) if isinstance(chosen, FileBenchmark) else benchmark
        functions.append(f"\n\ndef task_{number}():\n    return as_lm_eval_task({said!r}, {part!r}, {name!r})\n")
        write_text(folder / f"{name}.yaml", f"task: {name}\nclass: !function {MODULE}.task_{number}\n")
    write_text(folder / f"{MODULE}.py", "".join(functions))
    return names


def _scorer(benchmark: Benchmark) -> Benchmark:
    return benchmark.scorer if isinstance(benchmark, FileBenchmark) else benchmark


class _Adapter:
    """What a task does beyond lm-eval's ``Task``; a class is made of both when lm-eval is there."""

    benchmark: Benchmark
    items: Sequence[Item]

    def download(self, *arguments: Any, **named: Any) -> None:
        del arguments, named

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        return [
            {"place": place, "item": item.id, "cluster": item.cluster, "stratum": item.stratum, "groups": list(item.groups)}
            for place, item in enumerate(self.items)
        ]

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        context = self.items[doc["place"]].payload.get("context", "")
        return context if isinstance(context, str) else ""

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        right = self.items[doc["place"]].payload.get("right")
        return "" if right is None else str(right)

    def fewshot_context(self, doc: Mapping[str, Any], *arguments: Any, **named: Any) -> str:
        del arguments, named
        return self.doc_to_text(doc)

    def construct_requests(self, doc: Mapping[str, Any], ctx: str, **named: Any) -> list[Any]:
        del ctx
        if named.get("apply_chat_template"):
            raise UsageError(f"Tasks of fairforget have no chat form in lm-eval: run {self.benchmark.name} without --apply_chat_template.")
        instance = harness("api.instance").Instance
        item, inner = self.items[doc["place"]], _scorer(self.benchmark)
        item = inner.as_scored(item) if isinstance(inner, ChoiceBenchmark) else item
        contexts = item.payload.get("context", "")
        contexts = [contexts] * len(item.texts) if isinstance(contexts, str) else list(contexts)
        separator = item.payload.get("separator", " ")
        return [
            instance(
                request_type="loglikelihood", doc=doc, arguments=(context, f"{separator}{text}" if context else text), idx=place,
                metadata=named["metadata"],
            )
            for place, (context, text) in enumerate(zip(contexts, item.texts, strict=True))
        ]

    def process_results(self, doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
        sums = [[np.array([float(total)])] for total, _ in results]
        row = _scorer(self.benchmark).row(self.items[doc["place"]], sums, cast("Model", _CAUSAL))
        found: dict[str, float] = {}
        if row.get("correct") is not None:
            found = {"acc": float(row["correct"]), "answer_nll": float(row["nll"])}
        if row.get("margin") is not None:
            found |= {"pct_stereotype": 100.0 * (row["prefers_stereotype"] == 1), "margin": float(row["margin"])}
        return found

    def aggregation(self) -> dict[str, Any]:
        mean = harness("api.metrics").mean
        return dict.fromkeys(HIGHER_IS_BETTER, mean)

    def higher_is_better(self) -> dict[str, bool]:
        return dict(HIGHER_IS_BETTER)
