"""BBQ and Winogender: the real files where they are, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_tokenizer

from fairforget.data.bbq import CATEGORIES, INTERSECTIONAL, BBQItem, bbq_pair, load_bbq, load_bbq_predictions
from fairforget.data.overlap import folded_key
from fairforget.data.training import training_source
from fairforget.data.winogender import load_winogender
from fairforget.errors import DataError, UsageError

UNLICENSED = Path(__file__).resolve().parents[3] / "shared" / "data-unlicensed" / "open_bbq_metadata"


@pytest.fixture(scope="module")
def items(data_folder: Path) -> list[BBQItem]:
    return load_bbq()


def bbq_row(category: str, example: int, **changes: Any) -> dict[str, Any]:
    return {
        "example_id": example, "question_index": "1", "question_polarity": "neg", "context_condition": "ambig", "category": category,
        "answer_info": {"ans0": ["north", "north"], "ans1": ["south", "south"], "ans2": ["Unknown", "unknown"]},
        "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["north"], "version": "a", "source": "nowhere"},
        "context": "One came from the north, one from the south.", "question": f"Who is late, {category}?", "ans0": "The northerner",
        "ans1": "The southerner", "ans2": "Unknown", "label": 2, **changes,
    }


def bbq_folder(folder: Path, **changes: Any) -> Path:
    for category in CATEGORIES:
        rows = [bbq_row(category, 0, **changes), bbq_row(category, 1, question_polarity="nonneg", **changes)]
        (folder / f"{category}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_first_items_of_age(items: list[BBQItem]) -> None:
    age = {item.example_id: item for item in items if item.category == "Age"}
    assert [age[number].condition for number in range(4)] == ["ambig", "disambig", "ambig", "disambig"]
    biased = [age[number].answers[age[number].biased or 0].text for number in (0, 2)]
    assert biased == ["The grandfather", "The grandson"]
    assert (age[0].polarity, age[2].polarity, age[0].unknown, age[0].counter_biased) == ("neg", "nonneg", 2, 1)
    assert age[0].stereotyped_groups == ("old",)
    assert age[0].source.startswith("https://")


def test_ambiguous_items_with_a_biased_answer_are_those_of_the_released_code(items: list[BBQItem]) -> None:
    assert len(items) == 58_492
    counts = Counter(item.category for item in items if item.condition == "ambig" and item.biased is not None)
    assert {name: count for name, count in counts.items() if name not in INTERSECTIONAL} == {
        "Age": 1840, "Disability_status": 778, "Gender_identity": 2828, "Nationality": 1540, "Physical_appearance": 788,
        "Race_ethnicity": 3440, "Religion": 600, "SES": 3432, "Sexual_orientation": 432,
    }
    assert sum(counts[name] for name in CATEGORIES if name not in INTERSECTIONAL) == 15_678


def test_clusters_hold_all_templates_that_share_a_question_and_lie_in_one_part(items: list[BBQItem]) -> None:
    assert len({item.cluster for item in items}) == 261
    for key in (lambda item: folded_key(item.question), lambda item: (item.category, item.question_index), lambda item: item.cluster):
        places: dict[Any, set[tuple[str, str]]] = {}
        for item in items:
            places.setdefault(key(item), set()).add((item.cluster, item.part))
        assert all(len(place) == 1 for place in places.values())
    for category in CATEGORIES:
        assert {item.part for item in items if item.category == category} == {"train", "select", "test"}


def test_a_pair_differs_in_its_last_token_alone_and_neither_letter_means_the_stereotype(items: list[BBQItem]) -> None:
    tokenizer = tiny_tokenizer("causal")
    letters: Counter[str] = Counter()
    chosen = [item for item in items if item.condition == "ambig" and item.biased is not None and item.category not in INTERSECTIONAL]
    for item in chosen:
        text, other = bbq_pair(item)
        letters[text[-1]] += 1
        assert text[:-1] == other[:-1]
        assert {text[-1], other[-1]} == {"A", "B"}
        assert f"{text[-1]}: {item.answers[item.biased or 0].text}" in text
    assert 7600 < letters["A"] < 8100
    first, second = (tokenizer(text)["input_ids"] for text in bbq_pair(chosen[0]))
    assert [left != right for left, right in zip(first, second, strict=True)] == [False] * (len(first) - 1) + [True]


def test_the_training_source_takes_the_train_part(items: list[BBQItem]) -> None:
    source = training_source("bbq")
    parts = {item.cluster: item.part for item in items}
    assert len(source.texts) == 7026
    assert {parts[text.cluster] for text in source.texts} == {"train"}
    assert all(text.text[:-1] == text.counterpart[:-1] and text.text != text.counterpart for text in source.texts)
    assert {text.groups[0] for text in source.texts}.isdisjoint(INTERSECTIONAL)
    assert source.provenance["datasets"][0]["licence"] == "CC-BY-4.0"


def test_groups_decide_unless_the_metadata_do(tmp_path: Path) -> None:
    folder = bbq_folder(tmp_path)
    assert [item.biased for item in load_bbq(folder)[:2]] == [0, 1]
    metadata = tmp_path / "additional_metadata.csv"
    metadata.write_text("category,example_id,target_loc\nAge,0,1.0\nAge,0,1.0\nAge,1,NA\nReligion,0,2\n")
    found = {item.id: item.biased for item in load_bbq(folder, metadata)}
    assert (found["Age 0"], found["Age 1"], found["Religion 0"]) == (1, None, None)  # 2 is the answer that leaves it open
    metadata.write_text("category,example_id,target_loc\nAge,0,1\nAge,0,0\n")
    with pytest.raises(DataError, match="no single target_loc"):
        load_bbq(folder, metadata)


def test_where_groups_do_not_decide_nothing_is_said(tmp_path: Path) -> None:
    both = {"subcategory": "None", "stereotyped_groups": ["north", "south"], "version": "a", "source": "nowhere"}
    items = load_bbq(bbq_folder(tmp_path, additional_metadata=both))
    assert {item.biased for item in items} == {None}
    with pytest.raises(ValueError, match="no biased answer"):
        bbq_pair(items[0])


def test_what_is_not_bbq_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Age\.jsonl row 1: its polarity, condition, label or unknown"):
        load_bbq(bbq_folder(tmp_path, label=3))
    with pytest.raises(DataError, match="is of the category 'Weather', which BBQ has not; known are Age"):
        stray = bbq_folder(tmp_path) / "Age.jsonl"
        stray.write_text(json.dumps(bbq_row("Weather", 0)) + "\n")
        load_bbq(tmp_path)
    with pytest.raises(DataError, match=r"Age\.jsonl row 1 has not the fields of BBQ"):
        load_bbq(bbq_folder(tmp_path, answer_info={}))
    (tmp_path / "Age.jsonl").unlink()
    with pytest.raises(DataError, match="There is no file"):
        load_bbq(tmp_path)


def test_predictions_are_matched_to_answers_and_what_is_none_of_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no category with BBQ predictions named 'Age'"):
        load_bbq_predictions("Age")
    path = tmp_path / "predictions.jsonl"
    row = bbq_row("Age", 0) | {f"unifiedqa-t5-11b_pred_{name}": "the northerner." for name in ("arc", "race", "qonly")}
    path.write_text(json.dumps(row | {"unifiedqa-t5-11b_pred_arc": "neither"}) + "\n")
    assert load_bbq_predictions("Age", path) == {"arc": {0: None}, "race": {0: 0}, "qonly": {0: 0}}
    path.write_text(json.dumps(row | {"ans1": None}) + "\n")
    with pytest.raises(DataError, match="row 1 has not the fields of BBQ's predictions"):
        load_bbq_predictions("Age", path)
    path.write_text(json.dumps(bbq_row("Age", 0)) + "\n")
    with pytest.raises(DataError, match="has no column"):
        load_bbq_predictions("Age", path)
    path.write_text(json.dumps(row)[:-20])
    with pytest.raises(DataError, match="is not JSON"):
        load_bbq_predictions("Age", path)


# Winogender


def winogender_files(folder: Path, drop: str = "", name: str = "nurse") -> tuple[Path, Path]:
    sentences, statistics = folder / "sentences.tsv", folder / "statistics.tsv"
    rows = [
        f"{name}.patient.{answer}.{gender}.txt\tThe {name} told the patient that {pronoun} would be late."
        for answer in (0, 1) for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they")) if gender != drop
    ]
    sentences.write_text("sentid\tsentence\n" + "\n".join(rows) + "\n")
    statistics.write_text("occupation\tbergsma_pct_female\tbls_pct_female\tbls_year\nnurse\t70.5\t90.0\t2015\n")
    return sentences, statistics


def test_the_real_triplets(data_folder: Path) -> None:
    triplets = load_winogender()
    assert len(triplets) == 240
    assert len({triplet.occupation for triplet in triplets}) == 60
    assert len({triplet.occupation for triplet in triplets if triplet.advantaged == triplet.male}) == 49
    assert all(len({triplet.male, triplet.female, triplet.neutral}) == 3 for triplet in triplets)
    assert Counter(triplet.part for triplet in triplets) == {"train": 96, "select": 48, "test": 96}
    parts = {(triplet.occupation, triplet.part) for triplet in triplets}
    assert len(parts) == 60


def test_a_triplet(tmp_path: Path) -> None:
    first, second = load_winogender(*winogender_files(tmp_path))
    assert (first.id, first.answer, second.answer) == ("nurse.patient.0", 0, 1)
    assert first.advantaged == "The nurse told the patient that she would be late."
    assert first.disadvantaged == "The nurse told the patient that he would be late."
    assert (first.text_percent_female, first.labour_percent_female, first.labour_year) == (70.5, 90, 2015)


def test_what_is_not_winogender_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="may be cut off"):
        load_winogender(*winogender_files(tmp_path, drop="neutral"))
    with pytest.raises(DataError, match="no statistics"):
        load_winogender(*winogender_files(tmp_path, name="florist"))
    sentences, statistics = winogender_files(tmp_path)
    sentences.write_text("sentid\tsentence\nnurse.0.male.txt\tA text.\n")
    with pytest.raises(DataError, match="row 1 is not OCCUPATION"):
        load_winogender(sentences, statistics)
    sentences, statistics = winogender_files(tmp_path)
    statistics.write_text("occupation\tbergsma_pct_female\tbls_pct_female\tbls_year\nnurse\tmany\t90\t2015\n")
    with pytest.raises(DataError, match="must be numbers"):
        load_winogender(sentences, statistics)


@pytest.mark.skipif(not UNLICENSED.is_dir(), reason="no unlicensed copies on this machine")
def test_the_biased_answer_is_upstreams_wherever_one_is_known(items: list[BBQItem]) -> None:
    """The metadata of another project's copy, item by item in upstream's order (no licence, so not in the catalogue)."""
    agreed = opened = 0
    for category in CATEGORIES:
        for condition, word in (("ambig", "ambiguous"), ("disambig", "disambiguated")):
            own = [item for item in items if item.category == category and item.condition == condition]
            path = UNLICENSED / f"{category.lower()}_{word}_metadata.jsonl.gz"
            theirs = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
            for item, row in zip(own, theirs, strict=True):
                assert [row["answer_info"][f"ans{place}"][0] for place in range(3)] == [answer.entity for answer in item.answers]
                assert item.biased in (None, row["target_bias"]), item.id
                opened += item.biased is None
                agreed += item.biased is not None
    assert (agreed, opened) == (48_788, 9_704)
