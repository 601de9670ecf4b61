"""The geometry of word sets in a corpus: figures, and how much of each a document accounts for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairforget.edits.self_debias import active_self_debias
from fairforget.errors import UsageError
from fairforget.geometry.collapse import linearised, self_duality
from fairforget.geometry.moments import ClassMoments
from fairforget.geometry.sites import Site, output_matrix, states_at, tokens_to_pair
from fairforget.geometry.words import WordSet
from fairforget.models.model import Model
from fairforget.progress import task
from fairforget.scoring.planning import batches_by_length, pad
from fairforget.scoring.scorer import CPU_BUDGET, CPU_FORWARD_COST, GPU_BUDGET, GPU_FORWARD_COST

KEPT_FLOATS = 1 << 24
"""States are kept between the two passes up to so many numbers, else computed again."""
NC4_PRODUCTS = 1 << 28
"""Comparisons of a token with a class in NC4; of more tokens, every n-th is decided."""

Masking = Literal["auto", "targeted", "random"]


@dataclass(frozen=True)
class Window:
    """A stretch of a document as a whole input, special tokens or prefix included."""

    ids: tuple[int, ...]
    document: int


@dataclass(frozen=True)
class _Sequence:
    """One input, and the places whose states count, with the class each stands for."""

    ids: tuple[int, ...]
    places: tuple[int, ...]
    classes: tuple[int, ...]
    document: int


@dataclass(frozen=True)
class Geometry:
    """What was measured of one word set.

    Attributes:
        words: the set.
        values: figures by name, those that are defined.
        shares: float64 (documents, figures): a document's value; their mean over the documents with a word of the set is the figure, and
            their spread its uncertainty (infinitesimal jackknife).
        tokens: int64 (documents,), states of the set in each document.
        nc4: float64 (documents, 2): states whose nearest mean and best row are of one word, and states decided.
        classes: places in the set of the words that count.
        counts: int64, states of each of these.
        cosines: float64, cos(w, μ - m) of each; nan where undefined.
        coordinates: float64 (words, 2), class means in the plane described at :func:`plane`.
        unseen: words with fewer states than asked for.
    """

    words: WordSet
    values: dict[str, float]
    shares: NDArray[np.float64]
    tokens: NDArray[np.int64]
    nc4: NDArray[np.float64]
    classes: NDArray[np.int64]
    counts: NDArray[np.int64]
    cosines: NDArray[np.float64]
    coordinates: NDArray[np.float64]
    unseen: int


def measure_geometry(
    model: Model,
    windows: Sequence[Window],
    documents: int,
    sets: Sequence[WordSet],
    *,
    site: Site = "pre_decoder",
    pairing: str = "auto",
    masking: Masking = "auto",
    per_word: int = 16,
    min_count: int = 1,
    centre_rows: bool = False,
    weighted: bool = False,
    seed: int = 0,
    description: str = "geometry",
) -> list[Geometry]:
    """Measure word sets in the model's present state, each state computed once for all of them.

    Two passes: class moments first, then each document's share of the figures and NC4, whose means are those of the other half of the
    documents (even against odd), so that no token is decided by a mean that it is part of.

    Args:
        model: causal or masked, with edits or not.
        windows: the corpus.
        documents: number of documents.
        sets: word sets; they may overlap.
        site: see :data:`fairforget.geometry.sites.Site`.
        pairing: ``auto``, ``next``, ``masked`` or ``self``.
        masking: masked pairing: ``targeted`` masks one occurrence of a word at a time, at most `per_word` of each word, spread evenly over
            the corpus; ``random`` masks 15 % of the places at once; ``auto`` is targeted for up to 4,096 words.
        per_word: occurrences of a word in targeted masking.
        min_count: words with fewer states are left out and counted.
        centre_rows: subtract the mean row of the output matrix, which softmax does not see.
        weighted: centre class means on the mean over states in place of that over words.
        seed: of random masks.
        description: what the progress display says.

    Raises:
        UsageError: states and output matrix do not fit, or a Self-Debias edit is on the model, which no state shows.
    """
    if active_self_debias(model) is not None:
        raise UsageError("Self-Debias leaves hidden states as they are, so nothing that is read from them can show it.")
    union = sorted({token for words in sets for token in words.ids})
    chosen = tokens_to_pair(model, pairing)
    if masking == "auto":
        masking = "targeted" if len(union) <= 4096 else "random"
    class_of = {token: number for number, token in enumerate(union)}
    sequences = _sequences(model, windows, class_of, chosen, masking, per_word, seed)
    matrix = output_matrix(model).detach()
    rows = matrix[torch.tensor(union, device=matrix.device)].double().cpu()
    if centre_rows:
        rows -= matrix.double().mean(dim=0).cpu()
    replay = _Replay(model, sequences, site, description)
    halves = [ClassMoments(len(union), rows.shape[1]) for _ in range(2)]
    for states, classes, owners in replay:
        for half, moments in enumerate(halves):
            own = owners % 2 == half
            moments.add(states[own], classes[own])
    both = ClassMoments(len(union), rows.shape[1])
    for moments in halves:
        both.merge(moments)
    trackers = [_Tracker(words, class_of, both, halves, rows, documents, min_count, weighted) for words in sets]
    for states, classes, owners in replay:
        for tracker in trackers:
            tracker.add(states, classes, owners)
    return [tracker.result() for tracker in trackers]


class _Tracker:
    """Shares of one word set in the second pass."""

    def __init__(
        self,
        words: WordSet,
        class_of: dict[int, int],
        both: ClassMoments,
        halves: Sequence[ClassMoments],
        rows: Tensor,
        documents: int,
        min_count: int,
        weighted: bool,
    ) -> None:
        self.words, self.weighted = words, weighted
        places = torch.tensor([class_of[token] for token in words.ids])
        seen = both.counts[places] >= min_count
        self.kept = seen.nonzero()[:, 0]
        places = places[seen]
        self.unseen = len(words) - len(places)
        self.own = torch.full((len(class_of),), -1)
        self.own[places] = torch.arange(len(places))
        self.counts, self.rows = both.counts[places], rows[places]
        self.means, self.variances = both.means[places], both.variances[places]
        self.values, self.by_mean, self.by_variance = ({}, torch.zeros(0), torch.zeros(0))
        if len(places) >= 2:
            self.values, self.by_mean, self.by_variance = linearised(
                self.means, self.variances, self.counts, self.rows, weighted=weighted
            )
        self.slopes = torch.zeros((documents, len(self.values)), dtype=torch.float64)
        self.tokens = torch.zeros(documents, dtype=torch.int64)
        self.nc4 = torch.zeros((documents, 2), dtype=torch.float64)
        # of one half, the classes that the other half has seen, and their means there
        self.known = [half.counts[places] > 0 for half in halves]
        self.half_means = [half.means[places] for half in halves]
        self.step = max(1, int(self.counts.sum()) * len(places) // NC4_PRODUCTS)
        self.met = 0

    def add(self, states: Tensor, classes: Tensor, owners: Tensor) -> None:
        """A batch of states, the classes they stand for and their documents."""
        own = self.own[classes]
        states, own, owners = states[own >= 0].double(), own[own >= 0], owners[own >= 0]
        if not len(own):
            return
        self.tokens += torch.bincount(owners, minlength=len(self.tokens))
        if self.values:
            away = states - self.means[own]
            spread = away.square().sum(dim=1) - self.variances[own]
            counts = self.counts[own].double()
            for number in range(len(self.values)):
                share = (self.by_mean[number][own].double() * away).sum(dim=1) + self.by_variance[number][own].double() * spread
                self.slopes[:, number].index_add_(0, owners, share / counts)
        decided = torch.arange(self.met, self.met + len(own)) % self.step == 0
        self.met += len(own)
        for half in range(2):
            self._decide(states, owners, decided & (owners % 2 == half), 1 - half)

    def _decide(self, states: Tensor, owners: Tensor, chosen: Tensor, other: int) -> None:
        known = self.known[other]
        if int(known.sum()) < 2 or not bool(chosen.any()):
            return
        states, owners = states[chosen], owners[chosen]
        nearest = torch.cdist(states, self.half_means[other][known]).argmin(dim=1)
        best = (states @ self.rows[known].T).argmax(dim=1)
        self.nc4.index_add_(0, owners, torch.stack([(nearest == best).double(), torch.ones(len(owners), dtype=torch.float64)], dim=1))

    def result(self) -> Geometry:
        """What was found."""
        present = self.tokens > 0
        shares = torch.zeros_like(self.slopes)
        if self.values:
            slopes = self.slopes[present]
            slopes = slopes - slopes.mean(dim=0)  # they sum to 0 but for rounding, and the mean is to be the figure itself
            shares[present] = torch.tensor(list(self.values.values()), dtype=torch.float64) + int(present.sum()) * slopes
        cosines = (
            self_duality(self.means, self.rows, self.counts if self.weighted else None) if len(self.means) >= 2 else self.means.new_empty(0)
        )
        groups = [self.words.groups[place] for place in self.kept.tolist()]
        return Geometry(
            self.words, self.values, shares.numpy(), self.tokens.numpy(), self.nc4.numpy(), self.kept.numpy(), self.counts.numpy(),
            cosines.numpy(), plane(self.means, groups).numpy(), self.unseen,
        )


def plane(means: Tensor, groups: Sequence[str]) -> Tensor:
    """Class means in two dimensions, (K, 2).

    Of two groups: along the line between the mean of the one's words and that of the other's, and along the strongest direction at right
    angles to it; else along the two strongest directions. Signs are such that the largest coordinate is positive.
    """
    if len(means) < 3:
        return means.new_zeros((len(means), 2))
    centred = means - means.mean(dim=0)
    names = sorted({group for group in groups if group})
    found: list[Tensor] = []
    if len(names) == 2:
        sides = [torch.tensor([group == name for group in groups]) for name in names]
        axis = centred[sides[0]].mean(dim=0) - centred[sides[1]].mean(dim=0)
        axis = axis / axis.norm().clamp(min=1e-300)
        found.append(centred @ axis)
        centred = centred - found[0].unsqueeze(1) * axis
    left, strengths, _ = torch.linalg.svd(centred, full_matrices=False)
    for number in range(2 - len(found)):
        column = left[:, number] * strengths[number]
        found.append(column * torch.sign(column[column.abs().argmax()]))
    return torch.stack(found, dim=1)


def _sequences(
    model: Model, windows: Sequence[Window], class_of: dict[int, int], pairing: str, masking: Masking, per_word: int, seed: int
) -> list[_Sequence]:
    if pairing != "masked":
        shift = 1 if pairing == "next" else 0
        found = [
            (window, [(place - shift, class_of[token]) for place, token in enumerate(window.ids) if place >= shift and token in class_of])
            for window in windows
        ]
        return [_sequence(window.ids, pairs, window.document) for window, pairs in found if pairs]
    assert model.mask_id is not None
    if masking == "random":
        return list(_random_masks(model.mask_id, windows, class_of, set(model.tokenizer.all_special_ids), seed))
    occurrences: dict[int, list[tuple[int, int]]] = {}
    for number, window in enumerate(windows):
        for place, token in enumerate(window.ids):
            if token in class_of:
                occurrences.setdefault(class_of[token], []).append((number, place))
    chosen = sorted(
        (*found[index * len(found) // min(per_word, len(found))], word)
        for word, found in occurrences.items()
        for index in range(min(per_word, len(found)))
    )
    masked = [(windows[number], place, word) for number, place, word in chosen]
    return [
        _sequence((*window.ids[:place], model.mask_id, *window.ids[place + 1 :]), [(place, word)], window.document)
        for window, place, word in masked
    ]


def _random_masks(
    mask_id: int, windows: Sequence[Window], class_of: dict[int, int], special: set[int], seed: int
) -> Iterator[_Sequence]:
    """Each window once, 15 % of its tokens masked."""
    for number, window in enumerate(windows):
        inner = [place for place, token in enumerate(window.ids) if token not in special]
        drawn = np.random.default_rng([seed, number]).permutation(inner)[: max(1, round(0.15 * len(inner)))].tolist() if inner else []
        ids = list(window.ids)
        for place in drawn:
            ids[place] = mask_id
        pairs = [(place, class_of[window.ids[place]]) for place in sorted(drawn) if window.ids[place] in class_of]
        if pairs:
            yield _sequence(ids, pairs, window.document)


def _sequence(ids: Sequence[int], pairs: Sequence[tuple[int, int]], document: int) -> _Sequence:
    places, classes = zip(*pairs, strict=True)
    return _Sequence(tuple(ids), places, classes, document)


class _Replay:
    """States at the wanted places, batch by batch, as often as asked: from memory where they are few, else computed again."""

    def __init__(self, model: Model, sequences: Sequence[_Sequence], site: Site, description: str) -> None:
        self.model, self.sequences, self.description = model, sequences, description
        self.site: Site = site
        on_cpu = model.device.type == "cpu"
        budget, cost = (CPU_BUDGET, CPU_FORWARD_COST) if on_cpu else (GPU_BUDGET, GPU_FORWARD_COST)
        self.plan = batches_by_length(range(len(sequences)), [len(sequence.ids) for sequence in sequences], budget, cost)
        wanted = sum(len(sequence.places) for sequence in sequences) * output_matrix(model).shape[1]
        self.keeps, self.kept = wanted <= KEPT_FLOATS, list[tuple[Tensor, Tensor, Tensor]]()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if self.kept:
            yield from self.kept
            return
        with task(self.description, sum(len(sequence.ids) for sequence in self.sequences)) as advance:
            for batch in self.plan:
                rows = [self.sequences[number] for number in batch]
                found = self._states(rows)
                if self.keeps:
                    self.kept.append(found)
                yield found
                advance(sum(len(row.ids) for row in rows))

    @torch.inference_mode()
    def _compute(self, rows: Sequence[_Sequence]) -> Tensor:
        ids, mask = pad([row.ids for row in rows], self.model.pad_id, self.model.device)
        hidden = self.model.hidden(ids, mask)
        lines = torch.tensor([line for line, row in enumerate(rows) for _ in row.places], device=hidden.device)
        places = torch.tensor([place for row in rows for place in row.places], device=hidden.device)
        return states_at(self.model, hidden[lines, places], self.site).float().cpu()

    def _states(self, rows: Sequence[_Sequence]) -> tuple[Tensor, Tensor, Tensor]:
        classes = torch.tensor([word for row in rows for word in row.classes])
        owners = torch.tensor([row.document for row in rows for _ in row.places])
        return self._compute(rows).clone(), classes, owners
