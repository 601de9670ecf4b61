"""Parsers of the capability sets: the real files, made-up ones in the upstream format, and broken ones."""

from __future__ import annotations

import bz2
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairforget.data.blimp import FIELDS, PHENOMENA, load_blimp
from fairforget.data.choice_questions import (
    ChoiceQuestion,
    RawQuestion,
    deal,
    likeness,
    load_arc,
    load_boolq,
    load_commonsenseqa,
    load_copa,
    load_openbookqa,
    load_siqa,
    load_winogrande,
    neighbour_keys,
)
from fairforget.data.ethics import load_ethics
from fairforget.data.gsm8k import load_gsm8k
from fairforget.data.hellaswag import capitalized, load_hellaswag
from fairforget.data.lambada import load_lambada
from fairforget.data.piqa import load_piqa
from fairforget.data.strategyqa import load_strategyqa
from fairforget.data.triviaqa import load_triviaqa
from fairforget.errors import DataError, UsageError

HALVES = {"select", "test"}
REAL: list[tuple[Callable[[], list[Any]], int, set[str]]] = [
    (lambda: load_arc("easy"), 2376, HALVES), (lambda: load_arc("challenge"), 1172, HALVES), (load_openbookqa, 500, HALVES),
    (load_commonsenseqa, 1221, HALVES), (load_siqa, 1954, HALVES), (load_copa, 100, HALVES), (load_boolq, 3270, HALVES),
    (load_winogrande, 1267, HALVES), (load_piqa, 1838, HALVES), (load_lambada, 5153, HALVES), (load_triviaqa, 3000, HALVES),
    (load_strategyqa, 2290, HALVES | {"train"}), (load_gsm8k, 8792, HALVES | {"train"}),
]


def check(items: list[Any], count: int, parts: set[str]) -> None:
    assert len(items) == count == len({item.id for item in items})
    assert {item.part for item in items} == parts
    of_cluster = Counter((item.cluster, item.part) for item in items)
    assert len(of_cluster) == len({item.cluster for item in items}), "a cluster lies in two parts"


@pytest.mark.parametrize(("load", "count", "parts"), REAL)
def test_real_files_give_all_rows_with_whole_clusters_in_one_part(
    load: Callable[[], list[Any]], count: int, parts: set[str], data_folder: Path
) -> None:
    items = load()
    check(items, count, parts)
    if isinstance(items[0], ChoiceQuestion):
        assert all(0 <= item.right < len(item.options) for item in items)
        # Upstream itself repeats an option in a few lettered questions.
        assert sum(len(set(item.options)) < len(item.options) for item in items) <= {load_commonsenseqa: 12, load_siqa: 1}.get(load, 0)


def test_facts_of_the_stored_copies(data_folder: Path) -> None:
    right = Counter(question.right for question in load_commonsenseqa())
    assert right[2] / sum(right.values()) == pytest.approx(0.403, abs=0.001)  # what the page warns of
    assert Counter(len(question.options) for question in load_arc("easy"))[3] > 0  # the repeated option is gone
    assert {item.part for item in load_gsm8k() if item.id.startswith("test")} == {"test"}
    twins = Counter(Counter(question.cluster for question in load_winogrande()).values())
    assert twins[2] == 284


def test_real_hellaswag_and_blimp(data_folder: Path) -> None:
    scenes = load_hellaswag()
    check(scenes, 10042, HALVES)
    assert Counter(scene.stratum for scene in scenes) == {"wikihow": 6799, "activitynet": 3243}
    pairs = load_blimp()
    assert len(pairs) == 67_000 == len({pair.id for pair in pairs})
    assert set(Counter(pair.paradigm for pair in pairs).values()) == {1000}
    assert {pair.phenomenon for pair in pairs} == set(PHENOMENA) and {pair.field for pair in pairs} == set(FIELDS)
    assert set(Counter((pair.paradigm, pair.part) for pair in pairs).values()) == {500}


@pytest.mark.parametrize(("subject", "test", "hard"), [("justice", 2704, 2052), ("virtue", 4975, 4780), ("utilitarianism", 4808, 4272)])
def test_no_scene_of_a_test_file_of_ethics_is_trained_on(subject: str, test: int, hard: int, data_folder: Path) -> None:
    items = load_ethics(subject)
    counts = Counter(item.file for item in items)
    assert (counts["test"], counts["hard"]) == (test, hard)
    if subject == "utilitarianism":
        assert {item.part for item in items} == HALVES
        return
    assert {item.part for item in items if item.file != "train"} == {"test"}
    clusters = {part: {item.cluster for item in items if item.part == part} for part in ("train", "select", "test")}
    assert sum(map(len, clusters.values())) == len(set().union(*clusters.values()))


def rows(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def question(query: str, choices: Any = ("a", "b"), gold: Any = 0) -> dict[str, Any]:
    return {"query": query, "choices": list(choices) if isinstance(choices, tuple) else choices, "gold": gold}


def test_an_option_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    (found,) = load_arc("easy", rows(tmp_path / "a.jsonl", question("Question: Why?", ("rain", "sun", "rain", "day"), 2)))
    assert (found.options, found.right, found.question) == (("rain", "sun", "day"), 0, "Why?")


def test_prompts_are_taken_apart(tmp_path: Path) -> None:
    letters = "Choices:\nA. a hill\nB. a tree\nAnswer:"
    (found,) = load_commonsenseqa(rows(tmp_path / "c.jsonl", question(f"Question: Where?\n{letters}", ("A", "B"), 1)))
    assert (found.question, found.options, found.right) == ("Where?", ("a hill", "a tree"), 1)
    (found,) = load_siqa(rows(tmp_path / "s.jsonl", question(f"Context: It rained.\nQuestion: And then?\n{letters}", ("A", "B"))))
    assert (found.context, found.question, found.options) == ("It rained.", "And then?", ("a hill", "a tree"))
    (found,) = load_copa(rows(tmp_path / "o.jsonl", question("It rained, because", ("x", "y"))))
    assert (found.context, found.question, found.groups) == ("It rained", "cause", ("cause",))
    (found,) = load_boolq(rows(tmp_path / "b.jsonl", question("Passage: One.\nTwo.\nQuestion: is it two?", ("no", "yes"), 1)))
    assert (found.context, found.question) == ("One.\nTwo.", "is it two")


@pytest.mark.parametrize(("load", "entry", "words"), [
    (load_openbookqa, question("It is", ("a",)), "row 1: an option is blank, or there is one only"),
    (load_openbookqa, question("It is", gold=2), "row 1: this is not a list of options"),
    (load_openbookqa, question("It is", choices="ab"), "row 1: this is not a list of options"),
    (load_openbookqa, question(" "), "row 1: 'query' is not a prompt of this set"),
    (load_openbookqa, {"query": "It is", "gold": 0}, "no column 'choices'"),
    (load_siqa, question("Question: Where?"), "row 1: 'query' is not a prompt of this set"),
    (load_commonsenseqa, question("Question: Where?\nChoices:\nA. x\nB. y\nAnswer:", ("A", "C")), "row 1: the letters"),
    (load_commonsenseqa, question("Question: Where?\nChoices:\nA. x\nB. \nAnswer:", ("A", "B")), "row 1: an option is blank"),
    (load_boolq, question("Passage: One.\nQuestion: is it?", ("yes", "no")), "row 1: the options of BoolQ"),
    (load_copa, question("It rained and"), "row 1: 'query' is not a prompt of this set"),
    (load_winogrande, {"context_options": ["a"], "continuation": "b", "gold": 0}, "row 1: an option is blank, or there is one only"),
    (load_winogrande, {"context_options": ["a", "b", "c"], "continuation": "b", "gold": 0}, "row 1: a sentence of WinoGrande"),
    (load_lambada, {"context": "one", "continuation": "two three"}, "row 1: this is not a passage and its last word"),
    (load_triviaqa, {"context": "Why?", "answer": "a", "aliases": []}, "row 1: 'context' is not"),
    (load_triviaqa, {"context": "Question: Why?\nAnswer:", "answer": "", "aliases": [" "]}, "row 1: there is no answer"),
    (load_triviaqa, {"context": "Question: Why?\nAnswer:", "answer": "a", "aliases": "a"}, "row 1: this is not a question"),
])
def test_what_is_no_row_is_told(load: Callable[[Path], Any], entry: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        load(rows(tmp_path / "one.jsonl", entry))


@pytest.mark.parametrize(
    "load", [load_openbookqa, load_winogrande, load_lambada, load_triviaqa, load_strategyqa, load_blimp, load_hellaswag]
)
def test_empty_and_cut_off_files_are_told(load: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    for content in ("", '{"query": "a'):
        path.write_text(content)
        with pytest.raises(DataError, match=r"file\.jsonl"):
            load(path)
    with pytest.raises(DataError, match="There is no file"):
        load(tmp_path / "none.jsonl")


def test_questions_of_trivia_keep_every_spelling(tmp_path: Path) -> None:
    entry = {"context": "Question: What is red?\nAnswer:", "answer": "Sun", "aliases": ["The Sun", "Sun", " "]}
    (item, again) = load_triviaqa(rows(tmp_path / "t.jsonl", entry, {**entry, "context": "Question: what is RED\nAnswer:"}))
    assert (item.question, item.answer, item.aliases) == ("What is red?", "Sun", ("Sun", "The Sun"))
    assert item.cluster == again.cluster


def test_problems_of_arithmetic_end_in_a_number(tmp_path: Path) -> None:
    train = rows(
        tmp_path / "train.jsonl", {"question": "How many?", "answer": "1000 + 2 = <<1000+2=1002>>1002\n#### 1,002"},
        {"question": "Two?", "answer": "#### 2"},
    )
    test = rows(tmp_path / "test.jsonl", {"question": "how many", "answer": "so\n#### -3"})
    first, second, third = load_gsm8k(train, test)
    assert (first.answer, first.solution) == ("1002", "1000 + 2 = <<1000+2=1002>>1002")
    assert (first.part, third.part, third.answer) == ("test", "test", "-3")  # the same problem: it may not be trained on
    assert second.part in ("train", "select")
    with pytest.raises(DataError, match="row 1: this is not a question and a solution"):
        load_gsm8k(train, rows(tmp_path / "bad.jsonl", {"question": "How?", "answer": "#### many"}))


def test_unfinished_scenes_get_their_capital() -> None:
    assert capitalized("Work: A man works. the old Dog") == "Work: A man works. The old dog"
    assert capitalized('Work: "Stop!" he') == 'Work: "Stop!" He'
    assert capitalized("Work: A man works. He is done.") == "Work: A man works. He is done."
    assert capitalized("Work: a man") == "Work: a man"


def test_a_scene_of_another_form_is_told(tmp_path: Path) -> None:
    path = tmp_path / "scenes.txt.bz2"
    path.write_bytes(bz2.compress(b"Work: A man works. he\n4\na\nb\nc\nd\n"))
    with pytest.raises(DataError, match="line 1: this is not a scene"):
        load_hellaswag(path)
    path.write_bytes(bz2.compress(b"Work: A man works. he\n1\na\nb\nc\n"))
    with pytest.raises(DataError, match="has 5 lines, not 6 for each question"):
        load_hellaswag(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="cut off or damaged"):
        load_hellaswag(path)


def test_solutions_and_labels_belong_together(tmp_path: Path) -> None:
    goals, labels = rows(tmp_path / "valid.jsonl", {"goal": "rest", "sol1": "sit ", "sol2": "run"}), tmp_path / "labels.lst"
    labels.write_text("1\n")
    (found,) = load_piqa(goals, labels)
    assert (found.options, found.right) == (("sit ", "run"), 1)
    for content in ("1\n0\n", "2\n"):
        labels.write_text(content)
        with pytest.raises(DataError, match="is not a line with 0 or 1"):
            load_piqa(goals, labels)


def test_an_archive_of_pairs_is_checked(tmp_path: Path) -> None:
    pair = {"sentence_good": "A.", "sentence_bad": "B.", "field": "syntax/semantics", "linguistics_term": "s-selection"}
    pair |= {"UID": "u", "pairID": "3"}
    path = tmp_path / "pairs.zip"

    def archive(name: str, text: str) -> Path:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, text)
        return path

    (found,) = load_blimp(archive("data/u.jsonl", json.dumps(pair) + "\n"))
    assert (found.id, found.field, found.phenomenon, found.good) == ("u 3", "syntax_semantics", "argument_structure", "A.")
    for name, text, words in (
        ("other.txt", "x", "holds no files"), ("data/u.jsonl", "\n", "holds no pairs"),
        ("data/u.jsonl", json.dumps(pair)[:-9], "line 1 has not"),
        ("data/u.jsonl", json.dumps({**pair, "field": "x"}), "line 1: its phenomenon or field"),
    ):
        with pytest.raises(DataError, match=words):
            load_blimp(archive(name, text))


def test_terms_tie_questions_together(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"term": "Sun", "question": q, "answer": a} for q, a in (("Is it red?", True), ("Is it small?", False))]))
    first, second = load_strategyqa(path)
    assert (first.right, second.right, first.options) == (1, 0, ("no", "yes"))
    assert first.cluster == second.cluster
    for content, words in (
        ("{}", "not a list"), ('[{"term": "Sun"}]', "has not the fields"), ('[{"term": "a", "question": "b", "answer": 1}]', "neither"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=words):
            load_strategyqa(path)


def test_files_of_ethics_are_checked(tmp_path: Path) -> None:
    for name in ("virtue_train", "virtue_test", "virtue_test_hard"):
        more = "0,He rests. [SEP] bad\n" * (name == "virtue_train")
        (tmp_path / f"{name}.csv").write_text(f"label,scenario\n1,She works. [SEP] good\n{more}")
    found = load_ethics("virtue", tmp_path)
    assert [(item.first, item.second, item.file) for item in found] == [
        ("He rests.", "bad", "train"), ("She works.", "good", "test"), ("She works.", "good", "hard")
    ]  # the training row of a test scene is left out
    (tmp_path / "virtue_test.csv").write_text("label,scenario\n1,She works.\n")
    with pytest.raises(DataError, match="row 1: the scenario has no trait"):
        load_ethics("virtue", tmp_path)
    (tmp_path / "virtue_test.csv").write_text("label,scenario\n2,She works. [SEP] good\n")
    with pytest.raises(DataError, match="row 1: the label is neither"):
        load_ethics("virtue", tmp_path)
    (tmp_path / "util_test.csv").write_text("one scenario\n")
    with pytest.raises(DataError, match="row 1: this is not two scenarios"):
        load_ethics("utilitarianism", tmp_path)
    with pytest.raises(UsageError, match="no part of ETHICS named 'virtues'"):
        load_ethics("virtues")
    with pytest.raises(UsageError, match="no set of ARC named 'hard'"):
        load_arc("hard")


def test_neighbours_with_most_words_in_common_are_twins() -> None:
    texts = ["the dog was large", "the dog was small", "a book", "a book", "the dog was small"]
    assert likeness(texts[0], texts[1]) == pytest.approx(3 / 5)
    keys = neighbour_keys(texts, 0.5)
    assert keys[0] == keys[1] != keys[2] == keys[3] != keys[4]
    assert len(set(neighbour_keys(texts, 0.5, lambda number: number != 3))) == 4


def test_shared_keys_make_clusters_and_ids_are_numbered() -> None:
    raw = [RawQuestion("q", ("a", "b"), 0, frozenset(keys)) for keys in ("x", "y", "xz", "z")]
    found = deal(raw, "set")
    assert [item.id for item in found] == ["set 0", "set 1", "set 2", "set 3"]
    assert found[0].cluster == found[2].cluster == found[3].cluster != found[1].cluster
    assert found[0].part == found[3].part
