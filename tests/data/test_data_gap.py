"""GAP and the neutral corpus as training sources, word lists of the user, and Bias Bench's swap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairforget.data.gap import COLUMNS, load_gap
from fairforget.data.group_sentences import split_sentences
from fairforget.data.overlap import find_overlap
from fairforget.data.swaps import ExactSwapper, Swapper, swap_gender
from fairforget.data.training import training_source, training_source_names
from fairforget.data.wikitext import load_wikitext
from fairforget.data.words import WordList, find_word_list, word_list
from fairforget.errors import DataError, UsageError

ROW = {
    "ID": "x-1", "Text": "Ann met Bea when she came.", "Pronoun": "she", "Pronoun-offset": "17", "A": "Ann", "A-offset": "0",
    "A-coref": "TRUE", "B": "Bea", "B-offset": "8", "B-coref": "FALSE", "URL": "http://example.org/x",
}  # fmt: skip


def write(path: Path, **changed: str) -> Path:
    row = {**ROW, **changed}
    path.write_text("\t".join(COLUMNS) + "\n" + "\t".join(row[column] for column in COLUMNS) + "\n", encoding="utf-8")
    return path


def test_the_parts_of_gap_share_no_page_and_are_balanced(data_folder: Path) -> None:
    parts = {part: load_gap(part) for part in ("train", "select", "test")}
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 2000, "select": 454, "test": 2000}
    pages = [{snippet.page for snippet in rows} for rows in parts.values()]
    assert pages[0].isdisjoint(pages[1]) and pages[0].isdisjoint(pages[2]) and pages[1].isdisjoint(pages[2])
    for rows in parts.values():
        assert sum(snippet.gender == "male" for snippet in rows) == len(rows) // 2
        assert all(sum(name.refers for name in snippet.names) <= 1 for snippet in rows)


def test_the_source_gap_is_the_train_part_and_no_article_of_wikitext(data_folder: Path) -> None:
    source = training_source("gap")
    assert len(source.texts) == 2000
    assert source.provenance["datasets"][0]["licence"] == "Apache-2.0"
    windows = []
    for article in load_wikitext("test"):
        words = article.text.split()
        windows += [" ".join(words[start : start + 128]) for start in range(0, len(words), 128)]
    report = find_overlap([text.text for text in source.texts], windows)
    assert (report.equal, report.near) == (0, 0)


def test_the_source_corpus_holds_sentences_that_name_a_group(data_folder: Path) -> None:
    source = training_source("corpus")
    assert len(source.texts) > 4000
    assert len({text.text for text in source.texts}) == len(source.texts)
    swappers = {axis: Swapper(axis, names=False) for axis in ("gender", "race", "religion")}
    for text in source.texts[::20]:
        assert text.groups == tuple(axis for axis, swapper in swappers.items() if swapper.count(text.text))
        assert text.groups
    assert {"corpus", "gap"} <= set(training_source_names())


def test_a_row_of_gap(tmp_path: Path) -> None:
    (snippet,) = load_gap("test", write(tmp_path / "one.tsv"))
    assert (snippet.gender, snippet.part, snippet.pronoun_offset) == ("female", "test", 17)
    assert [(name.text, name.refers) for name in snippet.names] == [("Ann", True), ("Bea", False)]


@pytest.mark.parametrize("changed", [{"Pronoun-offset": "16"}, {"A-offset": "1"}, {"B-coref": "maybe"}, {"Pronoun": "they"}])
def test_a_damaged_row_of_gap_is_refused(tmp_path: Path, changed: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"one\.tsv row 1: a pronoun"):
        load_gap("test", write(tmp_path / "one.tsv", **changed))
    with pytest.raises(UsageError, match="no part of GAP named 'dev'"):
        load_gap("dev")


def test_sentences_are_cut_at_their_ends() -> None:
    assert split_sentences('She came. "Did he?" No! 3.5 miles ') == ["She came.", '"Did he?', "No!", "3.5 miles"]


def test_the_exact_swap_is_bias_benchs() -> None:
    swapper = ExactSwapper("gender")
    assert swapper.swap("he saw her book") == "she saw his book"
    assert swapper.swap("they saw her,  then him.") == "they saw his, then her."  # "her" is always "his", white space is one blank
    assert swapper.swap("He and the woman's \"man\"") == "He and the woman's \"man\""  # capitals, possessives and quotes are missed
    assert swapper.count("He and she and John and her.") == 2
    assert swap_gender("He saw her book. He saw her.") == "She saw his book. She saw him."  # what ours does


def test_the_last_row_decides_in_the_exact_swap_and_each_group_draws_for_itself() -> None:
    words = WordList("own", ("a", "b", "c"), (("black", "caucasian", "asian"), ("black", "white", "asian")))
    texts = [f"black caucasian asian {number}" for number in range(40)]
    found = {tuple(ExactSwapper(words).swap(text).split()[:3]) for text in texts}
    assert found == {(one, two, three) for one in ("white", "asian") for two in ("black", "asian") for three in ("black", "white")}
    assert ExactSwapper(words, seed=1).swap(texts[0]) == ExactSwapper(words, seed=1).swap(texts[0])


SWAPPERS = (ExactSwapper("gender"), Swapper("gender"))


@given(st.text(max_size=60))
def test_a_text_without_a_listed_word_is_unchanged_by_both_swaps(text: str) -> None:
    for swapper in SWAPPERS:
        if not swapper.count(text):
            assert swapper.swap(text) == text


def test_first_words_miss_no_text_that_would_be_swapped() -> None:
    for axis in ("gender", "race", "religion", "nationality"):
        swapper = Swapper(axis)
        words = swapper.words
        for row in (*words.rows, *words.names):
            assert all(any(first in word.lower() for first in swapper.first_words) for word in row)


def test_a_word_list_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"gender": [["he", "she"]], "race": [["black", "white", "asian"]], "bad": [["a"], ["b", "c"]]}))
    assert find_word_list("gender") is word_list("gender")
    assert find_word_list(f"{path}#race").rows == (("black", "white", "asian"),)
    assert Swapper(find_word_list(f"{path}#gender")).swap("He slept.") == "She slept."
    with pytest.raises(DataError, match="no rows of equally many words under the key 'bad'"):
        find_word_list(f"{path}#bad")
    with pytest.raises(DataError, match="cannot be read as a word list"):
        find_word_list(str(tmp_path / "none.json"))
    with pytest.raises(UsageError, match="no word list named 'gendr'"):
        find_word_list("gendr")
