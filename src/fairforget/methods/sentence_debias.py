"""Sentence-Debias: the directions in which a sentence and its counterfactual differ are taken out of the hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fairforget.data.training import TrainingSource, TrainingText
from fairforget.edits import Edit, EditRecord, ProjectionEdit
from fairforget.errors import UsageError
from fairforget.methods._attribute_sentences import Words, paired_versions, sentences_of, swapped_versions
from fairforget.methods._base import Method, provenance_of
from fairforget.models.hidden_sites import Layer, hidden_site
from fairforget.models.model import Model
from fairforget.scoring.representations import sentence_vectors
from fairforget.settings import Settings
from fairforget.training import Monitor


class SentenceDebiasSettings(Settings):
    """Where the subspace is looked for; how much of it is removed is the edit's strength."""

    versions: Literal["swaps", "counterparts"] = "swaps"
    """What differs in group alone: `swaps`, each text with a listed word and the same text about the other groups (Liang et al. 2020), or
    `counterparts`, the source's own stereotype and anti-stereotype, for domains without a word list. Ours; the paper has swaps."""
    words: list[Words] = Field(default=["gender"], min_length=1)
    """Word lists that are swapped; each gives its own directions. Bias Bench runs gender, race and religion one at a time."""
    names: bool = False
    """Swap first names too. Off in Bias Bench."""
    components: int = Field(1, ge=1)
    """Principal directions taken per word list. 1 in Bias Bench; Liang et al. leave it open."""
    layer: Layer = "final"
    """Whose hidden states: `final` (what the head reads; Bias Bench) or the number of a block, from 0."""
    max_length: int = Field(128, ge=4)
    """Tokens kept of a text, special ones included. 128 in Bias Bench."""


class SentenceDebias(Method):
    """h ← h − s · V Vᵀ h, with V the first principal directions of sentence vectors around the mean of their versions."""

    name: ClassVar[str] = "sentence-debias"
    summary: ClassVar[str] = "Take the directions in which a text and its counterfactual differ out of the hidden states (run time)."
    source: ClassVar[str] = "Liang et al. 2020 (arXiv 2007.08100), section 2; Meade et al. 2022 (arXiv 2110.08527)"
    settings_class: ClassVar[type[Settings]] = SentenceDebiasSettings
    settings: SentenceDebiasSettings

    def fit(
        self,
        model: Model,
        data: TrainingSource | Sequence[TrainingText] | Sequence[str],
        *,
        seed: int = 0,
        folder: Path | None = None,
        monitor: Monitor | None = None,
    ) -> Edit:
        """Find the subspace; see :meth:`Method.fit`. Nothing is trained or drawn, so seed, folder and monitor say nothing.

        Raises:
            UsageError: no text with a listed word or counterpart, or more directions than versions give.
        """
        del folder, monitor
        self.check(model)
        settings = self.settings
        hidden_site(model, settings.layer)
        record = EditRecord.for_model(model, self.name, settings=settings.model_dump(mode="json"), seed=seed)
        directions: list[NDArray[np.float64]] = []
        found: dict[str, Any] = {}
        for name, versions in self._versions(data).items():
            if len(versions) < settings.components + 1:
                raise UsageError(
                    f"{self.name}: the training data hold {len(versions)} texts with a word of the list '{name}' and "
                    f"{settings.components + 1} or more are needed: choose other words= or other training data."
                    if settings.versions == "swaps"
                    else f"{self.name}: the training data hold {len(versions)} texts with a counterpart, and {settings.components + 1} or "
                    "more are needed: use versions=swaps, or data that have them."
                )
            flat = [text for texts in versions for text in texts]
            vectors = sentence_vectors(model, flat, layer=settings.layer, max_length=settings.max_length, description=f"{name}: vectors")
            owner = np.repeat(np.arange(len(versions)), [len(texts) for texts in versions])
            components, explained = principal_directions(vectors, owner, settings.components)
            directions.append(components)
            found[name] = {"texts": len(versions), "versions": len(flat), "explained_variance_ratio": explained}
        basis = orthonormal_columns(np.concatenate(directions).T)
        edit = ProjectionEdit(torch.from_numpy(basis).float(), record, layer=settings.layer)
        facts = {"subspace": {"directions": basis.shape[1], "of": basis.shape[0], **found}, "training_data": provenance_of(data)}
        return edit.with_provenance(facts)

    def _versions(self, data: TrainingSource | Sequence[TrainingText] | Sequence[str]) -> dict[str, list[tuple[str, ...]]]:
        sentences = sentences_of(data)
        if self.settings.versions == "counterparts":
            return {"counterparts": paired_versions(data)}
        return {words: swapped_versions(sentences, words, names=self.settings.names) for words in dict.fromkeys(self.settings.words)}


def principal_directions(
    vectors: NDArray[np.floating[Any]], owner: NDArray[np.integer[Any]], components: int
) -> tuple[NDArray[np.float64], list[float]]:
    """Principal directions of unit vectors around the mean of the versions of their sentence.

    Args:
        vectors: (versions of all sentences, width).
        owner: number of the sentence of each version, from 0, ascending.
        components: how many directions.

    Returns:
        Orthonormal rows (components, width), and the share of the variance that each explains.
    """
    from sklearn.decomposition import PCA

    units = vectors.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    counts = np.bincount(owner)
    means = np.zeros((len(counts), units.shape[1]))
    np.add.at(means, owner, units)
    centred = units - (means / counts[:, None])[owner]
    fitted = PCA(n_components=components, svd_solver="full").fit(centred)
    return np.asarray(fitted.components_), [round(float(share), 6) for share in fitted.explained_variance_ratio_]


def orthonormal_columns(directions: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """An orthonormal basis of the span of columns; those that lie in the span of others leave nothing behind."""
    left, sizes, _ = np.linalg.svd(directions.astype(np.float64), full_matrices=False)
    return left[:, sizes > 1e-6 * sizes[0]]
