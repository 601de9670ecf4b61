"""Tasks of one form: what is taught and what is reported never meet, and a letter means nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fairforget.data.choice_questions import ChoiceQuestion
from fairforget.data.question_answering import TASK_DATASETS, at_most_per_cluster, load_questions, put_question, question_tasks
from fairforget.data.toxigen import load_annotated
from fairforget.data.training import training_source
from fairforget.errors import UsageError

QUESTION = ChoiceQuestion("7", "What is it?", ("one", "two", "three"), 2, "Here it is.", ("red",), "c", "s", "test")


def test_the_form_lists_the_options_and_ends_where_the_answer_begins():
    prompt, answers, right = put_question(QUESTION)
    lines = prompt.split("\n")
    assert lines[:2] == ["Here it is.", "Question: What is it?"] and lines[-1] == "Answer:"
    assert answers == ("A", "B", "C") and lines[2 + right] == f"{answers[right]}. three"
    same, texts, place = put_question(QUESTION, "text")
    assert same == prompt and texts[place] == "three" and set(texts) == set(QUESTION.options)
    assert put_question(QUESTION, order=1) != put_question(QUESTION, order=2) or put_question(QUESTION, order=3) != (prompt, answers, right)


def test_the_right_answer_stands_at_every_place_equally_often():
    places = Counter(put_question(ChoiceQuestion(str(n), "q", ("a", "b", "c"), 0, "", (), "c", "s", "test"))[2] for n in range(600))
    assert all(150 < places[place] < 250 for place in range(3))


def test_few_questions_of_a_cluster_are_the_same_ones_in_any_order():
    many = [ChoiceQuestion(str(n), "q", ("a", "b"), 0, "", (), str(n % 4), "s", "test") for n in range(40)]
    kept = at_most_per_cluster(many, 3)
    assert Counter(entry.cluster for entry in kept) == dict.fromkeys("0123", 3)
    assert {entry.id for entry in at_most_per_cluster(many[::-1], 3)} == {entry.id for entry in kept}
    assert at_most_per_cluster(many, None) == many


@pytest.mark.parametrize("task", [task for task in question_tasks() if task not in ("bbq", "edos")])
def test_clusters_lie_in_one_part_and_there_is_something_to_teach(data_folder: Path, task: str):
    questions = load_questions(task)
    parts = {part: {entry.cluster for entry in questions if entry.part == part} for part in ("train", "select", "test")}
    assert all(parts.values())
    assert not parts["train"] & parts["test"] and not parts["select"] & parts["test"] and not parts["train"] & parts["select"]
    assert len({entry.id for entry in questions}) == len(questions)
    assert task in TASK_DATASETS


def test_what_safenlp_teaches_is_not_in_the_test_of_its_benchmark(data_folder: Path):
    tested = {row.text for row in load_annotated() if row.part == "test"}
    questions = load_questions("safenlp")
    assert len(questions) == 6514
    assert {entry.question.partition('"')[2].rpartition('"')[0] for entry in questions if entry.part == "test"} == tested
    assert len({group for entry in questions for group in entry.groups}) == 13


def test_a_resplit_set_has_the_shares_it_says(data_folder: Path):
    parts = Counter(entry.part for entry in load_questions("arc-resplit"))
    total = parts.total()
    assert [round(parts[part] / total, 2) for part in ("train", "select", "test")] == [0.6, 0.2, 0.2]


def test_a_task_is_a_training_source_of_its_train_part(data_folder: Path):
    source = training_source("qa:strategyqa")
    assert len(source.texts) == 933 and {row.text for row in source.texts} == {"A", "B"}
    assert all(row.prompt.endswith("Answer: ") for row in source.texts)
    with pytest.raises(UsageError, match="qa:strategyqa"):
        training_source("qa:stratgyqa")


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="arc-resplit"):
        load_questions("arc")
