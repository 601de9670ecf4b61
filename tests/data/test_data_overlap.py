"""Overlap of training and test texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairforget.data.overlap import OverlapMatch, find_overlap, fold, folded_key

SENTENCE = "The gardener watered the roses before the sun came over the old stone wall"
VOCABULARY = ["river", "stone", "lamp", "cloud", "tree", "seven", "open", "under", "kind", "blue"]
words = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=14)


def swap_genders(text):
    pairs = {"she": "he", "he": "she"}
    return " ".join(pairs.get(word, word) for word in text.split(" "))


@given(st.text())
def test_folding_twice_is_folding_once(text):
    assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("She said: “Don’t!”", "she said don't"),
        ("a well-known  fact.", "A well known fact"),
        ("Meridian , Mississippi 's oldest town", "Meridian, Mississippi's oldest town"),
        ("ＦＵＬＬ width", "full width"),
        ("Straße", "STRASSE"),
        ("snake_case", "snake case"),
    ],
)
def test_texts_that_differ_in_case_space_and_punctuation_have_one_key(first, second):
    assert folded_key(first) == folded_key(second)


@given(words, st.randoms(use_true_random=False))
def test_equality_survives_case_space_and_punctuation(sentence, random):
    noisy = "".join(random.choice([word, word.upper(), word.title()]) + random.choice([" ", "  ", ", ", " - ", "\t"]) for word in sentence)
    report = find_overlap([noisy], [" ".join(sentence)])
    assert (report.equal, report.near) == (1, 0)


@given(st.lists(words, max_size=6), st.lists(words, max_size=6))
def test_equal_is_set_membership_for_single_sentences(train, test):
    train_texts, test_texts = [" ".join(text) for text in train], [" ".join(text) for text in test]
    keys = {folded_key(text) for text in train_texts}
    report = find_overlap(train_texts, test_texts)
    found = [match.test for match in report.matches if match.kind == "equal"]
    assert found == [index for index, text in enumerate(test_texts) if folded_key(text) in keys]
    assert report.equal == len(found)
    assert report.near == len(report.matches) - report.equal


@given(words, words)
def test_swaps_of_either_side_are_found(before, after):
    train = " ".join([*before, "she", *after])
    test = " ".join([*before, "he", *after])
    assert find_overlap([train], [test]).equal == 0
    assert find_overlap([train], [test], swap_genders).equal == 1
    assert find_overlap([test], [train], swap_genders).equal == 1


def test_a_one_way_swap_counts_on_the_test_side_too():
    def to_female(text):
        return " ".join({"he": "she"}.get(word, word) for word in text.split(" "))

    assert find_overlap(["she reads"], ["he reads"], to_female).equal == 1
    assert find_overlap(["he reads"], ["she reads"], to_female).equal == 1


def test_a_sentence_inside_a_longer_training_text_is_equal():
    text = f"It was early. {SENTENCE}! Nobody else was there."
    assert find_overlap(["unrelated", text], [SENTENCE]).matches == (OverlapMatch(test=0, train=1, kind="equal", share=1.0),)
    assert find_overlap([f"first line\n{SENTENCE}\nlast line"], [SENTENCE]).equal == 1


def test_half_of_the_eight_word_runs_is_near_and_less_is_not():
    """14 words have 7 runs of eight; the first 11 words hold 4 of them, the first 10 hold 3."""
    words = SENTENCE.split()
    assert len(words) == 14
    four = find_overlap([" ".join(words[:11]) + " and more"], [SENTENCE])
    assert (four.equal, four.near) == (0, 1)
    assert four.matches[0].share == pytest.approx(4 / 7)
    assert find_overlap([" ".join(words[:10]) + " and more"], [SENTENCE]).matches == ()


def test_runs_are_summed_over_training_texts():
    words = SENTENCE.split()
    assert find_overlap(["so " + " ".join(words[:9]), "so " + " ".join(words[5:])], [SENTENCE]).near == 1


def test_short_texts_are_never_near_and_empty_texts_match_nothing():
    assert find_overlap(["the cat sat on the mat again today and slept"], ["cat sat on the mat"]).matches == ()
    assert find_overlap(["", "..."], ["", "?!"]).matches == ()


@given(st.lists(words, max_size=5))
def test_no_training_text_no_overlap(test):
    assert find_overlap([], [" ".join(text) for text in test]).matches == ()


@given(st.lists(words, min_size=1, max_size=5), words)
def test_more_training_text_never_finds_less(train, extra):
    train_texts = [" ".join(text) for text in train]
    test_texts = [" ".join(text) for text in train] + [SENTENCE]
    few, many = find_overlap(train_texts, test_texts), find_overlap([*train_texts, " ".join(extra)], test_texts)
    assert {match.test for match in few.matches} <= {match.test for match in many.matches}
    assert few.equal <= many.equal
