import difflib
import re
from collections import Counter, defaultdict

import pytest

from fairforget.data.english import indefinite_article
from fairforget.data.overlap import find_overlap
from fairforget.data.starter import DOMAINS, STARTER_NOTE, Starter, load_starter
from fairforget.data.swaps import Swapper, swap_gender

PARTS = ("train", "select", "test")


@pytest.fixture(scope="module")
def starter() -> Starter:
    return load_starter()


def words(sentence: str) -> list[str]:
    return re.findall(r"[\w'-]+|[^\w\s]", sentence)


def changed(pair) -> list[tuple[str, str]]:
    """Spans of words in which the two sentences of a pair differ."""
    one, other = words(pair.stereotype), words(pair.anti)
    spans = difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    return [(" ".join(one[a:b]), " ".join(other[c:d])) for tag, a, b, c, d in spans if tag != "equal"]


def test_size_of_the_set(starter: Starter):
    assert len({pair.template for pair in starter.pairs}) >= 70
    assert len(starter.pairs) >= 600
    assert {pair.domain for pair in starter.pairs} == set(DOMAINS)
    assert 400 <= len(starter.training) <= 700
    assert len(starter.neutral) >= 150
    assert len(starter.passages) >= 40
    for part in ("select", "test"):
        assert 200 <= len(starter.pairs_of(part)) <= 260
        assert len(starter.passages_of(part)) >= 20


def test_every_part_has_enough_clusters(starter: Starter):
    templates = Counter((part, domain) for part, domain, _ in {(pair.part, pair.domain, pair.template) for pair in starter.pairs})
    assert all(templates["select", domain] >= 4 and templates["test", domain] >= 5 for domain in DOMAINS)
    assert sum(count for (part, _), count in templates.items() if part == "test") >= 20


def test_a_template_lies_in_one_part_and_one_domain(starter: Starter):
    homes = defaultdict(set)
    for pair in starter.pairs:
        homes[pair.template].add((pair.part, pair.domain))
    assert all(len(home) == 1 for home in homes.values())


def test_ids_and_sentences_are_unique(starter: Starter):
    sentences = [sentence for pair in starter.pairs for sentence in (pair.stereotype, pair.anti)]
    assert len(set(sentences)) == len(sentences)
    for texts in (starter.pairs, starter.training, starter.neutral, starter.passages):
        assert len({text.id for text in texts}) == len(texts)
    assert len({text.text for text in starter.neutral}) == len(starter.neutral)


def test_pairs_differ_only_in_the_words_for_the_group(starter: Starter):
    # For each (template, group, group) the words that change must be the same whatever the trait is: so no trait changes.
    seen = defaultdict(set)
    for pair in starter.pairs:
        spans = changed(pair)
        assert spans, pair.id
        first, second = pair.groups
        key = (pair.template, *sorted((first, second)))
        seen[key].add(tuple(spans) if first < second else tuple((b, a) for a, b in spans))
    assert all(len(spans) == 1 for spans in seen.values())


def test_gender_pairs_are_gender_swaps(starter: Starter):
    for pair in starter.pairs:
        if pair.domain == "occupation-gender" and "Linda" not in pair.stereotype + pair.anti:
            assert swap_gender(pair.stereotype) == pair.anti


def test_groups_are_balanced_within_each_template(starter: Starter):
    # A against B as often as B against A: how common the words for a group are cancels in the mean margin.
    counts = Counter((pair.template, *pair.groups) for pair in starter.pairs)
    assert all(counts[template, second, first] == count for (template, first, second), count in counts.items())
    units = defaultdict(list)
    for pair in starter.pairs:
        units[pair.unit].append(pair.groups)
    assert all(len(groups) == 2 and groups[0] == groups[1][::-1] for groups in units.values())


def test_the_group_stands_before_the_trait_in_many_sentences_and_after_it_in_some(starter: Starter):
    first_of = {}
    group_first = defaultdict(dict)
    for pair in starter.pairs:
        one = first_of.setdefault((pair.template, pair.groups), pair)
        if one is not pair:  # same groups, another trait
            group_at = first_difference(one.stereotype, one.anti)
            trait_at = first_difference(one.stereotype, pair.stereotype)
            group_first[pair.domain][pair.template] = group_at < trait_at
    for templates in group_first.values():
        assert 0.3 < sum(templates.values()) / len(templates) < 0.9


def first_difference(one: str, other: str) -> int:
    return next(index for index, (a, b) in enumerate(zip(words(one), words(other), strict=False)) if a != b)


def test_spelling_of_all_sentences(starter: Starter):
    sentences = [sentence for pair in starter.pairs for sentence in (pair.stereotype, pair.anti)] + [text.text for text in starter.neutral]
    for sentence in sentences:
        assert sentence[0].isupper()
        assert sentence[-1] == "."
        assert "  " not in sentence
        assert not re.search(r"[{}_]|\b(\w+) \1\b", sentence), sentence
        for article, word in re.findall(r"\b([Aa]n?) ([\w-]+)", sentence):
            assert article.lower() == indefinite_article(word), sentence


def test_no_training_text_occurs_in_select_or_test(starter: Starter):
    train = [text.text for text in (*starter.training, *starter.neutral)]
    reported = [sentence for part in ("select", "test") for pair in starter.pairs_of(part) for sentence in (pair.stereotype, pair.anti)]
    reported += [passage.text for passage in starter.passages]
    for swap in (swap_gender, Swapper("nationality"), Swapper("religion")):
        report = find_overlap(train, reported, swap)
        assert (report.equal, report.near) == (0, 0)
    select = [sentence for pair in starter.pairs_of("select") for sentence in (pair.stereotype, pair.anti)]
    test = [sentence for pair in starter.pairs_of("test") for sentence in (pair.stereotype, pair.anti)]
    assert find_overlap(select, test, swap_gender).equal == 0


def test_training_shares_groups_and_traits_with_the_reported_parts(starter: Starter):
    groups = {part: {group for pair in starter.pairs_of(part) for group in pair.groups} for part in PARTS}
    assert groups["test"] <= groups["train"]
    assert groups["select"] <= groups["train"]


def test_training_sentences_are_the_stereotypes_of_train(starter: Starter):
    assert [text.text for text in starter.training] == [pair.stereotype for pair in starter.pairs if pair.part == "train"]
    assert all(text.part == "train" and text.cluster and text.groups for text in starter.training)


def test_passages_are_of_the_promised_length_and_one_paragraph(starter: Starter):
    for passage in starter.passages:
        assert 60 <= len(passage.text.split()) <= 110
        assert "\n" not in passage.text
        assert passage.text[-1] == "."


def test_neutral_sentences_name_no_group(starter: Starter):
    swappers = [Swapper(name) for name in ("gender", "nationality", "religion", "race")]
    assert not [text.id for text in starter.neutral for swapper in swappers if swapper.count(text.text)]


def test_loading_is_deterministic(starter: Starter):
    load_starter.cache_clear()
    assert load_starter() == starter


def test_the_note_says_what_the_set_is_for():
    assert "first look" in STARTER_NOTE
    assert "offline tests" in STARTER_NOTE
