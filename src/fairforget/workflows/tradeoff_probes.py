"""What only the model can tell of a checkpoint: drift of its distributions, how far its weights moved, what its text windows are about."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn

from fairforget.data.words import find_word_list, group_words
from fairforget.edits import Dense, WeightEdit
from fairforget.edits.sites import find_sites
from fairforget.errors import UsageError
from fairforget.methods._blocks import find_blocks
from fairforget.models import Model
from fairforget.organisms import read_organism_recipe
from fairforget.organisms.language import domains_of
from fairforget.scoring import Request
from fairforget.scoring.requests import ContinuationRequest
from fairforget.workflows.tradeoff_recipe import Strata

WITHOUT, TARGET, OTHER = "no group word", "target axis", "another axis only"
"""Strata of general text."""
NEAR = 16
"""Tokens on either side of a masked place in which a group word counts."""
KINDS = ("attention", "mlp", "embeddings", "norms", "other")
"""Kinds of modules that the distance is told for."""


def group_word_strata(model: Model, requests: Sequence[Request], strata: Strata) -> list[str]:
    """The stratum of each window: the scored tokens of a causal model's, the tokens near the masked place of a masked model's.

    Words are looked for as whole words in any case; a window with words of both kinds belongs to the target axis.

    Args:
        model: whose tokenizer reads the windows.
        requests: one a window.
        strata: the word lists.

    Raises:
        UsageError: an unknown word list, or no words at all.
        DataError: a list cannot be read.
    """
    target, other = strata_words(strata)
    patterns = (_pattern(target), _pattern(other))
    texts = [str(model.tokenizer.decode(_around(request), skip_special_tokens=True)) for request in requests]
    return [TARGET if patterns[0].search(text) else OTHER if patterns[1].search(text) else WITHOUT for text in texts]


def strata_words(strata: Strata) -> tuple[set[str], set[str]]:
    """Words of the target axes, and those of other axes that are none of them.

    Raises:
        UsageError: an unknown word list, or no words of the target.
        DataError: a list cannot be read.
    """
    if strata.organism is not None:
        recipe = read_organism_recipe(Path(strata.organism).expanduser() / "organism.yaml")
        found: dict[bool, set[str]] = {True: set(), False: set()}
        for domain in domains_of(recipe):
            words = {word for group in domain.groups.values() for word in group.targets} | {word for pair in domain.pairs for word in pair}
            found[domain.name in recipe.forgotten] |= words
        target, other = found[True], found[False]
    else:
        target, other = (
            {word for name in names for group in group_words(find_word_list(name)) for word in group}
            for names in (strata.target, strata.other)
        )
    if not target:
        raise UsageError("strata: the target axes have no words; name a word list under strata.target.")
    return target, other - target


def distances(model: Model, edit: WeightEdit) -> dict[str, float]:
    """Frobenius norm of an edit of strength 1 by kind of module, and overall under ``all``.

    Args:
        model: the base.
        edit: dense or low-rank changes.
    """
    blocks = find_blocks(model)
    members = {linear.name: "attention" for block in blocks for linear in block.attention}
    members |= {linear.name: "mlp" for block in blocks for linear in block.mlp}
    sites = find_sites(model.hf)
    squares: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    for name, delta in edit.deltas.items():
        site = sites[name]
        kind = members.get(site.module_name) or _other_kind(site.module)
        if isinstance(delta, Dense):
            squares[kind] += float(delta.delta.double().square().sum())
        else:
            # ||B A||² = tr((Bᵀ B)(A Aᵀ)): no dense matrix is made
            a, b = delta.A.double(), delta.B.double()
            squares[kind] += delta.scale**2 * float(((b.T @ b) * (a @ a.T)).sum())
    return {**{kind: math.sqrt(value) for kind, value in squares.items()}, "all": math.sqrt(sum(squares.values()))}


def _other_kind(module: nn.Module) -> str:
    if isinstance(module, nn.Embedding):
        return "embeddings"
    return "norms" if "norm" in type(module).__name__.lower() else "other"


def _around(request: Request) -> list[int]:
    if isinstance(request, ContinuationRequest):
        return list(request.continuation)
    ids = list(request.ids)
    for place, token in zip(request.positions, request.targets, strict=True):
        ids[place] = token
    return ids[max(0, min(request.positions) - NEAR) : max(request.positions) + NEAR + 1]


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    ordered = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)" if ordered else r"(?!)", re.IGNORECASE)
