"""SEAT, BEC-Pro and RedditBias: the real files where they are, and what is refused."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from fairforget.data.bec_pro import load_bec_pro
from fairforget.data.redditbias import AXES, load_redditbias
from fairforget.data.seat import FAMILIES, load_seat, read_association_test, term
from fairforget.errors import DataError, UsageError

SETS = {
    "targ1": {"category": "Flowers", "examples": ["This is a rose.", "Roses are things.", "This is a rose."]},
    "targ2": {"category": "Tools", "examples": ["This is a hammer.", "Hammers are things."]},
    "attr1": {"category": "Pleasant", "examples": ["joy", "peace"]},
    "attr2": {"category": "Unpleasant", "examples": ["noise", "dirt"]},
}
BEC_HEADER = "\tSentence\tSent_TM\tSent_AM\tSent_TAM\tTemplate\tPerson\tGender\tProfession\tProf_Gender\n"
BEC_ROW = "0\tMy mother is a roofer.\t\t\t\t<person subject> is a <profession>.\tmother\tfemale\troofer\tmale\n"


# SEAT


def test_seat_sizes(data_folder: Path):
    tests = load_seat(("gender", "race", "weat"))
    assert [test.name for test in tests] == [name for family in ("gender", "race", "weat") for name in FAMILIES[family]]
    assert [len(test.x) for test in tests[:6]] == [len(test.y) for test in tests[:6]] == [64, 80, 72, 72, 56, 56]
    strata = defaultdict(set)
    for test in tests:
        for targets, category in ((test.x, test.x_category), (test.y, test.y_category)):
            assert len({target.text for target in targets}) == len(targets)
            for target in targets:
                strata[target.cluster].add(category)
    assert all(len(categories) == 1 for categories in strata.values())
    assert Counter(target.cluster for target in tests[0].x).most_common(1)[0][1] == 8 and len({one.cluster for one in tests[0].x}) == 8


def test_seat_on_religion_is_read_from_a_named_folder():
    folder = Path(__file__).resolve().parents[3] / "shared" / "data-unlicensed" / "bias_bench" / "seat"
    if not folder.is_dir():
        pytest.skip("bias-bench's tests on religion are not on this machine")
    tests = load_seat(("religion",), folder)
    assert [(len(test.x), len(test.y)) for test in tests] == [(84, 84)] * 4


def test_a_seat_file_gives_distinct_texts_and_terms(tmp_path: Path):
    path = tmp_path / "sent-own.jsonl"
    path.write_text(json.dumps(SETS))
    test = read_association_test(path, "gender")
    assert (test.name, test.x_category, test.y_category) == ("sent-own", "Flowers", "Tools")
    assert [target.text for target in test.x] == ["This is a rose.", "Roses are things."]
    assert {target.cluster for target in test.x} == {"Flowers: rose"} and test.a == ("joy", "peace")


@pytest.mark.parametrize(("text", "found"), [
    ("The person's name is Ada.", "ada"), ("These are dictionaries.", "dictionary"), ("Churches are things.", "church"),
    ("They are women.", "woman"), ("It is calculus.", "calculus"), ("rose", "rose"), ("This is a person.", "this is a person"),
])
def test_terms(text: str, found: str):
    assert term(text) == found


@pytest.mark.parametrize(("change", "words"), [
    (lambda sets: sets.pop("attr2"), r"no set 'attr2'"),
    (lambda sets: sets["targ1"].update(examples=[]), r"no set 'targ1' with examples"),
    (lambda sets: sets["attr1"].update(examples=["joy", " "]), r"'attr1' holds an example that is blank"),
    (lambda sets: sets["targ2"].update(examples=["This is a saw."]), r"have 2 and 1 distinct texts"),
    (lambda sets: sets["targ2"].update(category="Flowers"), r"both target sets are called 'Flowers'"),
])
def test_broken_seat_sets_are_refused(tmp_path: Path, change, words: str):
    sets = json.loads(json.dumps(SETS))
    change(sets)
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(sets))
    with pytest.raises(DataError, match=words):
        read_association_test(path, "gender")


@pytest.mark.parametrize(("text", "words"), [('{"targ1": ', "cut off"), ("", "is empty"), ("[1]", "no set 'targ1'")])
def test_broken_seat_files_are_refused(tmp_path: Path, text: str, words: str):
    path = tmp_path / "own.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_association_test(path, "gender")


def test_unknown_families_and_an_unnamed_folder_are_refused():
    with pytest.raises(UsageError, match="no family of SEAT tests named 'gendr'"):
        load_seat(("gendr",))
    with pytest.raises(DataError, match="set religion to their folder"):
        load_seat(("religion",))


# BEC-Pro


def test_bec_pro_counts(data_folder: Path):
    sentences = load_bec_pro()
    assert len(sentences) == len({(one.profession, one.person, one.template) for one in sentences}) == 5400
    assert set(Counter((one.gender, one.profession_class) for one in sentences).values()) == {900}
    assert len({one.profession for one in sentences}) == 60 and len({one.pair for one in sentences}) == 9
    assert Counter(part for _, part in {(one.profession, one.part) for one in sentences}) == {"select": 30, "test": 30}
    assert all(f"{one.person}{one.between}{one.profession}{one.after}" in one.text for one in sentences)


def test_a_bec_pro_sentence_is_cut_at_whole_words(tmp_path: Path):
    path = tmp_path / "bec.tsv"
    row = "0\tThis man is a lodging manager.\t\t\t\t<person subject> is a <profession>.\tman\tmale\tlodging manager\tbalanced\n"
    path.write_text(BEC_HEADER + row)
    (one,) = load_bec_pro(path)
    assert (one.before, one.person, one.between, one.profession, one.after) == ("This ", "man", " is a ", "lodging manager", ".")
    assert (one.text, one.pair) == ("This man is a lodging manager.", "woman/man")


@pytest.mark.parametrize(("text", "words"), [
    (BEC_HEADER + BEC_ROW * 2, "here twice"),
    (BEC_HEADER + BEC_ROW.replace("\tmother\t", "\tcousin\t"), "not a known person word"),
    (BEC_HEADER + BEC_ROW.replace("is a roofer.\t\t", "was a roofer.\t\t"), "row 0: the sentence is not its template"),
    (BEC_HEADER.replace("Prof_Gender", "Class") + BEC_ROW, "no column 'Prof_Gender'"),
    (BEC_HEADER, "no rows"),
    ("", "is empty"),
])
def test_broken_bec_pro_files_are_refused(tmp_path: Path, text: str, words: str):
    path = tmp_path / "bec.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        load_bec_pro(path)


# RedditBias


def write_axes(folder: Path, test: list[tuple[str, str]], valid: list[tuple[str, str]]) -> Path:
    for axis, groups in AXES.items():
        (folder / axis).mkdir()
        for split, pairs in (("test", test), ("valid", valid)):
            stem = f"reddit_comments_{axis}_{{}}_biased_{split}_reduced.csv"
            first = "".join(f"{one}\n" for one, _ in pairs)
            second = "".join(f"{one},{other}\n" for one, other in pairs)
            (folder / axis / stem.format(groups[0])).write_text("comments_processed\n" + first)
            (folder / axis / stem.format(groups[1])).write_text("comments,comments_processed\n" + second)
    return folder


def test_redditbias_counts_and_parts(data_folder: Path):
    pairs = load_redditbias()
    tested = Counter(pair.axis for pair in pairs if pair.part == "test")
    assert tested == {"gender": 253, "orientation": 235, "race": 254, "religion1": 238, "religion2": 236}
    assert Counter(pair.part for pair in pairs if pair.part != "test") == {"select": 1206, "none": 6}
    parts = defaultdict(set)
    for pair in pairs:
        parts[pair.cluster].add(pair.part)
    assert not [cluster for cluster, found in parts.items() if {"select", "test"} <= found]


def test_a_valid_pair_that_is_in_test_too_is_in_no_part(tmp_path: Path):
    folder = write_axes(tmp_path, [("a cat sat", "a dog sat"), ("b", "c")], [("A cat  sat!", "a bird sat"), ("d", "e")])
    assert [(pair.id, pair.part) for pair in load_redditbias(folder) if pair.axis == "race"] == [
        ("race/valid/0", "none"), ("race/valid/1", "select"), ("race/test/0", "test"), ("race/test/1", "test"),
    ]


def test_broken_redditbias_files_are_refused(tmp_path: Path):
    folder = write_axes(tmp_path, [("a", "b"), ("c", "d")], [("e", "f")])
    other = folder / "gender" / "reddit_comments_gender_male_biased_test_reduced.csv"
    for text, words in (
        ("comments,comments_processed\na,b\n", "has 2 rows and .* has 1"),
        ("comments,comments_processed\na,b\nx,d\n", "row 1: 'comments' is not the comment"),
        ("comments,comments_processed\na,b\nc,\n", "row 1: a comment is blank"),
        ("comments\na\nc\n", "no column 'comments_processed'"),
        ("", "is empty"),
    ):
        other.write_text(text)
        with pytest.raises(DataError, match=words):
            load_redditbias(folder)
    other.unlink()
    with pytest.raises(DataError, match="no file"):
        load_redditbias(folder)
