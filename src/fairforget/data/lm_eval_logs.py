"""Item tables from the samples that lm-evaluation-harness logs, of a run in this process or of a folder that ``--log_samples`` wrote.

A log is a JSONL file with one line per document and filter, written by lm-eval 0.4 as ``samples_TASK_DATE.jsonl``. Multiple-choice lines
carry a log-likelihood per option, from which scores and the answer's likelihood come; lines of generated answers carry the text and a
metric; lines of running text carry its summed log-likelihood and its words.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl

from fairforget.errors import DataError, nearest_names
from fairforget.tables import item_table, preference

Reader: TypeAlias = str | Callable[[Mapping[str, Any]], Any]
"""A field of the document, or a function of it."""

Line: TypeAlias = Mapping[str, Any]

METRICS = ("acc", "exact_match", "em", "acc_norm", "f1")
"""Metrics that say how right a line is, the first one that a line has being taken where none is named."""

ALL_ITEMS = "all"
"""The stratum of items that were given none."""

_RUNNING_TEXT = "word_perplexity"
_LOG_NAME = re.compile(r"^samples_(?P<task>.+?)_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+)$")


@dataclass(frozen=True)
class LogReader:
    """How the lines of a task become items.

    Attributes:
        task: name of the task in the ledger.
        benchmark: name of the benchmark in the ledger.
        metric: which metric of a line says that it is right: a figure from 0 to 1; the first of ``METRICS`` that it has when None.
        groups: demographic groups of a document: a name, a list of names, or nothing.
        cluster: what is resampled together (template, dialogue); each document is a cluster of its own when None.
        stratum: within which clusters are resampled; one for all when None.
        role: ``bias`` where the first option is the stereotype and the second its counterpart: they then have a margin too.
    """

    task: str
    benchmark: str = "lm-eval"
    metric: str | None = None
    groups: Reader | None = None
    cluster: Reader | None = None
    stratum: Reader | None = None
    role: Literal["bias", "ability"] = "ability"

    def row(self, line: Line, where: str) -> dict[str, Any]:
        """The row of a line, ``tables.ITEM_SCHEMA``.

        Args:
            line: as logged.
            where: file and line, for messages.

        Raises:
            DataError: the line lacks the metric or a field.
        """
        document: Mapping[str, Any] = line.get("doc") or {}
        found = read_field(document, self.groups, where)
        names = [] if found is None else [found] if isinstance(found, str) else list(found)
        return {
            "benchmark": self.benchmark, "task": self.task, "role": self.role, "part": "test", "item": str(line["doc_id"]),
            "cluster": str(line["doc_id"] if self.cluster is None else read_field(document, self.cluster, where)),
            "stratum": ALL_ITEMS if self.stratum is None else str(read_field(document, self.stratum, where)),
            "groups": [str(name) for name in names], "prompt_format": "as logged",
            "prompt_hash": _prompt_hash(line), **self.measured(line, where),
        }

    def measured(self, line: Line, where: str) -> dict[str, Any]:
        """Protocol, texts and figures of a line."""
        scores, texts = _scores(line), _texts(line)
        own: dict[str, Any] = {"texts": texts, "scores": scores, "choice": _choice(scores)}
        if self.role == "bias" and len(scores) > 1:
            own |= {"margin": scores[0] - scores[1], "prefers_stereotype": preference(scores[0] - scores[1])}
        right = _right(line, scores)
        if right is not None:
            own["nll"] = -scores[right]
        answers = line.get("filtered_resps") or []
        if len(answers) == 1 and isinstance(answers[0], str):
            own["answer"] = answers[0]
        metric = self._metric(line, where)
        if metric == _RUNNING_TEXT:
            total, words = line[_RUNNING_TEXT]
            return own | {"protocol": "lm-eval word_perplexity", "nll": -float(total), "words": int(words)}
        if metric is None:
            return own | {"protocol": "lm-eval options"}
        return own | {"protocol": f"lm-eval {metric}", "correct": _share(line, metric, where)}

    def _metric(self, line: Line, where: str) -> str | None:
        if self.metric is not None:
            return self.metric
        known = [name for name in METRICS if isinstance(line.get(name), (int, float))]
        if self.role == "bias" and len(_scores(line)) > 1:
            return None  # which option is preferred says it all, and is not a matter of right and wrong
        if known:
            return known[0]
        if isinstance(line.get(_RUNNING_TEXT), (list, tuple)):
            return _RUNNING_TEXT
        names = ", ".join(str(name) for name in line.get("metrics", [])) or "none"
        raise DataError(f"{where}: no metric of this task is known to be a share from 0 to 1; its metrics are {names}: name one.")


def items_from_lm_eval(
    path: Path | str, *, task: str, metric: str | None = "acc", filter_name: str | None = None, groups: Reader | None = None,
    cluster: Reader | None = None, stratum: Reader | None = None, role: Literal["bias", "ability"] = "ability",
    benchmark: str = "lm-eval",
) -> pl.DataFrame:
    """Read a sample log as an item table; two of them, before and after, make a ledger.

    Args:
        path: the JSONL file.
        task: name of the task in the ledger.
        metric: which metric of a line says that it is right: a figure from 0 to 1; None = the first of ``METRICS`` that is there.
        filter_name: lines of which filter; needed where the log holds several.
        groups: demographic groups of a document: a name, a list of names, or nothing.
        cluster: what is resampled together (template, dialogue); each document is a cluster of its own when None.
        stratum: within which clusters are resampled; one for all when None.
        role: ``bias`` where the first option is the stereotype and the second its counterpart.
        benchmark: name of the benchmark in the ledger.

    Raises:
        DataError: the file cannot be read, a line is not of such a log, lacks the metric or the field, or several filters are in it.
    """
    reader = LogReader(task, benchmark, metric, groups, cluster, stratum, role)
    lines = read_log(Path(path))
    filters = log_filters(lines)
    chosen = filter_name if filter_name is not None else filters[0] if len(filters) == 1 else None
    if chosen not in filters:
        raise DataError(f"{path} holds the filters {', '.join(filters)}: say which one with filter_name.")
    return item_table(
        reader.row(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if _filter(line) == chosen
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a sample log.

    Raises:
        DataError: the file cannot be read, or a line is not of such a log.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a sample log of lm-eval ({error}): give a file that --log_samples wrote.") from error
    broken = next((number for number, line in enumerate(lines, start=1) if not isinstance(line, dict) or "doc_id" not in line), None)
    if broken is not None or not lines:
        raise DataError(f"{path}, line {broken or 1}: not a line of a sample log of lm-eval, which has doc, doc_id and filtered_resps.")
    return lines


def log_filters(lines: Sequence[Line]) -> list[str]:
    """Filters of the lines, sorted."""
    return sorted({_filter(line) for line in lines})


def sample_logs(place: Path) -> dict[str, Path]:
    """Sample logs under a folder, the newest of each task, or the one log that a file is.

    Raises:
        DataError: there are none.
    """
    if place.is_file():
        match = _LOG_NAME.match(place.stem)
        return {match["task"] if match else place.stem.removeprefix("samples_"): place}
    dated: dict[str, tuple[str, Path]] = {}
    for path in sorted(place.rglob("samples_*.jsonl")) if place.is_dir() else []:
        match = _LOG_NAME.match(path.stem)
        task, date = (match["task"], match["date"]) if match else (path.stem.removeprefix("samples_"), "")
        if task not in dated or date > dated[task][0]:
            dated[task] = (date, path)
    if not dated:
        raise DataError(
            f"{place} holds no sample logs (samples_TASK_DATE.jsonl): run lm_eval with --log_samples --output_path, and name that folder."
        )
    return {task: path for task, (_, path) in sorted(dated.items())}


def logged_model(place: Path) -> str:
    """Name of the model behind logs, from the newest ``results_*.json`` beside them; the folder's or file's name where none says it."""
    folder = place if place.is_dir() else place.parent
    for path in sorted(folder.rglob("results_*.json"), key=lambda found: found.name, reverse=True):
        try:
            name = json.loads(path.read_text(encoding="utf-8")).get("model_name")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(name, str) and name:
            return name
    return place.name


def read_field(document: Mapping[str, Any], reader: Reader | None, where: str) -> Any:
    """A field of a document, or what a function makes of it; None for no reader.

    Raises:
        DataError: the document has no such field.
    """
    if reader is None:
        return None
    if callable(reader):
        return reader(document)
    if reader not in document:
        fields = ", ".join(sorted(document))
        raise DataError(f"{where}: the document has no field '{reader}'; its fields are {fields}; {nearest_names(reader, document)}")
    return document[reader]


def _filter(line: Line) -> str:
    return str(line.get("filter", "none"))


def _share(line: Line, metric: str, where: str) -> float:
    try:
        correct = float(line[metric])
    except (KeyError, TypeError, ValueError) as error:
        known = ", ".join(str(name) for name in line.get("metrics", [])) or "none"
        raise DataError(f"{where}: there is no figure '{metric}'; its metrics are {known}: choose one with metric.") from error
    if not 0 <= correct <= 1:
        raise DataError(f"{where}: '{metric}' is {correct}, not a share from 0 to 1; choose another metric.")
    return correct


def _prompt_hash(line: Line) -> str | None:
    """16 digits of the arguments that the harness called the model with; None where they were not logged."""
    asked = line.get("arguments")
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16] if asked else None


def _scores(line: Line) -> list[float]:
    """Log-likelihood of each option, or of the one continuation; nothing for a generated answer."""
    answers: Sequence[Any] = line.get("filtered_resps") or []
    pairs = [answer for answer in answers if isinstance(answer, (list, tuple)) and len(answer) == 2]
    if not pairs or len(pairs) != len(answers):
        return []
    try:
        return [float(answer[0]) for answer in pairs]
    except (TypeError, ValueError):
        return []


def _choice(scores: Sequence[float]) -> int | None:
    if len(scores) < 2:
        return None
    best = int(np.argmax(scores))
    tied = any(place != best and preference(scores[best] - score) == 0.5 for place, score in enumerate(scores))
    return None if tied else best


def _right(line: Line, scores: Sequence[float]) -> int | None:
    """Place of the right option: the target is its number, or its text."""
    target = str(line.get("target", "")).strip()
    if len(scores) == 1:
        return 0
    if target.isdigit() and int(target) < len(scores):
        return int(target)
    options = [str(parts[1]).strip() if len(parts) > 1 else "" for parts in _arguments(line)]
    return options.index(target) if target and options.count(target) == 1 and len(options) == len(scores) else None


def _arguments(line: Line) -> list[list[Any]]:
    arguments = line.get("arguments") or {}
    requests = arguments.values() if isinstance(arguments, dict) else arguments
    return [list(request.values()) if isinstance(request, dict) else list(request) for request in requests]


def _texts(line: Line) -> list[str]:
    """Context and option of each request, as the model saw them."""
    return ["".join(part for part in parts if isinstance(part, str)) for parts in _arguments(line)]
