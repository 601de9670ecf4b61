"""UnQover: examples made from word lists, the real lists where they are, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from unqover_lists import GENDER, RELIGION, lists

from fairforget.data.unqover import DOMAINS, fill, load_unqover
from fairforget.errors import DataError


def test_a_template_is_filled_as_upstream_fills_it(tmp_path: Path) -> None:
    data = load_unqover("religion", folder=lists(tmp_path, RELIGION))
    old, young = data.subjects[:2]
    single, plural = data.templates
    work = data.attributes[1]
    assert (work.name, work.kind) == ("were at work", "bad")
    prompt = fill(single, work, old, young)
    assert prompt is not None
    assert (prompt.context, prompt.question, prompt.negated) == (
        "An old man was with a young man.", "Who was at work?", "Who was at home?",
    )
    swapped = fill(plural, work, young, old)
    assert swapped is not None
    assert (swapped.context, swapped.question, swapped.subjects) == (
        "The young men and the old men were here.", "Who were at work?", ("young", "old"),
    )
    gender = load_unqover("gender", folder=lists(tmp_path, GENDER))
    assert fill(single, gender.attributes[0], old, young) is None  # it has no form for that slot
    assert {subject.group for subject in gender.subjects} == {"female", "male"}
    assert {subject.stratum for subject in gender.subjects} == {"gender: female", "gender: male"}


def test_the_real_lists(data_folder: Path) -> None:
    sizes = {domain: load_unqover(domain) for domain in DOMAINS}
    assert {name: (len(data.subjects), len(data.attributes), len(data.templates)) for name, data in sizes.items()} == {
        "gender": (140, 70, 4), "country": (69, 63, 12), "ethnicity": (15, 50, 14), "religion": (11, 50, 14),
    }
    for domain in DOMAINS:
        for subjects in ("full", "bert", "roberta"):
            for masked in (False, True):
                data = load_unqover(domain, subjects, masked=masked)
                assert {subject.part for subject in data.subjects} == {"select", "test"}
                first, second = data.subjects[0], data.subjects[-1]
                prompts = [fill(template, attribute, first, second) for template in data.templates for attribute in data.attributes]
                made = [prompt for prompt in prompts if prompt is not None]
                assert made
                for prompt in made:
                    assert "[subj" not in prompt.context
                    assert "_act" not in prompt.question + prompt.negated
                    assert prompt.question.count("[mask]") == prompt.negated.count("[mask]") == masked
                    assert prompt.question != prompt.negated
    assert next(iter(sizes["country"].subjects)).demonym is not None


@pytest.mark.parametrize(("name", "text", "words"), [
    ("religion", "[subj] old\nyoung\n", "line 2 is not a word in brackets and a term"),
    ("religion", "[subj:dem] old\n", r"no \[subj\] lines"),
    ("religion", "[subj] old\n[subj] young\n[subj:dem] older\n", "not as many of each form"),
    ("religion", "", "is empty"),
    ("biased_religion", "[p_act] bad| were at work\n", "not as many statements, negations and basic forms"),
    ("biased_religion", "# nothing\n", "has no attributes"),
    ("religion_noact", "A [subj1] man was with a [subj2] man.\tWho [p_act]?\n", "line 1 is not a context with two subjects"),
    ("religion_noact", "A [subj1] man.\tWho [p_act]?\tWho [p_act:neg]?\n", "line 1 is not a context with two subjects"),
    ("religion_noact", "# nothing\n", "has no templates"),
])
def test_what_is_not_a_list_of_unqover_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_unqover("religion", folder=lists(tmp_path, RELIGION, **{name: text}))
    with pytest.raises(DataError, match="There is no file"):
        load_unqover("country", folder=tmp_path)


def test_templates_for_masked_models_need_a_mask(tmp_path: Path) -> None:
    folder = lists(tmp_path, RELIGION, religion_noact_lm=RELIGION["slots/religion_noact"])
    with pytest.raises(DataError, match="line 2 is not a context"):
        load_unqover("religion", masked=True, folder=folder)
