"""What a method may be trained on: the `train` part of a built-in source, or the user's file.

Sources by name: ``starter``, ``stereoset``, ``bbq``, ``winogender``, ``edos``, ``civil-comments``, ``corpus``, ``gap``, ``stsb``, and
``qa:TASK``, the questions of a task. Anything else is the user's: a path, or ``datasets:owner/name``. CrowS-Pairs and HateCheck are not
among them: they are test data, and their authors ask that nothing be trained on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.data.bbq import INTERSECTIONAL, bbq_pair, load_bbq
from fairforget.data.catalogue import get_dataset
from fairforget.data.gap import load_gap
from fairforget.data.overlap import find_overlap, folded_key
from fairforget.data.posts import load_edos, load_toxic_spans
from fairforget.data.question_answering import TASK_DATASETS, load_questions, put_question, question_tasks
from fairforget.data.stereoset import TASKS, StereoSetExample, load_stereoset
from fairforget.data.stsb import load_stsb
from fairforget.data.swaps import swap_gender
from fairforget.data.user_files import HUB_PREFIX, load_user_rows
from fairforget.data.winogender import load_winogender
from fairforget.errors import DataError, UsageError, unknown_name
from fairforget.files import sha256_file

USER_ROLES = ("text", "prompt", "counterpart", "partner", "group", "cluster")
"""What a column of the user's training data can be used for; only ``text`` is needed. ``prompt`` holds the question that the text answers,
``counterpart`` the same text with the anti-stereotype in place of the stereotype, e.g. ``sent_less`` to the text ``sent_more`` in a file
like CrowS-Pairs, ``partner`` a text that goes with it, as a hypothesis goes with its premise."""


QUESTIONS = "qa:"
"""What the name of a source begins with that is a question-answering task."""

ALIKE = 4.0
"""Score of an STS-B pair from which on its sentences count as following from each other (MABEL's entailment pairs are not to be had)."""


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
    partner: str = ""
    """Another text that goes with it: that follows from it, or says nearly the same."""
    spans: tuple[tuple[int, int], ...] = ()
    """Start and end of the characters that annotators found harmful, where the source has them."""
    prompt: str = ""
    """What stands right before the text where that is the answer to a question, white space included: given, and not learned itself."""


@dataclass(frozen=True)
class TrainingSource:
    """The texts of a source, and where they came from."""

    name: str
    texts: tuple[TrainingText, ...]
    provenance: dict[str, Any]
    """For the record of a run: source, what was taken, part, options, number and sha256 of the texts, catalogue records of the datasets."""


def training_source(
    source: str | Path, *, stereoset_task: str = "intersentence", columns: Mapping[str, str] | None = None, split: str = "train",
    config: str | None = None, groups: Sequence[str] = (),
) -> TrainingSource:
    """Load what is to be trained on.

    Args:
        source: ``starter`` (the shipped training sentences), ``stereoset`` (stereotypes of the `train` part; an intersentence one follows
            its context), ``bbq`` (ambiguous questions of the `train` part of the nine plain categories with the stereotyped option, see
            :func:`fairforget.data.bbq.bbq_pair`), ``winogender`` (sentences of the `train` occupations with the pronoun of the
            stereotype), ``edos`` (posts of the train split labelled sexist), ``civil-comments`` (posts of the train split with a toxic
            span), ``corpus`` (neutral sentences that name a gender, race or religion), ``gap`` (Wikipedia snippets with a pronoun),
            ``stsb`` (pairs of sentences that say nearly the same), ``qa:TASK`` (questions of the `train` part of a task of
            :mod:`fairforget.data.question_answering`, answered by letters), the path of a CSV, TSV, JSONL or Parquet file, or
            ``datasets:owner/name``.
        stereoset_task: which StereoSet task(s) the stereotypes are taken from: ``intersentence``, ``intrasentence`` or ``both``.
        columns: for the user's data, role (see :data:`USER_ROLES`) to column; by default the column ``text``.
        split: split of a `datasets` id.
        config: configuration of a `datasets` id.
        groups: only texts of these groups or domains are kept; all when empty.

    Raises:
        UsageError: the source, the task, a role or a group is not known.
        DataError: the data is missing, damaged, or gives no text.
    """
    whole = _whole_source(source, stereoset_task, columns, split, config)
    if not groups:
        return whole
    known = sorted({group for text in whole.texts for group in text.groups})
    unknown = next((group for group in groups if group not in known), None)
    if unknown is not None:
        raise unknown_name(f"group of {whole.name}", unknown, known)
    texts = tuple(text for text in whole.texts if set(groups) & set(text.groups))
    options = {**whole.provenance.get("options", {}), "groups": list(groups)}
    facts = {"options": options, "texts": len(texts), "sha256": _digest(list(texts))}
    return TrainingSource(whole.name, texts, {**whole.provenance, **facts})


def _whole_source(
    source: str | Path, stereoset_task: str, columns: Mapping[str, str] | None, split: str, config: str | None
) -> TrainingSource:
    name = str(source)
    builders: dict[str, Callable[[], TrainingSource]] = {
        "starter": _starter,
        "stereoset": lambda: _stereoset(stereoset_task),
        "bbq": _bbq,
        "winogender": _winogender,
        "edos": _edos,
        "civil-comments": _civil_comments,
        "corpus": _corpus,
        "gap": _gap,
        "stsb": _stsb,
        **{f"{QUESTIONS}{task}": lambda task=task: _questions(task) for task in question_tasks()},
    }
    if name in builders:
        if columns:
            raise UsageError(f"The training source '{name}' has fixed columns: leave out `columns`, or give a file of your own.")
        return builders[name]()
    if name.startswith(QUESTIONS):
        raise unknown_name("training source", name, builders)
    if not name.startswith(HUB_PREFIX) and not Path(name).expanduser().is_file():
        if Path(name).suffix or len(Path(name).parts) > 1:
            raise DataError(f"There is no file {name} to train on; an id of the datasets library is written {HUB_PREFIX}owner/name.")
        raise unknown_name("training source or file", name, builders)
    return _user(name, columns or {"text": "text"}, split, config)


def training_source_names() -> list[str]:
    """Names of the built-in sources, sorted."""
    plain = ["bbq", "civil-comments", "corpus", "edos", "gap", "starter", "stereoset", "stsb", "winogender"]
    return sorted([*plain, *(f"{QUESTIONS}{task}" for task in question_tasks())])


def _source(name: str, taken: str, texts: list[TrainingText], options: dict[str, Any], datasets: list[dict[str, Any]]) -> TrainingSource:
    if not texts:
        raise DataError(f"The training source '{name}' gives no text.")
    provenance: dict[str, Any] = {
        "source": name, "taken": taken, "options": options, "texts": len(texts), "sha256": _digest(texts), "datasets": datasets,
    }
    return TrainingSource(name, tuple(texts), provenance)


def _digest(texts: list[TrainingText]) -> str:
    return hashlib.sha256("\0".join(text.prompt + text.text for text in texts).encode()).hexdigest()


def _stereoset(task: str) -> TrainingSource:
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
    measured = _measured(examples)
    whole = len(texts)
    while (report := find_overlap([part for text in texts for part in (text.text, text.counterpart)], measured, swap_gender)).equal:
        met = {match.train // 2 for match in report.matches if match.kind == "equal"}
        texts = [text for number, text in enumerate(texts) if number not in met]
    taken = "stereotypes of the train part" + ("" if task == "intrasentence" else ", intersentence ones after their context")
    options = {"task": task, "part": "train", "left_out": whole - len(texts)}
    return _source("stereoset", taken, texts, options, [get_dataset("stereoset").record()])


def stereoset_unrelated() -> list[str]:
    """The unrelated sentences of StereoSet's `train` terms, those of `intersentence` after their context; none that is measured."""
    examples = load_stereoset()
    measured = {folded_key(text) for text in _measured(examples)}
    return list(dict.fromkeys(
        _in_context(example, example.unrelated.text)
        for example in examples
        if example.part == "train" and folded_key(example.unrelated.text) not in measured
    ))


def _measured(examples: Sequence[StereoSetExample]) -> list[str]:
    """The sentences that are selected on or reported."""
    return [
        sentence.text
        for example in examples if example.part != "train"
        for sentence in (example.stereotype, example.anti_stereotype, example.unrelated)
    ]


def _in_context(example: StereoSetExample, sentence: str) -> str:
    return sentence if example.task == "intrasentence" else f"{example.context} {sentence}"


def _bbq() -> TrainingSource:
    texts: list[TrainingText] = []
    for item in load_bbq():
        if item.part == "train" and item.condition == "ambig" and item.category not in INTERSECTIONAL and item.biased is not None:
            text, counterpart = bbq_pair(item)
            texts.append(TrainingText(text, (item.category,), item.cluster, counterpart))
    taken = "ambiguous questions of the train part with the stereotyped option, nine plain categories"
    return _source("bbq", taken, texts, {"part": "train", "condition": "ambig"}, [get_dataset("bbq").record()])


def _winogender() -> TrainingSource:
    texts = [
        TrainingText(triplet.advantaged, ("gender",), triplet.occupation, triplet.disadvantaged)
        for triplet in load_winogender() if triplet.part == "train"
    ]
    taken = "sentences of the train occupations with the pronoun of the stereotype"
    return _source("winogender", taken, texts, {"part": "train"}, [get_dataset("winogender").record()])


def _edos() -> TrainingSource:
    texts = [TrainingText(post.text, ("gender",), post.id) for post in load_edos() if post.part == "train" and post.sexist]
    return _source("edos", "posts of the train split labelled sexist", texts, {"part": "train"}, [get_dataset("edos").record()])


def _civil_comments() -> TrainingSource:
    texts = [
        TrainingText(post.text, (), post.id, spans=_runs(post.toxic_characters))
        for post in load_toxic_spans("train") if post.toxic_characters
    ]
    taken = "posts of the train split with a toxic span"
    return _source("civil-comments", taken, texts, {"part": "train"}, [get_dataset("civil-comments").record()])


def _runs(characters: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Stretches of consecutive places."""
    runs: list[tuple[int, int]] = []
    for place in sorted(characters):
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return tuple(runs)


def _corpus() -> TrainingSource:
    from fairforget.data.group_sentences import CORPUS, group_sentences

    texts = [TrainingText(sentence, axes, sentence) for sentence, axes in group_sentences().items()]
    taken = "neutral sentences with a gender, race or religion word"
    return _source("corpus", taken, texts, {"part": "train"}, [get_dataset(CORPUS).record()])


def _gap() -> TrainingSource:
    texts = [TrainingText(snippet.text, (snippet.gender,), snippet.page) for snippet in load_gap("train")]
    return _source("gap", "snippets of the development split", texts, {"part": "train"}, [get_dataset("gap").record()])


def _stsb() -> TrainingSource:
    texts = [TrainingText(pair.first, (), pair.first, partner=pair.second) for pair in load_stsb("train") if pair.score >= ALIKE]
    taken = f"pairs of the train split with a score of {ALIKE:g} or more"
    return _source("stsb", taken, texts, {"part": "train", "score": ALIKE}, [get_dataset("stsb").record()])


def _starter() -> TrainingSource:
    from fairforget.data.starter import STARTER_NOTE, load_starter

    texts = [TrainingText(pair.stereotype, pair.groups[:1], pair.template, pair.anti) for pair in load_starter().pairs_of("train")]
    record = {"name": "starter", "licence": "Apache-2.0", "citation": "Starter set of fairforget.", "content_warning": False}
    record["sha256"] = _digest(texts)
    return _source("starter", "stereotypical sentences of the train pairs", texts, {"part": "train", "note": STARTER_NOTE}, [record])


def _questions(task: str) -> TrainingSource:
    texts = [
        TrainingText(text=answers[right], groups=question.groups, cluster=question.cluster, prompt=f"{prompt} ")
        for question in load_questions(task)
        if question.part == "train"
        for prompt, answers, right in [put_question(question)]
    ]
    return _source(f"{QUESTIONS}{task}", "questions of the train part, answered by letters", texts, {},
                   [get_dataset(TASK_DATASETS[task]).record()])


def _user(source: str, columns: Mapping[str, str], split: str, config: str | None) -> TrainingSource:
    for role in columns:
        if role not in USER_ROLES:
            raise unknown_name("role of a training column", role, USER_ROLES)
    if "text" not in columns:
        raise UsageError("The mapping of training columns names no column for 'text'.")
    texts: list[TrainingText] = []
    rows = load_user_rows(source, columns, may_be_blank=("group", "counterpart", "partner", "prompt"), split=split, config=config)
    for number, row in enumerate(rows, start=1):
        text, group, cluster = row["text"], row.get("group", ""), row.get("cluster", f"row {number}")
        single = [text, cluster, *(row.get(role, "") for role in ("counterpart", "partner", "prompt"))]
        words = [value for value in single if isinstance(value, str)]
        if len(words) < len(single):
            raise DataError(f"{source} row {number}: text, cluster, counterpart, partner and prompt have one value each, not a list.")
        prompt = words[4] if not words[4] or words[4][-1].isspace() else f"{words[4]} "
        groups = (group,) if isinstance(group, str) and group else tuple(group)
        texts.append(TrainingText(words[0], groups, words[1], words[2], words[3], prompt=prompt))
    options: dict[str, Any] = {"columns": dict(columns)}
    if source.startswith(HUB_PREFIX):
        options |= {"split": split, "config": config}
    else:
        options["file_sha256"] = sha256_file(Path(source).expanduser())
    return _source(source, "all rows", texts, options, [])
