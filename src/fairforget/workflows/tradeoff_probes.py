"""What only the model can tell of a checkpoint: drift of its distributions, how far its weights moved, what its text windows are about."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from fairforget.data.words import find_word_list, group_words
from fairforget.edits import Dense, WeightEdit
from fairforget.edits.sites import find_sites
from fairforget.errors import UsageError
from fairforget.forgetting import kl_divergence
from fairforget.forgetting.ledger import KEY
from fairforget.methods._blocks import find_blocks
from fairforget.models import Model
from fairforget.organisms import read_organism_recipe
from fairforget.organisms.language import domains_of
from fairforget.scoring import Request
from fairforget.scoring.requests import ContinuationRequest, MaskedRequest
from fairforget.workflows.tradeoff_recipe import Strata

WITHOUT, TARGET, OTHER = "no group word", "target axis", "another axis only"
"""Strata of general text."""
NEAR = 16
"""Tokens on either side of a masked place in which a group word counts."""
KINDS = ("attention", "mlp", "embeddings", "norms", "other")
"""Kinds of modules that the distance is told for."""
_BATCH = 16
"""Sequences in a forward for drift."""


class Drift:
    """KL(base || tuned) over the vocabulary at fixed places of the general text, the base's side computed once.

    Args:
        model: the base, without edits.
        table: item table of the general text, a row per window.
        requests: the request behind each row.
        positions: places in all; windows are taken evenly over the text until there are as many.
    """

    def __init__(self, model: Model, table: pl.DataFrame, requests: Sequence[Request], positions: int) -> None:
        self.rows = _even(table, requests, positions)
        self.keys = table.select(KEY)[self.rows]
        self.requests = [requests[row] for row in self.rows]
        self.base = self._log_probabilities(model)

    def measure(self, model: Model) -> pl.DataFrame:
        """A row per window: what names it and ``kl``, nats a place.

        Args:
            model: the same model with an edit on it.
        """
        now = self._log_probabilities(model)
        values = [float(kl_divergence(before, after).mean()) for before, after in zip(self.base, now, strict=True)]
        return self.keys.with_columns(kl=pl.Series(values, dtype=pl.Float64))

    @torch.inference_mode()
    def _log_probabilities(self, model: Model) -> list[NDArray[np.float64]]:
        """(places, vocabulary) of each window."""
        found: list[NDArray[np.float64]] = []
        for start in range(0, len(self.requests), _BATCH):
            batch = self.requests[start : start + _BATCH]
            sequences = [_sequence(request) for request in batch]
            width = max(len(ids) for ids, _ in sequences)
            ids = torch.full((len(batch), width), model.pad_id, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, (own, _) in enumerate(sequences):
                ids[row, : len(own)] = torch.tensor(own)
                mask[row, : len(own)] = 1
            states = model.hidden(ids.to(model.device), mask.to(model.device))
            for row, (_, places) in enumerate(sequences):
                logits = model.head(states[row, list(places)]).double()
                found.append(torch.log_softmax(logits, dim=-1).cpu().numpy())
        return found


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


def window_requests(requests: Iterable[Sequence[Request]], table: pl.DataFrame) -> list[Request]:
    """The one request behind each row of running text.

    Args:
        requests: of each article, in order.
        table: item table of the same articles, a row per window.

    Raises:
        UsageError: a window is made of several requests.
    """
    flat = [request for own in requests for request in own]
    if len(flat) != table.height:
        raise UsageError("Running text of which a window takes several requests cannot be cut into strata: use `perplexity`.")
    return flat


def _even(table: pl.DataFrame, requests: Sequence[Request], positions: int) -> list[int]:
    """Numbers of windows, evenly over those with a score, that hold as many places as wanted, or all."""
    usable = [row for row, reason in enumerate(table["skipped"].to_list()) if reason is None and _sequence(requests[row])[1]]
    sizes = [len(_sequence(requests[row])[1]) for row in usable]
    wanted = max(1, round(len(usable) * min(1.0, positions / max(sum(sizes), 1))))
    return [usable[(2 * number + 1) * len(usable) // (2 * wanted)] for number in range(wanted)] if usable else []


def _sequence(request: Request) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of one input, and the places whose state predicts what is scored."""
    if isinstance(request, MaskedRequest):
        return request.ids, request.positions
    start = len(request.context)
    return (*request.context, *request.continuation), tuple(place - 1 for place in range(start, start + len(request.continuation)) if place)


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
