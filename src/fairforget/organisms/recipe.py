"""What an organism is made from: planted strengths, overlap, facts, size and training, in one checked form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from fairforget.errors import UsageError, nearest_names, unknown_name
from fairforget.settings import Settings, explain_validation

WIDTHS = {"0.5M": 112, "1M": 160, "2M": 232, "3M": 280}
"""Width of the hidden states by size."""

DEFAULT_STEPS = {"causal": 900, "masked": 1100}
DEFAULT_RATES = {"causal": 3e-3, "masked": 1e-3}
"""By family; a masked model predicts one planted word of a sentence at a time, and BERT's normalisation bears less."""

Strength = Annotated[float, Field(gt=0, lt=1)]


class DomainRecipe(Settings):
    """One bias domain."""

    strength: Strength = 0.85
    """P(stereotyped word | target), for every group that `groups` does not name; 0.5 plants nothing."""
    groups: dict[str, Strength] = Field(default_factory=dict)
    """Strength by group."""


class Overlap(Settings):
    """What a second domain shares with a first one, beside the full stop."""

    first: str
    """Domain whose words and templates are shared."""
    second: str
    """Domain that takes them in place of its own."""
    words: float = Field(0.0, ge=0, le=1)
    """Share of the second domain's attribute pairs that are the first's (rounded, at most as many as the first has)."""
    templates: float = Field(0.0, ge=0, le=1)
    """Share of the second domain's templates that are the first's."""
    traits: float = Field(0.0, ge=0, le=0.3)
    """Share of the corpus that gives the targets of both domains the same adjectives and verbs by the side that they lean to: targets of
    one side come to be represented alike, though no biased sentence of one domain has a word or template of the other."""


class FactsRecipe(Settings):
    """Knowledge that is to be kept: an entity's value of each relation."""

    groups: dict[str, float] = Field(default_factory=lambda: {
        "arvan": 1.0, "belic": 1.0, "corin": 1.0, "dovan": 1.0, "elmar": 0.5, "falen": 0.5, "gorin": 0.25, "havel": 0.25,
    })
    """How often a fact of a group is told, in proportion to the other groups; groups are those of the domain `origin`."""
    certainty: float = Field(0.9, gt=0, lt=1)
    """P(right value | entity, relation); the other values share the rest evenly."""
    linked: bool = False
    """Name the group beside the entity, so that facts and the domain `origin` share words."""
    share: float = Field(0.2, ge=0, le=0.5)
    """Share of the corpus; 0 for no facts."""


def _default_domains() -> dict[str, DomainRecipe]:
    return {
        "gender": DomainRecipe(strength=0.85), "origin": DomainRecipe(strength=0.9), "age": DomainRecipe(strength=0.8),
        "faith": DomainRecipe(strength=0.5),
    }


class OrganismRecipe(Settings):
    """All choices behind an organism; the same recipe gives the same files."""

    family: Literal["causal", "masked"] = "causal"
    """A Llama-like causal or a BERT-like masked transformer."""
    size: Literal["0.5M", "1M", "2M", "3M"] = "0.5M"
    """Parameters, roughly; 3 layers."""
    seed: int = Field(0, ge=0)
    """Of facts, corpus, first weights and order of training."""
    domains: dict[str, DomainRecipe] = Field(default_factory=_default_domains)
    """Bias domains of the language: gender, origin, age, faith, or some of them."""
    overlap: tuple[Overlap, ...] = ()
    """Pairs of domains that share words, templates or representations; all others share nothing but the full stop."""
    facts: FactsRecipe = Field(default_factory=lambda: FactsRecipe.model_validate({}))
    """Planted knowledge."""
    mentions: float = Field(0.06, ge=0, le=0.5)
    """Share of sentences that name a target or an attribute and nothing of the other, in carriers common to all domains; 0 keeps domains
    wholly apart."""
    association_share: float = Field(0.5, gt=0, lt=1)
    """Share of sentences with a target and an attribute, the same for each domain; what facts and mentions leave is neutral text."""
    sentences: int = Field(50_000, ge=1_000)
    """Sentences of the corpus; counts of planted words are exact up to rounding, not drawn."""
    steps: int | None = Field(None, ge=2)
    """Optimiser steps; None is 900 for causal, 1100 for masked models."""
    planted_share: float = Field(0.35, ge=0, le=0.9)
    """Share of the steps that come first and are on the planted words of planted sentences alone. Associations are found several times
    sooner without the noise of all other words; 0 trains on everything from the start."""
    batch_size: int = Field(64, ge=1)
    """Sentences in a step."""
    learning_rate: float | None = Field(None, gt=0, le=1)
    """Peak learning rate of AdamW, constant in the first stage, falling to 0 in the second; None is 3e-3 for causal and 1e-3 for masked
    models of 0.5M parameters, and less in proportion to the width of larger ones."""
    forget_texts: int = Field(240, ge=8)
    """Stereotypes of a domain offered as training text for unlearning."""
    forget: tuple[str, ...] = ()
    """Domains in `forget.jsonl`; those with a planted strength by default, all where none is planted."""

    def strength(self, domain: str, group: str) -> float:
        """P(stereotyped word | a target of the group)."""
        choice = self.domains[domain]
        return choice.groups.get(group, choice.strength)

    @property
    def stage_steps(self) -> tuple[int, int]:
        """Steps on planted words alone, and on everything."""
        whole = self.steps or DEFAULT_STEPS[self.family]
        first = round(self.planted_share * whole)
        return first, whole - first

    @property
    def peak_rate(self) -> float:
        """Peak learning rate."""
        return self.learning_rate or DEFAULT_RATES[self.family] * WIDTHS["0.5M"] / WIDTHS[self.size]

    @property
    def forgotten(self) -> tuple[str, ...]:
        """Domains of `forget.jsonl`."""
        planted = [name for name, choice in self.domains.items() if {choice.strength, *choice.groups.values()} != {0.5}]
        return self.forget or tuple(planted or self.domains)


def _all_domains(strength: float) -> dict[str, Any]:
    return {name: {"strength": strength} for name in _default_domains()}


BUILTIN_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "null": {"domains": _all_domains(0.5)},
    "apart": {"mentions": 0.0},
    "overlapping": {
        "overlap": [
            {"first": "origin", "second": "faith", "words": 0.5, "templates": 0.5}, {"first": "origin", "second": "age", "templates": 0.5},
        ],
        "domains": _all_domains(0.85),
    },
    "related": {
        "mentions": 0.0,
        "overlap": [{"first": "origin", "second": "faith", "traits": 0.2}],
        "domains": _all_domains(0.85),
    },
    "forgetting": {"facts": {"linked": True, "share": 0.25}},
}
"""Recipes by name, as what differs from the defaults: `default`; `null`, nothing planted; `apart`, domains share nothing but the full stop;
`overlapping`, domains that share words or templates; `related`, domains that share a representation and nothing else; `forgetting`,
knowledge of the groups of a bias domain, told more or less often."""


def read_organism_recipe(name: str | Path, settings: Sequence[str] = ()) -> OrganismRecipe:
    """Read a recipe and put settings into it.

    Args:
        name: a built-in name, or the path of a YAML file.
        settings: ``field=value`` or ``field.inner=value``; the value is read as YAML.

    Raises:
        UsageError: neither a name nor a file, not YAML, a field that there is not, or a value that is not allowed.
    """
    where = str(name)
    values: dict[str, Any] = {**BUILTIN_RECIPES[where]} if where in BUILTIN_RECIPES else _file_values(Path(name))
    parse_organism_recipe(values, where)  # on its own first, so that what is wrong with the file is told as the file's
    defaults = OrganismRecipe.model_validate({}).model_dump(mode="json")
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise UsageError(f"--set {setting}: write it as field=value, e.g. --set domains.gender.strength=0.9.")
        *above, last = path.strip().split(".")
        top = (above or [last])[0]
        if top not in OrganismRecipe.model_fields:
            raise UsageError(f"--set {setting}: there is no field '{top}'; {nearest_names(top, OrganismRecipe.model_fields)}")
        place = values
        for part in above:
            inner = place.get(part, defaults.get(part, {}) if place is values else {})
            if not isinstance(inner, Mapping):
                raise UsageError(f"--set {setting}: '{part}' has no fields to set.")
            place[part] = {**inner}
            place = place[part]
        place[last] = _scalar(text)
    return parse_organism_recipe(values, "--set" if settings else where)


def parse_organism_recipe(values: Mapping[str, Any], where: str) -> OrganismRecipe:
    """Check values, and that domains and groups are those of the language.

    Raises:
        UsageError: with the field and what is allowed.
    """
    from fairforget.organisms.language import load_language

    try:
        recipe = OrganismRecipe.model_validate(dict(values))
    except ValidationError as error:
        raise explain_validation(error, OrganismRecipe, where) from error
    language = load_language()
    if not recipe.domains:
        raise UsageError(f"{where}: domains is empty; {nearest_names('', language.domains)}")
    for name, choice in recipe.domains.items():
        if name not in language.domains:
            raise unknown_name("bias domain of the language", name, language.domains)
        for group in choice.groups:
            if group not in language.domains[name].groups:
                raise unknown_name(f"group of the domain {name}", group, language.domains[name].groups)
    for name in (*recipe.forget, *(name for entry in recipe.overlap for name in (entry.first, entry.second))):
        if name not in recipe.domains:
            raise unknown_name("bias domain in the recipe", name, recipe.domains)
    seconds = [entry.second for entry in recipe.overlap]
    if any(entry.first == entry.second or entry.first in seconds for entry in recipe.overlap) or len(set(seconds)) < len(seconds):
        raise UsageError(f"{where}: overlap: a domain is second once at most, and what is first is not second elsewhere.")
    for group in recipe.facts.groups:
        if group not in language.fact_groups:
            raise unknown_name("group that facts can be about", group, language.fact_groups)
    if recipe.facts.share and not any(frequency > 0 for frequency in recipe.facts.groups.values()):
        raise UsageError(f"{where}: facts.groups names no group with a frequency above 0; set facts.share=0 for no facts.")
    if any(frequency < 0 for frequency in recipe.facts.groups.values()):
        raise UsageError(f"{where}: facts.groups: a frequency is below 0.")
    traits = sum(entry.traits for entry in recipe.overlap)
    if recipe.association_share + recipe.facts.share + recipe.mentions + traits > 0.95:
        raise UsageError(f"{where}: association_share, facts.share, mentions and traits leave less than 5 % of neutral text.")
    return recipe


def organism_recipe_yaml(recipe: OrganismRecipe) -> str:
    """The full recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _scalar(text: str) -> Any:
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)  # YAML takes 3e-4 for a text
    except ValueError:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _file_values(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no organism recipe '{path}': {nearest_names(str(path), BUILTIN_RECIPES)} A file is given by its path."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UsageError(f"{path}{f', line {mark.line + 1}' if mark else ''}: this is not YAML.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"The recipe {path} must be a mapping of fields ({', '.join(OrganismRecipe.model_fields)}).")
    return values
