"""What a method may be trained on: the `train` part of a built-in source, or the user's file.

Sources by name: ``starter``, ``stereoset``, ``edos``, ``civil-comments``. Anything else is the user's: a path, or ``datasets:owner/name``.
CrowS-Pairs and HateCheck are not among them: they are test data, and their authors ask that nothing be trained on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fairforget.data.catalogue import get_dataset
from fairforget.data.overlap import find_overlap
from fairforget.data.posts import load_edos, load_toxic_spans
from fairforget.data.stereoset import TASKS, StereoSetExample, load_stereoset
from fairforget.data.swaps import swap_gender
from fairforget.data.user_files import HUB_PREFIX, load_user_rows
from fairforget.errors import DataError, UsageError, unknown_name
from fairforget.files import sha256_file

StereoSetTask = Literal["intersentence", "intrasentence", "both"]

USER_ROLES = ("text", "group", "cluster")
"""What a column of the user's training data can be used for; only ``text`` is needed."""


@dataclass(frozen=True)
class TrainingText:
    """One text to be trained on."""

    text: str
    groups: tuple[str, ...]
    """Domains or demographic groups that it is about."""
    cluster: str
    """Texts of one origin: target term, template, or the text itself."""
    counterpart: str = ""
    """The same text with the anti-stereotype in place of the stereotype, where the source has one."""


@dataclass(frozen=True)
class TrainingSource:
    """The texts of a source, and where they came from."""

    name: str
    texts: tuple[TrainingText, ...]
    provenance: dict[str, Any]
    """For the record of a run: source, what was taken, part, options, number and sha256 of the texts, catalogue records of the datasets."""


def training_source(
    source: str | Path, *, stereoset_task: StereoSetTask = "intersentence", columns: Mapping[str, str] | None = None, split: str = "train",
    config: str | None = None,
) -> TrainingSource:
    """Load what is to be trained on.

    Args:
        source: ``starter`` (the shipped training sentences), ``stereoset`` (stereotypes of the `train` part; an intersentence one follows
            its context), ``edos`` (posts of the train split labelled sexist), ``civil-comments`` (posts of the train split with a toxic
            span), the path of a CSV, TSV, JSONL or Parquet file, or ``datasets:owner/name``.
        stereoset_task: which StereoSet task(s) the stereotypes are taken from.
        columns: for the user's data, role (``text``, ``group``, ``cluster``) to column; by default the column ``text``.
        split: split of a `datasets` id.
        config: configuration of a `datasets` id.

    Raises:
        UsageError: the source, the task or a role is not known.
        DataError: the data is missing, damaged, or gives no text.
    """
    name = str(source)
    builders: dict[str, Callable[[], TrainingSource]] = {
        "starter": _starter,
        "stereoset": lambda: _stereoset(stereoset_task),
        "edos": _edos,
        "civil-comments": _civil_comments,
    }
    if name in builders:
        if columns:
            raise UsageError(f"The training source '{name}' has fixed columns: leave out `columns`, or give a file of your own.")
        return builders[name]()
    if not name.startswith(HUB_PREFIX) and not Path(name).expanduser().is_file():
        if Path(name).suffix or len(Path(name).parts) > 1:
            raise DataError(f"There is no file {name} to train on; an id of the datasets library is written {HUB_PREFIX}owner/name.")
        raise unknown_name("training source or file", name, builders)
    return _user(name, columns or {"text": "text"}, split, config)


def training_source_names() -> list[str]:
    """Names of the built-in sources, sorted."""
    return ["civil-comments", "edos", "starter", "stereoset"]


def _source(name: str, taken: str, texts: list[TrainingText], options: dict[str, Any], datasets: list[dict[str, Any]]) -> TrainingSource:
    if not texts:
        raise DataError(f"The training source '{name}' gives no text.")
    provenance: dict[str, Any] = {
        "source": name, "taken": taken, "options": options, "texts": len(texts), "sha256": _digest(texts), "datasets": datasets,
    }
    return TrainingSource(name, tuple(texts), provenance)


def _digest(texts: list[TrainingText]) -> str:
    return hashlib.sha256("\0".join(text.text for text in texts).encode()).hexdigest()


def _stereoset(task: StereoSetTask) -> TrainingSource:
    if task not in (*TASKS, "both"):
        raise unknown_name("StereoSet task", task, [*TASKS, "both"])
    examples = load_stereoset()
    texts = [
        TrainingText(
            text=_in_context(example, example.stereotype.text), groups=(example.bias_type,), cluster=example.target,
            counterpart=_in_context(example, example.anti_stereotype.text),
        )
        for example in examples
        if example.part == "train" and task in (example.task, "both")
    ]
    # A few sentences were written for several terms: one that is selected on or reported is not trained on.
    measured = [
        sentence.text
        for example in examples if example.part != "train"
        for sentence in (example.stereotype, example.anti_stereotype, example.unrelated)
    ]
    whole = len(texts)
    while (report := find_overlap([part for text in texts for part in (text.text, text.counterpart)], measured, swap_gender)).equal:
        met = {match.train // 2 for match in report.matches if match.kind == "equal"}
        texts = [text for number, text in enumerate(texts) if number not in met]
    taken = "stereotypes of the train part" + ("" if task == "intrasentence" else ", intersentence ones after their context")
    options = {"task": task, "part": "train", "left_out": whole - len(texts)}
    return _source("stereoset", taken, texts, options, [get_dataset("stereoset").record()])


def _in_context(example: StereoSetExample, sentence: str) -> str:
    return sentence if example.task == "intrasentence" else f"{example.context} {sentence}"


def _edos() -> TrainingSource:
    texts = [TrainingText(post.text, ("gender",), post.id) for post in load_edos() if post.part == "train" and post.sexist]
    return _source("edos", "posts of the train split labelled sexist", texts, {"part": "train"}, [get_dataset("edos").record()])


def _civil_comments() -> TrainingSource:
    texts = [TrainingText(post.text, (), post.id) for post in load_toxic_spans("train") if post.toxic_characters]
    taken = "posts of the train split with a toxic span"
    return _source("civil-comments", taken, texts, {"part": "train"}, [get_dataset("civil-comments").record()])


def _starter() -> TrainingSource:
    from fairforget.data.starter import STARTER_NOTE, load_starter

    texts = [TrainingText(pair.stereotype, pair.groups[:1], pair.template, pair.anti) for pair in load_starter().pairs_of("train")]
    record = {"name": "starter", "licence": "Apache-2.0", "citation": "Starter set of fairforget.", "content_warning": False}
    record["sha256"] = _digest(texts)
    return _source("starter", "stereotypical sentences of the train pairs", texts, {"part": "train", "note": STARTER_NOTE}, [record])


def _user(source: str, columns: Mapping[str, str], split: str, config: str | None) -> TrainingSource:
    for role in columns:
        if role not in USER_ROLES:
            raise unknown_name("role of a training column", role, USER_ROLES)
    if "text" not in columns:
        raise UsageError("The mapping of training columns names no column for 'text'.")
    texts: list[TrainingText] = []
    for number, row in enumerate(load_user_rows(source, columns, may_be_blank=("group",), split=split, config=config), start=1):
        text, group, cluster = row["text"], row.get("group", ""), row.get("cluster", f"row {number}")
        if not isinstance(text, str) or not isinstance(cluster, str):
            raise DataError(f"{source} row {number}: text and cluster have one value each, not a list.")
        texts.append(TrainingText(text, (group,) if isinstance(group, str) and group else tuple(group), cluster))
    options: dict[str, Any] = {"columns": dict(columns)}
    if source.startswith(HUB_PREFIX):
        options |= {"split": split, "config": config}
    else:
        options["file_sha256"] = sha256_file(Path(source).expanduser())
    return _source(source, "all rows", texts, options, [])
