"""GLUE's files: all nine tasks in upstream's format, copies in other forms, and what is wrong with broken ones."""

from __future__ import annotations

import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from glue_files import FOLDERS, HEADERS, glue_row, write_glue, write_tsv

from fairforget.data.glue import GLUE, has_split, load_glue
from fairforget.errors import DataError, UsageError

UNLICENSED = Path(__file__).resolve().parents[3] / "shared" / "data-unlicensed" / "glue"
CLASSES = {
    "cola": [0, 1], "sst2": [0, 1], "mrpc": [0, 1], "stsb": [1.5, 4.5], "qqp": [0, 1], "mnli": [0, 1], "qnli": [1, 0], "rte": [1, 0],
    "wnli": [0, 1],
}
"""Labels of the first two made-up rows of each task."""


@pytest.mark.parametrize("task", GLUE)
def test_upstream_form(task: str, tmp_path: Path) -> None:
    write_glue(tmp_path, task, train=6, dev=4)
    for source in (str(tmp_path), str(tmp_path / FOLDERS[task])):
        found = load_glue(task, "train", source)
        assert found.left_out == 0
        assert len(found.rows) == 6
        assert [row.label for row in found.rows[:2]] == CLASSES[task]
        first = glue_row(task, 0, "train")
        assert all(text in first for text in found.rows[0].texts)
        assert len(found.rows[0].texts) == len(GLUE[task].texts)
    assert len(load_glue(task, "dev", str(tmp_path)).rows) == 4
    assert found.rows[0].domain == {"cola": "gj04", "stsb": "main-news", "mnli": "fiction"}.get(task)
    assert has_split(task, "dev", str(tmp_path))
    assert not has_split(task, "test", str(tmp_path))


def test_mnli_has_two_development_files(tmp_path: Path) -> None:
    write_glue(tmp_path, "mnli", dev=4)
    assert "other" in load_glue("mnli", "dev-mismatched", str(tmp_path)).rows[0].texts[0]
    assert has_split("mnli", "dev-mismatched", str(tmp_path))


def test_a_quotation_mark_is_a_character_save_in_copies_of_the_hub(tmp_path: Path) -> None:
    sentence = '"Rain," he said, and ""home""'
    write_tsv(tmp_path / "a/train.tsv", [["index", "sentence1", "sentence2", "label"], ["0", sentence, '"Rain"', "entailment"]])
    assert load_glue("rte", "train", str(tmp_path / "a")).rows[0].texts == (sentence, '"Rain"')
    write_tsv(tmp_path / "b/train.tsv", [["sentence1", "sentence2", "label", "idx"], ['"a ""big"" dog"', "it is big", "1", "0"]])
    found = load_glue("rte", "train", str(tmp_path / "b")).rows[0]
    assert (found.texts, found.label) == (('a "big" dog', "it is big"), 1.0)


def test_files_without_a_header_and_of_other_names(tmp_path: Path) -> None:
    write_tsv(tmp_path / "SST-2/train.tsv", [["a good day", "1"], ["a bad day", "0"]])
    assert [row.label for row in load_glue("sst2", "train", str(tmp_path)).rows] == [1.0, 0.0]
    for name, count in (("in_domain_dev.tsv", 2), ("out_of_domain_dev.tsv", 3)):
        write_tsv(tmp_path / "CoLA" / name, [["gj04", "1", "", f"a dog {name} {number}"] for number in range(count)])
    both = load_glue("cola", "dev", str(tmp_path)).rows
    assert [row.id for row in both] == [f"dev-{number}" for number in range(5)]
    lines = [HEADERS["mrpc"], ["1", "5", "6", "a dog", "the dog"]]
    path = write_tsv(tmp_path / "MRPC/msr_paraphrase_train.txt", lines)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_glue("mrpc", "train", str(tmp_path)).rows[0].texts == ("a dog", "the dog")


def test_cut_off_rows_of_qqp_are_counted(tmp_path: Path) -> None:
    write_tsv(tmp_path / "train.tsv", [HEADERS["qqp"], ["1", "2", "3", "why?"], glue_row("qqp", 1, "train")])
    found = load_glue("qqp", "train", str(tmp_path))
    assert (len(found.rows), found.left_out) == (1, 1)
    write_tsv(tmp_path / "train.tsv", [HEADERS["qqp"], ["1", "2", "3", "why?"]])
    with pytest.raises(DataError, match="no whole row"):
        load_glue("qqp", "train", str(tmp_path))


BROKEN = {
    "missing column": ("rte", [["index", "sentence1", "label"], ["0", "a dog", "entailment"]], "no column 'sentence2'"),
    "secret labels": ("rte", [["index", "sentence1", "sentence2"], ["0", "a dog", "a cat"]], "no labels"),
    "labels of -1": ("rte", [["sentence1", "sentence2", "label", "idx"], ["a dog", "a cat", "-1", "0"]], "no labels"),
    "cut off": ("rte", [HEADERS["rte"], ["0", "a dog"]], "line 2 has 2 fields and needs 4"),
    "cut off without a header": ("cola", [["gj04", "1", "", "a dog"], ["gj04", "1"]], "line 2 has 2 fields and needs 4"),
    "no rows": ("rte", [HEADERS["rte"]], "no rows"),
    "another label": ("rte", [HEADERS["rte"], ["0", "a dog", "a cat", "maybe"]], "line 2: the label is none of entailment"),
    "no text": ("sst2", [HEADERS["sst2"], ["", "1"]], "line 2 holds no text"),
    "no score": ("stsb", [HEADERS["stsb"], [*["x"] * 7, "a dog", "a cat", "nan"]], "not a number from 0 to 5"),
    "score too high": ("stsb", [HEADERS["stsb"], [*["x"] * 7, "a dog", "a cat", "5.1"]], "not a number from 0 to 5"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(case: str, tmp_path: Path) -> None:
    task, lines, message = BROKEN[case]
    path = write_tsv(tmp_path / "train.tsv", lines)
    with pytest.raises(DataError, match=message) as caught:
        load_glue(task, "train", str(tmp_path))
    assert str(path) in str(caught.value)
    assert "dog" not in str(caught.value)


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.tsv").touch()
    with pytest.raises(DataError, match="empty"):
        load_glue("rte", "train", str(tmp_path))
    with pytest.raises(DataError, match=r"holds no dev file of GLUE's rte: it is looked for as dev\.tsv"):
        load_glue("rte", "dev", str(tmp_path))
    with pytest.raises(DataError, match="no folder"):
        load_glue("rte", "dev", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="rte"):
        load_glue("rtee", "dev", str(tmp_path))
    with pytest.raises(UsageError, match="dev-mismatched"):
        load_glue("rte", "dev-mismatched", str(tmp_path))
    monkeypatch.delenv("FAIRFORGET_DATA", raising=False)
    with pytest.raises(UsageError, match="not shipped"):
        load_glue("rte", "dev")
    monkeypatch.setenv("FAIRFORGET_DATA", str(tmp_path))
    write_glue(tmp_path / "glue", "rte", dev=3)
    assert len(load_glue("rte", "dev").rows) == 3


class HubTable(list[dict[str, Any]]):
    """As much of a `datasets` table as is used."""

    @property
    def column_names(self) -> list[str]:
        return list(self[0])

    def select_columns(self, names: list[str]) -> list[dict[str, Any]]:
        return [{name: row[name] for name in names} for row in self]


def test_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def load_dataset(name: str, config: str, split: str) -> HubTable:
        asked.append((name, config, split))
        label = -1 if split == "test" else 2
        return HubTable([{"premise": "a dog", "hypothesis": "a cat", "label": label, "idx": 0}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    source = "datasets:nyu-mll/glue"
    for split in ("train", "dev", "dev-mismatched"):
        found = load_glue("mnli", split, source).rows
        assert (found[0].texts, found[0].label) == (("a dog", "a cat"), 2.0)
        assert has_split("mnli", split, source)
    assert asked == [("nyu-mll/glue", "mnli", split) for split in ("train", "validation_matched", "validation_mismatched")]
    assert not has_split("mnli", "test", source)
    with pytest.raises(DataError, match="no labels"):
        load_glue("mnli", "test", source)


@pytest.mark.skipif(not UNLICENSED.is_dir(), reason="no unlicensed copies on this machine")
def test_the_copies_on_this_machine() -> None:
    source = str(UNLICENSED)
    sizes = {
        ("cola", "train"): 8551, ("cola", "dev"): 1043, ("sst2", "train"): 6920, ("sst2", "dev"): 872, ("sst2", "test"): 1821,
        ("mrpc", "dev"): 500, ("mrpc", "test"): 1725, ("rte", "train"): 2490, ("rte", "dev"): 277,
    }
    for (task, split), size in sizes.items():
        rows = load_glue(task, split, source).rows
        assert (task, split, len(rows)) == (task, split, size)
        assert set(Counter(row.label for row in rows)) == {0.0, 1.0}
    assert len(load_glue("wnli", "test", str(UNLICENSED / "WNLI_resplit")).rows) == 71
    assert not any('""' in text for row in load_glue("rte", "train", source).rows for text in row.texts)
    with pytest.raises(DataError, match="no labels"):
        load_glue("rte", "test", source)
