"""INLP: linear classifiers of the group are trained one after the other, and what they read is taken out of the hidden states."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fairforget.data.starter import load_starter
from fairforget.data.swaps import Swapper
from fairforget.data.training import TrainingSource, TrainingText
from fairforget.data.words import word_list
from fairforget.edits import Edit, EditRecord, ProjectionEdit
from fairforget.errors import UsageError
from fairforget.methods._attribute_sentences import Words, cut_after, sentences_of, swapped_versions
from fairforget.methods._base import Method, provenance_of
from fairforget.models.hidden_sites import Layer, hidden_site
from fairforget.models.model import Model
from fairforget.progress import task
from fairforget.scoring.representations import sentence_vectors
from fairforget.settings import Settings
from fairforget.training import Monitor

ITERATIONS = {"masked": 80, "causal": 10}
"""Classifiers by family, as in Bias Bench (80 for BERT, ALBERT and RoBERTa, 10 for GPT-2)."""
FEWEST = 4
"""Sentences that a class needs."""
NOTHING = 1e-8
"""Norm of a direction that is left after those found before were taken out, under which it is none."""


class InlpSettings(Settings):
    """Classifiers and the sentences they are trained on; how much of what they read is removed is the edit's strength."""

    words: list[Words] = Field(default=["gender"], min_length=1)
    """Word lists; the subspaces of several are joined. Two groups (`gender`) give three classes with neutral, three or more are one class
    against neutral, as in Bias Bench."""
    iterations: int | None = Field(None, ge=1)
    """Classifiers per word list; None: 80 for masked models, 10 for causal ones (Bias Bench)."""
    regularisation: float = Field(1.0, gt=0)
    """C of the linear support vector machines: the inverse of how much weights are penalised. 1 is scikit-learn's default, which Bias Bench
    leaves."""
    minimum_accuracy: float = Field(0.0, ge=0, le=1)
    """A classifier whose held-out accuracy is below this ends the search. 0 (never) in Bias Bench, which would skip it and go on."""
    swaps: bool = True
    """Take each sentence in a version for each group, so that classes differ in nothing else. Ours; Bias Bench takes them as found."""
    cut: bool = True
    """Cut each sentence at a random word at or after its first listed word (neutral ones after four words or more), as in Bias Bench."""
    names: bool = False
    """First names count as listed words too. Off in Bias Bench."""
    train_share: float = Field(0.7, gt=0, lt=1)
    """Share of the sentences that classifiers are trained on; the others measure them. 0.49 in Bias Bench, which leaves 0.3 unused."""
    layer: Layer = "final"
    """Whose hidden states: `final` (what the head reads; Bias Bench) or the number of a block, from 0."""
    max_length: int = Field(128, ge=4)
    """Tokens kept of a text, special ones included. Ours, for memory; Bias Bench keeps what the model takes."""


@dataclass(frozen=True)
class Examples:
    """Vectors and classes of one word list.

    Attributes:
        vectors: (sentences, width), float64.
        classes: class of each, from 0; the last one is neutral.
        held_out: which of them measure the classifiers; versions of a sentence are all in or all out.
    """

    vectors: NDArray[np.float64]
    classes: NDArray[np.int64]
    held_out: NDArray[np.bool_]


@dataclass(frozen=True)
class Nullspace:
    """What iterative null-space projection found.

    Attributes:
        basis: orthonormal columns (width, rank) that span what the classifiers read.
        accuracies: balanced held-out accuracy of each classifier, before its directions were removed.
        chance: balanced accuracy of a classifier that knows nothing.
    """

    basis: NDArray[np.float64]
    accuracies: list[float]
    chance: float


class Inlp(Method):
    """h ← h − s · V Vᵀ h, with V the span of the weights of n linear classifiers, each trained on what the ones before it left."""

    name: ClassVar[str] = "inlp"
    summary: ClassVar[str] = "Take what linear classifiers read of the group out of the hidden states, again and again (run time)."
    source: ClassVar[str] = "Ravfogel et al. 2020 (arXiv 2004.07667), algorithm 1; Meade et al. 2022 (arXiv 2110.08527)"
    settings_class: ClassVar[type[Settings]] = InlpSettings
    settings: InlpSettings

    def fit(
        self,
        model: Model,
        data: TrainingSource | Sequence[TrainingText] | Sequence[str],
        *,
        seed: int = 0,
        folder: Path | None = None,
        monitor: Monitor | None = None,
    ) -> Edit:
        """Find the subspace; see :meth:`Method.fit`. The seed decides cuts, the held-out part and the classifiers' order of coordinates.

        Raises:
            UsageError: too few sentences of a class.
        """
        del folder, monitor
        self.check(model)
        settings = self.settings
        hidden_site(model, settings.layer)
        record = EditRecord.for_model(model, self.name, settings=settings.model_dump(mode="json"), seed=seed)
        iterations = settings.iterations or ITERATIONS[model.family]
        sentences = sentences_of(data)
        basis: NDArray[np.float64] | None = None
        found: dict[str, Any] = {}
        for words in dict.fromkeys(settings.words):
            examples = self._examples(model, sentences, words, seed)
            result = iterative_nullspace(
                examples, iterations, regularisation=settings.regularisation, minimum_accuracy=settings.minimum_accuracy, seed=seed,
                basis=basis, description=f"{words}: classifiers",
            )
            basis = result.basis
            found[words] = {
                "sentences_by_class": np.bincount(examples.classes).tolist(), "classifiers": len(result.accuracies),
                "accuracies": result.accuracies, "chance": result.chance,
            }
        assert basis is not None
        if not basis.shape[1]:
            raise UsageError(f"{self.name}: no classifier reached minimum_accuracy={settings.minimum_accuracy:g}, so nothing is removed.")
        edit = ProjectionEdit(torch.from_numpy(basis).float(), record, layer=settings.layer)
        facts = {"subspace": {"directions": basis.shape[1], "of": basis.shape[0], **found}, "training_data": provenance_of(data)}
        return edit.with_provenance(facts)

    def _examples(self, model: Model, sentences: list[str], words: Words, seed: int) -> Examples:
        """Vectors and classes of the sentences for one word list."""
        settings = self.settings
        generator = np.random.default_rng([seed, get_args(Words).index(words)])
        swapper = Swapper(words, names=settings.names)
        groups = word_list(words).groups
        texts: list[str] = []
        classes: list[int] = []
        owners: list[int] = []
        neutral = len(groups) if len(groups) == 2 else 1
        listed = swapped_versions(sentences, words, names=settings.names) if settings.swaps else [
            (sentence,) for sentence in sentences if swapper.count(sentence)
        ]
        for number, versions in enumerate(listed):
            for version in versions:
                named = swapper.groups(version)
                if len(groups) == 2 and len(named) != 1:
                    continue  # names both groups: neither class
                texts.append(version)
                classes.append(groups.index(named[0]) if len(groups) == 2 else 0)
                owners.append(number)
        unlisted = [text for text in sentences if not swapper.count(text)]
        unlisted += [text.text for text in load_starter().neutral if not swapper.count(text.text) and text.text not in set(unlisted)]
        for number, text in enumerate(unlisted, start=len(listed)):
            texts.append(text)
            classes.append(neutral)
            owners.append(number)
        labels = np.array(classes, dtype=np.int64)
        names = [*(groups if len(groups) == 2 else (f"a word of the list '{words}'",)), "neutral"]
        for number, count in enumerate(np.bincount(labels, minlength=neutral + 1).tolist()):
            if count < FEWEST:
                raise UsageError(
                    f"{self.name}: the training data hold {count} sentences of the class '{names[number]}' of words={words}, and "
                    f"{FEWEST} or more are needed: choose other words= or other training data."
                )
        if settings.cut:
            texts = [cut_after(text, swapper, generator) for text in texts]
        owner = np.array(owners, dtype=np.int64)
        held_out = _held_out(owner, labels, settings.train_share, generator)
        vectors = sentence_vectors(model, texts, layer=settings.layer, max_length=settings.max_length, description=f"{words}: vectors")
        return Examples(vectors.astype(np.float64), labels, held_out)


def _held_out(
    owner: NDArray[np.int64], labels: NDArray[np.int64], train_share: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Which sentences measure the classifiers: the same share of each class, at least one where there are two; not every one of any."""
    _, first = np.unique(owner, return_index=True)
    chosen: set[int] = set()
    for label in np.unique(labels[first]).tolist():
        own = owner[first][labels[first] == label]
        count = min(len(own) - 1, max(1, round(len(own) * (1 - train_share))))
        chosen |= set(generator.permutation(own)[:count].tolist())
    return np.isin(owner, list(chosen))


def iterative_nullspace(
    examples: Examples,
    iterations: int,
    *,
    regularisation: float = 1.0,
    minimum_accuracy: float = 0.0,
    seed: int = 0,
    basis: NDArray[np.float64] | None = None,
    description: str = "classifiers",
) -> Nullspace:
    """Iterative null-space projection (Ravfogel et al. 2020, algorithm 1).

    Each classifier (linear support vector machine without intercept, one against the rest for three classes, classes weighed alike) is
    trained on vectors from which everything that earlier ones read was removed. P = I − V Vᵀ with V an orthonormal basis of all their
    weights, which is the projection onto the intersection of their null spaces.

    Args:
        examples: vectors and classes.
        iterations: classifiers; fewer where nothing is left to read.
        regularisation: C.
        minimum_accuracy: balanced held-out accuracy below which the search ends.
        seed: of the solver.
        basis: what was removed before, (width, k).
        description: what the progress display says.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.svm import LinearSVC

    width = examples.vectors.shape[1]
    found = np.zeros((width, 0)) if basis is None else basis
    train, held = ~examples.held_out, examples.held_out
    accuracies: list[float] = []
    with task(description, iterations) as advance:
        for _ in range(iterations):
            left = examples.vectors - (examples.vectors @ found) @ found.T
            classifier = LinearSVC(
                fit_intercept=False,
                dual=False,  # pyright: ignore[reportArgumentType] - scikit-learn annotates its default only
                C=regularisation,
                class_weight="balanced",
                random_state=seed,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # an inexact classifier still reads something that is removed
                warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
                classifier.fit(left[train], examples.classes[train])
                accuracy = float(balanced_accuracy_score(examples.classes[held], classifier.predict(left[held])))
            if accuracy < minimum_accuracy:
                break
            wider = _extended(found, np.asarray(classifier.coef_, dtype=np.float64))
            if wider.shape[1] == found.shape[1]:
                break
            accuracies.append(round(accuracy, 6))
            found = wider
            advance(1)
            if found.shape[1] == width:
                break
    return Nullspace(found, accuracies, 1 / len(np.unique(examples.classes)))


def _extended(basis: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The basis with what is new in the rows of `weights`; twice orthogonalised, so that it stays orthonormal over many steps."""
    sizes = np.linalg.norm(weights, axis=1)
    new = weights[sizes > NOTHING].T / sizes[sizes > NOTHING]
    for _ in range(2):
        new = new - basis @ (basis.T @ new)
    left, strengths, _ = np.linalg.svd(new, full_matrices=False) if new.size else (np.zeros((len(basis), 0)), np.zeros(0), None)
    kept = left[:, strengths > NOTHING]
    kept = kept - basis @ (basis.T @ kept)
    return np.concatenate([basis, kept / np.maximum(np.linalg.norm(kept, axis=0), NOTHING)], axis=1)
