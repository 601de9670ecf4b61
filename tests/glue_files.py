"""Made-up files of the nine GLUE tasks in upstream's format, and a tokenizer that joins pairs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairforget.models import Model

COLOURS = ("red", "green", "blue")
PLACES = ("house", "city", "street", "river", "hill")
FOLDERS = {
    "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "mnli": "MNLI", "qnli": "QNLI", "rte": "RTE",
    "wnli": "WNLI",
}
HEADERS = {
    "cola": None,
    "sst2": ["sentence", "label"],
    "mrpc": ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
    "stsb": ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"],
    "qqp": ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    "mnli": [
        "index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse",
        "sentence1", "sentence2", "label1", "gold_label",
    ],
    "qnli": ["index", "question", "sentence", "label"],
    "rte": ["index", "sentence1", "sentence2", "label"],
    "wnli": ["index", "sentence1", "sentence2", "label"],
}


def glue_row(task: str, number: int, split: str) -> list[str]:
    """One row; its class follows from words in it, and no two splits share a text."""
    colour, place = COLOURS[number % len(COLOURS)], PLACES[number % len(PLACES)]
    where = f"{split} {number} {place}"
    right = number % 2
    texts = [f"a {'good' if right else 'bad'} {colour} bird at the {where}", f"the {'good' if right else 'bad'} bird {where}"]
    entailed = "entailment" if right else "not_entailment"
    return {
        "cola": ["gj04" if split == "train" or right else "clc95", str(right), "" if right else "*", texts[0]],
        "sst2": [texts[0], str(right)],
        "mrpc": [str(right), str(number), str(number + 1000), *texts],
        "stsb": [str(number), "main-news", "file", "2012", "0", "none", "none", *texts, f"{1 + 3 * right}.5"],
        "qqp": [str(number), "1", "2", *texts, str(right)],
        "mnli": [str(number), "1", "p", "fiction", "()", "()", "()", "()", *texts, "x",
                 ("entailment", "neutral", "contradiction")[number % 3]],
        "qnli": [str(number), *texts, entailed],
        "rte": [str(number), *texts, entailed],
        "wnli": [str(number), *texts, str(right)],
    }[task]


def write_tsv(path: Path, lines: Iterable[Iterable[str]]) -> Path:
    """Write rows with tabs between fields and nothing quoted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8", newline="")
    return path


def write_glue(folder: Path, task: str, *, train: int = 48, dev: int = 24) -> Path:
    """Write the training and development files of a task (of MNLI both) to a folder of upstream's name; returns that folder."""
    header = HEADERS[task]
    first = [header] if header else []
    names = {"train": "train.tsv", "dev": "dev_matched.tsv" if task == "mnli" else "dev.tsv"}
    sizes = {"train": train, "dev": dev}
    for split, name in names.items():
        write_tsv(folder / FOLDERS[task] / name, [*first, *(glue_row(task, number, split) for number in range(sizes[split]))])
    if task == "mnli":
        write_tsv(folder / "MNLI" / "dev_mismatched.tsv", [*first, *(glue_row(task, number, "other") for number in range(dev))])
    return folder / FOLDERS[task]


def with_pair_template(model: Model) -> Model:
    """Give the tiny tokenizer BERT's way of joining two texts."""
    from tokenizers import processors

    ids = {name: model.tokenizer.convert_tokens_to_ids(name) for name in ("[CLS]", "[SEP]")}
    model.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ids.items())
    )
    model.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return model
