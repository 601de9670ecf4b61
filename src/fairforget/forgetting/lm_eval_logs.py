"""Item tables from the sample logs of lm-evaluation-harness (``--log_samples``), so that models tuned elsewhere can have a ledger.

A log is a JSONL file with one line per document and filter, written by lm-eval 0.4 as ``samples_TASK_DATE.jsonl``. Multiple-choice lines
carry a log-likelihood per option, from which scores and the answer's likelihood come; lines of generated answers carry a metric only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from fairforget.errors import DataError
from fairforget.tables import item_table

Reader: TypeAlias = str | Callable[[Mapping[str, Any]], Any]
"""A field of the document, or a function of it."""


def items_from_lm_eval(
    path: Path | str, *, task: str, metric: str = "acc", filter_name: str | None = None, groups: Reader | None = None,
    cluster: Reader | None = None, stratum: Reader | None = None,
) -> pl.DataFrame:
    """Read a sample log as an item table; two of them, before and after, make a ledger.

    Args:
        path: the JSONL file.
        task: name of the task in the ledger.
        metric: which metric of a line says that it is right: a figure from 0 to 1.
        filter_name: lines of which filter; needed where the log holds several.
        groups: demographic groups of a document: a name, a list of names, or nothing.
        cluster: what is resampled together (template, dialogue); each document is a cluster of its own when None.
        stratum: within which clusters are resampled; one for all when None.

    Raises:
        DataError: the file cannot be read, a line is not of such a log, lacks the metric or the field, or several filters are in it.
    """
    lines = _lines(Path(path))
    filters = {str(line.get("filter", "none")) for line in lines}
    chosen = filter_name if filter_name is not None else next(iter(filters)) if len(filters) == 1 else None
    if chosen not in filters:
        raise DataError(f"{path} holds the filters {', '.join(sorted(filters))}: say which one with filter_name.")
    rows = [
        _row(line, str(path), number, task, metric, groups, cluster, stratum)
        for number, line in enumerate(lines, start=1)
        if str(line.get("filter", "none")) == chosen
    ]
    return item_table(rows)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a sample log of lm-eval ({error}): give a file that --log_samples wrote.") from error
    broken = next((number for number, line in enumerate(lines, start=1) if not isinstance(line, dict) or "doc_id" not in line), None)
    if broken is not None or not lines:
        raise DataError(f"{path}, line {broken or 1}: not a line of a sample log of lm-eval, which has doc, doc_id and filtered_resps.")
    return lines


def _row(
    line: Mapping[str, Any], path: str, number: int, task: str, metric: str, groups: Reader | None, cluster: Reader | None,
    stratum: Reader | None,
) -> dict[str, Any]:
    where = f"{path}, line {number}"
    try:
        correct = float(line[metric])
    except (KeyError, TypeError, ValueError) as error:
        known = ", ".join(str(name) for name in line.get("metrics", [])) or "none"
        raise DataError(f"{where}: there is no figure '{metric}'; its metrics are {known}: choose one with metric.") from error
    if not 0 <= correct <= 1:
        raise DataError(f"{where}: '{metric}' is {correct}, not a share from 0 to 1; choose another metric.")
    document: Mapping[str, Any] = line.get("doc") or {}
    scores, target = _scores(line), str(line.get("target", ""))
    found = _read(document, groups, where)
    names = [] if found is None else [found] if isinstance(found, str) else list(found)
    own: dict[str, Any] = {"scores": scores, "texts": _texts(line)}
    if scores and target.isdigit() and int(target) < len(scores):
        own["nll"] = -scores[int(target)]
    return own | {
        "benchmark": "lm-eval", "protocol": f"lm-eval {metric}", "task": task, "role": "ability", "part": "test",
        "item": str(line["doc_id"]),
        "cluster": str(line["doc_id"] if cluster is None else _read(document, cluster, where)),
        "stratum": ALL_ITEMS if stratum is None else str(_read(document, stratum, where)),
        "groups": [str(name) for name in names], "correct": correct, "prompt_format": "as logged",
    }


ALL_ITEMS = "all"
"""The stratum of items that were given none."""


def _read(document: Mapping[str, Any], reader: Reader | None, where: str) -> Any:
    if reader is None:
        return None
    if callable(reader):
        return reader(document)
    if reader not in document:
        raise DataError(f"{where}: the document has no field '{reader}'; its fields are {', '.join(sorted(document))}.")
    return document[reader]


def _scores(line: Mapping[str, Any]) -> list[float]:
    """Log-likelihood of each option; nothing for a generated answer."""
    answers: Sequence[Any] = line.get("filtered_resps") or []
    pairs = [answer for answer in answers if isinstance(answer, list) and len(answer) == 2]
    if len(pairs) < 2 or len(pairs) != len(answers):
        return []
    try:
        return [float(answer[0]) for answer in pairs]
    except (TypeError, ValueError):
        return []


def _texts(line: Mapping[str, Any]) -> list[str]:
    """Context and option of each request, as the model saw them."""
    arguments = line.get("arguments") or {}
    requests = arguments.values() if isinstance(arguments, dict) else arguments
    texts: list[str] = []
    for request in requests:
        parts = request.values() if isinstance(request, dict) else request
        texts.append("".join(part for part in parts if isinstance(part, str)))
    return texts
