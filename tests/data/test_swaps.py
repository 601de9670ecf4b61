import gzip
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairforget.data.english import indefinite_article, is_determiner
from fairforget.data.swaps import Swapper, swap_gender
from fairforget.data.words import WordList, gender_pairs, name_pairs, word_list, word_list_names
from fairforget.errors import DataError, UsageError

BOTH_WAYS = [
    ("His father said he'd be late.", "Her mother said she'd be late."),
    ("She gave him her coat.", "He gave her his coat."),
    ("a friend of his", "a friend of hers"),
    ("The red one is hers, not his.", "The red one is his, not hers."),
    ("The boys' room and the men's room", "The girls' room and the women's room"),
    ("MY HUSBAND LEFT", "MY WIFE LEFT"),
    ("He and his wife saw her.", "She and her husband saw him."),
    ("his or her coat", "her or his coat"),
    ("She loved her more than him.", "He loved him more than her."),
    ("An heiress met an actor.", "An heir met an actress."),
    ("They let her go and made her cry.", "They let him go and made him cry."),
    ("They made her bed and saw her wedding.", "They made his bed and saw his wedding."),
    ("We called her back although her back hurt.", "We called him back although his back hurt."),
    ("It made her happy.", "It made him happy."),
    ("She did her very best.", "He did his very best."),
    ("It is up to her whether her own family comes.", "It is up to him whether his own family comes."),
    ("My mother-in-law met Mr. Smith.", "My father-in-law met Mrs. Smith."),
    ("Mary's hat and James' coat", "John's hat and Frances' coat"),
    ("MARY has a herald's history of mailing mankind.", "JOHN has a herald's history of mailing mankind."),
]


@pytest.mark.parametrize(("one", "other"), BOTH_WAYS)
def test_swaps_that_hold_both_ways(one: str, other: str):
    assert swap_gender(one) == other
    assert swap_gender(other) == one


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("Mum and mom", "Dad and dad"),
        ("Ms Brown, Miss Green", "Mr Brown, Mr Green"),
        ("I miss him.", "I miss her."),
        ("Yes, ma’am", "Yes, sir"),
        ("The ballerina waved.", "The ballet dancer waved."),
    ],
)
def test_one_way_words(text: str, swapped: str):
    assert swap_gender(text) == swapped


def test_names_can_be_left_alone():
    assert swap_gender("Robert and his uncle", names=False) == "Robert and her aunt"
    assert swap_gender("Robert and his uncle") == "Patricia and her aunt"


def test_small_letter_names_are_no_names():
    assert swap_gender("a robin and a tom cat") == "a robin and a tom cat"


PLAIN = ["the", "old", "saw", "quickly", "tree", "again,", "and", "(yes)", "42", "été"]
ONE_TO_ONE = [word for pair in (*gender_pairs(), *name_pairs()) for word in pair] + ["he", "she", "himself", "herself"]
CASES = [str, lambda word: word[0].upper() + word[1:], str.upper]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(PLAIN),
            st.builds(
                lambda word, case, end: case(word) + end,
                st.sampled_from(ONE_TO_ONE),
                st.sampled_from(CASES),
                st.sampled_from(["", "'s", ".", ","]),
            ),
        ),
        max_size=12,
    ).map(" ".join)
)
def test_two_swaps_of_one_to_one_words_give_the_text_back(text: str):
    assert swap_gender(swap_gender(text)) == text


@given(st.text(max_size=200))
def test_any_text_keeps_what_is_not_on_the_list(text: str):
    swapper = Swapper("gender")
    if swapper.count(text) == 0:
        assert swapper.swap(text) == text
    assert swapper.swap(f"{text}\n§ man §").endswith("§ woman §")


@given(st.sampled_from(ONE_TO_ONE))
def test_every_word_changes(word: str):
    assert swap_gender(word) != word
    assert Swapper("gender").count(word) == 1


@pytest.mark.parametrize("name", ["nationality", "race", "religion"])
def test_group_lists_exchange_all_groups_at_once(name: str):
    words = word_list(name)
    row = words.rows[0]
    text = f"We met the {row[0]}, then the {row[1]}, then the {row[2]} and the {row[0]}."
    for seed in range(20):
        swapped = Swapper(name, seed=seed).swap(text)
        found = re.findall(r"the ([\w ]+?)(?=,| and|\.)", swapped)
        assert len(set(found[:3])) == 3
        assert found[3] == found[0]
        assert all(new != old for new, old in zip(found, (row[0], row[1], row[2], row[0]), strict=True))
        assert swapped == Swapper(name, seed=seed).swap(text)


def test_the_draw_depends_on_the_seed_and_reaches_every_group():
    text = "The Polish table"
    targets = {Swapper("nationality", seed=seed).swap(text).split()[1] for seed in range(200)}
    assert targets == set(word_list("nationality").groups) - {"Polish"}


def test_words_with_a_capital_of_their_own():
    swapper = Swapper(WordList("test", ("one", "two"), (("Polish", "Italian"), ("black man", "Asian man"))))
    assert swapper.swap("Polish the Polish table. polish it. a POLISH one") == "Italian the Italian table. polish it. an ITALIAN one"
    assert swapper.swap("Asian man. The Asian man saw a black man.") == "Black man. The black man saw an Asian man."
    assert swapper.swap("black  man") == "Asian man"


def test_count_and_groups():
    swapper = Swapper("gender")
    assert swapper.count("He met his aunt and her friend.") == 4
    assert swapper.groups("The king slept.") == ("male",)
    assert swapper.groups("Her king and his ballerina") == ("male", "female")
    assert swapper.groups("The table.") == ()


@pytest.mark.parametrize(
    ("phrase", "article"),
    [("apple", "an"), ("hour", "an"), ("honest man", "an"), ("European", "a"), ("unit", "a"), ("uninvited guest", "an"),
     ("one-eyed cat", "a"), ("user", "a"), ("usher", "an"), ("onion", "an"), ("Ukrainian", "a"), ("uncle", "an"), ("horse", "a")],
)
def test_articles(phrase: str, article: str):
    assert indefinite_article(phrase) == article


def test_determiner_rule_on_pronouns_whose_kind_is_known(data_folder):
    # "him" never stands before its noun and "his" nearly always does, so real text tells how good the rule for "her" is.
    content = gzip.decompress((data_folder / "gap" / "gap-test.tsv.gz").read_bytes()).decode("utf-8")
    rows = [line.split("\t") for line in content.splitlines()]
    right, seen = {"his": 0, "him": 0}, {"his": 0, "him": 0}
    for text in (row[1] for row in rows[1:]):
        for match in re.finditer(r"\b(his|him)\b", text):
            seen[match[1]] += 1
            right[match[1]] += is_determiner(text[: match.start()], text[match.end() :]) == (match[1] == "his")
    assert seen["his"] > 1000
    assert right["his"] / seen["his"] > 0.97
    assert right["him"] / seen["him"] > 0.88


def test_word_lists_are_one_to_one_where_they_say_so():
    for pairs in (gender_pairs(), name_pairs()):
        flat = [word for pair in pairs for word in pair]
        assert len(set(flat)) == len(flat)
    assert len(name_pairs()) >= 100
    produced = {other for _, other in word_list("gender").one_way}
    replaced = {word for word, _ in word_list("gender").one_way}
    assert not produced & replaced


def test_names_that_end_in_s_face_names_that_end_in_s():
    assert all(male.endswith("s") == female.endswith("s") for male, female in name_pairs())


def test_word_list_mistakes():
    assert word_list_names() == ["gender", "nationality", "race", "religion"]
    with pytest.raises(UsageError, match="gender"):
        word_list("genders")
    with pytest.raises(DataError, match="two or more"):
        WordList("mine", ("one",), ())
    with pytest.raises(DataError, match="2 groups"):
        WordList("mine", ("one", "two"), (("a", "b", "c"),))
    with pytest.raises(DataError, match="exactly two"):
        WordList("mine", ("one", "two", "three"), (), one_way=(("a", "b"),))
