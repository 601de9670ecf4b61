"""StereoSet: a context with a stereotype, an anti-stereotype and an unrelated text (Nadeem et al. 2021, ACL), development set.

Intrasentence: the three sentences fill the word ``BLANK`` of the context. Intersentence: the three sentences follow the context. The
official predictions and figures are loaded too: they check a metric without any model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.data.catalogue import fetch
from fairforget.data.parts import TRAIN_SELECT_TEST, assign_parts, home_strata
from fairforget.data.rows import read_json, read_text
from fairforget.errors import DataError, unknown_name

TASKS = ("intrasentence", "intersentence")
LABELS = ("stereotype", "anti-stereotype", "unrelated")
PREDICTION_FILES = {
    "bert-base-cased": "predictions_bert-base-cased_BertNextSentence_BertLM.json",
    "gpt2": "predictions_gpt2_ModelNSP_GPT2LM.json",
    "gpt2-medium": "predictions_gpt2-medium_ModelNSP_GPT2LM.json",
    "roberta-base": "predictions_roberta-base_ModelNSP_RoBERTaLM.json",
}
"""Official predictions file of each model whose scores are in the catalogue."""


@dataclass(frozen=True)
class Sentence:
    """One of an example's three sentences, with its upstream id."""

    id: str
    text: str


@dataclass(frozen=True)
class StereoSetExample:
    """One example of either task."""

    id: str
    task: str
    """``intrasentence`` or ``intersentence``."""
    target: str
    """The term the example is about; it is the cluster."""
    bias_type: str
    context: str
    stereotype: Sentence
    anti_stereotype: Sentence
    unrelated: Sentence
    stratum: str
    """The bias type under which the target occurs most often, over both tasks."""
    part: str
    """``train``, ``select`` or ``test``, by target: the same for both tasks."""


def load_stereoset(path: Path | None = None) -> list[StereoSetExample]:
    """Load all examples of both tasks, intrasentence first, in upstream order.

    Parts: the target terms are cut 40/20/40 into train, select and test within bias types, once for both tasks. The real data has 79
    terms (race 36, profession 30, gender 10, religion 3), every one under one bias type and in both tasks; a term met under several bias
    types would belong to its most frequent one, so that a term is always in one part.

    Args:
        path: a file in the upstream format; by default the one of the catalogue.

    Raises:
        DataError: the file is not in the upstream format or has no examples.
    """
    path = path or fetch("stereoset", "dev.json")
    content = read_json(path)
    raw: list[tuple[str, dict[str, Any]]] = []
    for task in TASKS:
        try:
            raw.extend((task, example) for example in content["data"][task])
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} has no list data.{task}: it is not a StereoSet file.") from error
    if not raw:
        raise DataError(f"{path} holds no examples.")
    plain = [_example(path, number, task, example) for number, (task, example) in enumerate(raw)]
    targets, types = [example["target"] for example in plain], [example["bias_type"] for example in plain]
    strata, parts = home_strata(targets, types), assign_parts(targets, types, TRAIN_SELECT_TEST)
    return [StereoSetExample(**example, stratum=stratum, part=part) for example, stratum, part in zip(plain, strata, parts, strict=True)]


def _example(path: Path, number: int, task: str, raw: dict[str, Any]) -> dict[str, Any]:
    try:
        sentences = {entry["gold_label"]: Sentence(entry["id"], entry["sentence"]) for entry in raw["sentences"]}
        if set(sentences) != set(LABELS) or len(raw["sentences"]) != len(LABELS):
            raise DataError(f"{path} example {number} ({task}): its sentences are not one each of {', '.join(LABELS)}.")
        return {
            "id": raw["id"], "task": task, "target": raw["target"], "bias_type": raw["bias_type"], "context": raw["context"],
            "stereotype": sentences["stereotype"], "anti_stereotype": sentences["anti-stereotype"], "unrelated": sentences["unrelated"],
        }
    except KeyError as error:
        raise DataError(f"{path} example {number} ({task}) has no field {error}: it is not a StereoSet file.") from error
    except TypeError as error:
        raise DataError(f"{path} example {number} ({task}) is not an object with the fields of StereoSet.") from error


def load_predictions(model: str, path: Path | None = None) -> dict[str, dict[str, float]]:
    """Load a published model's scores: task to sentence id to score (higher means preferred).

    Args:
        model: a key of :data:`PREDICTION_FILES`; it is not looked at when `path` is given.
        path: another file in the format of the official scorer.

    Raises:
        UsageError: no predictions of that model are in the catalogue.
        DataError: the file is not in the format of the official scorer.
    """
    if path is None:
        if model not in PREDICTION_FILES:
            raise unknown_name("model with StereoSet predictions", model, PREDICTION_FILES)
        path = fetch("stereoset-predictions", "predictions/" + PREDICTION_FILES[model])
    content = read_json(path)
    try:
        return {task: {entry["id"]: float(entry["score"]) for entry in content[task]} for task in TASKS}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a StereoSet predictions file: lists of id and score under the names of the tasks.") from error


def load_official_results(path: Path | None = None) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Load the figures that the authors' scorer printed: predictions file to task to domain to figure.

    Figures are ``Count``, ``LM Score``, ``SS Score`` and ``ICAT Score`` (percent). The domain ``overall`` is the mean over all target
    terms; the task ``overall`` has only that one.

    Raises:
        DataError: the file is not in the format of the authors' scorer.
    """
    path = path or fetch("stereoset-predictions", "predictions/official_results.txt")
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    file = task = domain = ""
    try:
        for line in read_text(path).splitlines():
            text = line.strip()
            if text.startswith("Evaluating "):
                file = text.removeprefix("Evaluating ").removesuffix("...").rpartition("/")[2]
                results[file] = {}
            elif text and ":" not in text:
                depth = len(line) - len(line.lstrip("\t"))
                task, domain = (task, text) if depth else (text, "overall")
            elif text:
                name, _, value = text.partition(": ")
                results[file].setdefault(task, {}).setdefault(domain, {})[name] = float(value)
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} is not what the StereoSet scorer prints.") from error
    return results
