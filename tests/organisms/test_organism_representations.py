"""Shared representations: 1 where sides are one direction in both domains, −1 where they are turned round, 0 where they are unrelated."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fairforget.organisms.language import domains_of, load_language
from fairforget.organisms.network import make_model
from fairforget.organisms.recipe import read_organism_recipe
from fairforget.organisms.representations import shared_representation

DOMAINS = [domain for domain in domains_of(read_organism_recipe("default")) if domain.name in ("origin", "faith")]
SIDES = {target: group.side for domain in DOMAINS for group in domain.groups.values() for target in group.targets}


@pytest.mark.parametrize(("family", "turned", "expected"), [
    ("causal", "", 1.0), ("masked", "", 1.0), ("causal", "faith", -1.0), ("masked", "faith", -1.0),
])
def test_sides_as_one_direction(family: str, turned: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(family, "0.5M", load_language().vocabulary(), 0)
    tokens = {model.token_ids(target)[-1]: side for target, side in SIDES.items()}
    flipped = {model.token_ids(target)[-1] for domain in DOMAINS if domain.name == turned for group in domain.groups.values()
               for target in group.targets}

    def states(ids: torch.Tensor, **_: object) -> SimpleNamespace:
        signs = [[tokens.get(token, 0.5) * 2 - 1 for token in row] for row in ids.tolist()]
        turns = [[-1 if token in flipped else 1 for token in row] for row in ids.tolist()]
        along = torch.tensor(signs) * torch.tensor(turns)
        return SimpleNamespace(hidden_states=[torch.stack([along, torch.full_like(along, 5.0)], dim=-1)])

    monkeypatch.setattr(model.hf, "forward", states)
    assert shared_representation(model, load_language(), DOMAINS) == {("origin", "faith"): pytest.approx(expected)}


@pytest.mark.parametrize("family", ["causal", "masked"])
def test_an_untrained_model_shares_nothing(family: str) -> None:
    model = make_model(family, "0.5M", load_language().vocabulary(), 0)
    domains = domains_of(read_organism_recipe("default"))
    found = shared_representation(model, load_language(), domains)
    assert len(found) == 6
    assert all(abs(value) < 0.15 for value in found.values())
