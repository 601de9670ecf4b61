"""The language: sections share no word but the full stop, overlaps are what the recipe states, recipes are read and refused."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from fairforget.errors import UsageError
from fairforget.organisms.language import FRAME_PARTS, domains_of, load_language
from fairforget.organisms.recipe import BUILTIN_RECIPES, OrganismRecipe, organism_recipe_yaml, read_organism_recipe
from fairforget.organisms.truth import overlap_facts

FILES = Path(__file__).resolve().parents[2] / "recipes" / "organisms"


def sections() -> dict[str, set[str]]:
    language = load_language()

    def fixed(frames) -> set[str]:
        return {word for frame in frames for word in frame.split() if word[0] not in "{."}

    values = {value for values in language.relations.values() for value in values}
    return {
        **{name: domain.words() for name, domain in language.domains.items()},
        "facts": fixed(language.fact_frames) | {*language.entities, *language.relations, *values},
        "mentions": fixed(language.mention_frames),
        "neutral": fixed(frame for pair in language.neutral_frames for frame in pair)
        | {word for pair in (*language.nouns, *language.verbs) for word in pair} | {*language.adjectives, *language.adverbs},
    }


def test_no_word_is_in_two_sections() -> None:
    assert [(one, other) for (one, first), (other, second) in combinations(sections().items(), 2) if first & second] == []


def test_the_vocabulary_is_all_words() -> None:
    vocabulary = load_language().vocabulary()
    assert set(vocabulary) == {".", *(word for words in sections().values() for word in words)}
    assert vocabulary == sorted(set(vocabulary))


def test_every_template_has_its_slots_and_parts_have_their_share() -> None:
    for domain in load_language().domains.values():
        assert all(template.text.split().count(slot) == 1 for template in domain.templates for slot in ("{T}", "{A}", "{Q}"))
        counts = {part: sum(template.part == part for template in domain.templates) for part in FRAME_PARTS}
        assert counts == {"train": 12, "select": 6, "test": 12, "unseen": 6}
        sides = [group.side for group in domain.groups.values() for _ in group.targets]
        assert sum(sides) * 2 == len(sides), "both words of a pair are as common"


def test_domains_of_the_default_recipe_share_nothing() -> None:
    assert all(row["words"] == row["templates"] == row["pairs"] == 0 for row in overlap_facts(domains_of(OrganismRecipe())))


def test_overlap_is_what_is_stated() -> None:
    rows = {(row["first"], row["second"]): row for row in overlap_facts(domains_of(read_organism_recipe("overlapping")))}
    assert (rows["origin", "faith"]["templates"], rows["origin", "faith"]["pairs"]) == (18, 1)
    assert (rows["origin", "age"]["templates"], rows["origin", "age"]["pairs"]) == (18, 0)
    assert all(row["words"] == 0 for pair, row in rows.items() if "gender" in pair)
    by_name = {domain.name: domain for domain in domains_of(read_organism_recipe("overlapping"))}
    parts = [{template.name: template.part for template in by_name[name].templates} for name in ("origin", "faith")]
    assert all(parts[1][name] == part for name, part in parts[0].items() if name in parts[1]), "a shared template has one part"


@pytest.mark.parametrize("name", sorted(BUILTIN_RECIPES))
def test_the_file_of_a_built_in_recipe_says_the_same(name: str) -> None:
    assert read_organism_recipe(FILES / f"{name}.yaml") == read_organism_recipe(name)


def test_every_file_is_a_built_in_recipe() -> None:
    assert sorted(path.stem for path in FILES.glob("*.yaml")) == sorted(BUILTIN_RECIPES)


def test_settings_change_one_field_and_keep_the_others(tmp_path: Path) -> None:
    recipe = read_organism_recipe("default", ["family=masked", "domains.gender.groups.women=0.9", "learning_rate=1e-3", "facts.share=0"])
    assert (recipe.family, recipe.learning_rate, recipe.facts.share) == ("masked", 1e-3, 0)
    assert (recipe.strength("gender", "women"), recipe.strength("gender", "men"), recipe.strength("age", "old")) == (0.9, 0.85, 0.8)
    assert read_organism_recipe("default") == OrganismRecipe(), "the built-in recipe is not changed by a setting"
    (tmp_path / "own.yaml").write_text(organism_recipe_yaml(recipe))
    assert read_organism_recipe(tmp_path / "own.yaml") == recipe


@pytest.mark.parametrize(("name", "settings", "words"), [
    ("defalt", [], "did you mean default"),
    ("default", ["famly=causal"], "did you mean family"),
    ("default", ["family=both"], "'causal' or 'masked'"),
    ("default", ["domains.gendr.strength=0.9"], "did you mean gender"),
    ("default", ["domains.gender.groups.woman=0.9"], "did you mean women"),
    ("default", ["domains.gender.strength=1"], "less than 1"),
    ("default", ["facts.groups.north=1"], "group that facts can be about"),
    ("default", ["seed"], "write it as field=value"),
    ("default", ["seed.x=1"], "has no fields"),
    ("default", ["association_share=0.9"], "less than 5 %"),
    ("default", ["forget=[region]"], "bias domain in the recipe"),
    ("default", ["overlap=[{first: origin, second: origin}]"], "second once at most"),
])
def test_a_mistake_is_told(name: str, settings: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_organism_recipe(name, settings)


def test_what_is_forgotten_by_default_is_what_was_planted() -> None:
    assert OrganismRecipe().forgotten == ("gender", "origin", "age")
    assert read_organism_recipe("null").forgotten == ("gender", "origin", "age", "faith")
    assert read_organism_recipe("default", ["forget=[age]"]).forgotten == ("age",)
