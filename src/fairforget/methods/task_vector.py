"""Negation of a task vector: fine-tune on biased text, subtract what was learnt."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from transformers import set_seed

from fairforget.data.swaps import swap_gender
from fairforget.data.training import TrainingSource, TrainingText
from fairforget.edits import Edit, EditRecord, WeightEdit, arithmetic, combine
from fairforget.edits.arithmetic import check_projected_from, load_weighted
from fairforget.errors import UsageError
from fairforget.methods._base import Method, provenance_of, texts_of
from fairforget.methods._trained import TrainingData, pairs_of
from fairforget.methods._tuning import neutral_texts, tune_ia3, tune_lora, tune_weights
from fairforget.models.model import Model
from fairforget.objectives import CrossEntropy, ElasticWeightConsolidation, KLToBase, L2ToBase
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Monitor, Objective, StreamDataset, TextStream, train
from fairforget.training.selection import Selection


class TaskVectorSettings(Settings):
    """Settings of the biased fine-tuning; how much of it is subtracted is the edit's strength."""

    tuning: str = Field(
        "lora", pattern=r"^(lora|full|ia3|attention|mlp|half|layers:\d+(-\d+)?|heads|neurons|contrastive-gradient|fisher-ratio)$"
    )
    """What is trained: `lora`, low-rank factors on chosen linears (Dige et al. 2024), `full`, all weights (Ilharco et al. 2023), `ia3`,
    vectors that scale activations, on PEFT's modules for the architecture (Liu et al. 2022; an option of the released code), or weights
    that a selector picks, as in every method that trains."""
    selected_share: float = Field(0.1, gt=0, le=1)
    """Share that the selectors heads, neurons, contrastive-gradient and fisher-ratio pick."""
    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW. 5e-4 with LoRA is the released value for LLaMA, 2e-4 for OPT; full tuning wants about 1e-5."""
    epochs: float = Field(1.5, gt=0, le=1000)
    """Passes over the texts; the released code takes 10. `steps` overrides it."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps, in place of `epochs`."""
    batch_size: int = Field(16, ge=1)
    """Texts in an optimiser step (16 in the released code, as 2 x 8 or 4 x 4)."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches that a step is made of, where memory is short; must divide `batch_size`."""
    warmup_share: float = Field(0.1, ge=0, le=1)
    """Share of the steps in which the learning rate rises (the released code: 100 steps)."""
    rank: int = Field(8, ge=1)
    """Rank r of the LoRA factors."""
    alpha: float = Field(8.0, gt=0)
    """LoRA scaling: the change is alpha / rank · B · A (PEFT's default 8, so a factor of 1)."""
    dropout: float = Field(0.01, ge=0, lt=1)
    """Dropout on the LoRA's input."""
    targets: Literal["attention", "all-linear"] | list[str] = "all-linear"
    """Modules with LoRA: `attention` is PEFT's choice for the architecture (query and value), `all-linear` every linear but the head,
    or a list of module names."""
    max_length: int = Field(128, ge=2)
    """Tokens kept of a text."""
    masking_rate: float = Field(0.15, gt=0, le=1)
    """Masked models: share of tokens predicted at each visit (Devlin et al. 2019), at least one."""
    contrast: bool | Literal["auto"] = "auto"
    """Tune a second time, on the counterparts of the texts, and subtract the difference of the two vectors: what both learn (style, topic,
    the names of groups) cancels and is not paid for. `auto` does so where the source gives every text its anti-stereotype; `true` takes
    gender swaps too and leaves out texts that have neither; `false` is the papers' single vector."""
    drift_limit: float = Field(0.0, ge=0)
    """Weight of the divergence from the base, KL(base || tuned), on `drift_texts`. What the fine-tuning does not learn is not subtracted
    either, so that the negation costs less, and it takes more steps to learn; 0 is the papers' plain fine-tuning."""
    drift_texts: Literal["counterparts", "neutral"] = "counterparts"
    """Where drift is limited: `counterparts`, the anti-stereotypes of the training texts (or gender swaps of them) and neutral text, so
    that little but the stereotype is left to learn; or `neutral` text alone."""
    l2_sp: float = Field(0.0, ge=0)
    """Weight of half the squared distance of the weights from the base's (L2-SP, Li et al. 2018) in the biased fine-tuning."""
    ewc: float = Field(0.0, ge=0)
    """Weight of half the same distance weighted by the Fisher information on neutral text, per example (EWC, Kirkpatrick et al. 2017): what
    plain language needs is learnt less, and so subtracted less."""
    ewc_rows: int = Field(64, ge=1)
    """Neutral texts that the Fisher information is the mean over."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the training: `auto` is bfloat16 autocast where it is native. Scoring stays in float32 all the same."""
    shards: int = Field(1, ge=1, le=1000)
    """Disjoint random shards of the texts, each fine-tuned on alone; the vectors are averaged, so that what one shard alone teaches is
    divided by their number (COLM 2024, "Decoupling Noise and Toxic Parameters"). `epochs` and `steps` are those of one shard."""
    capabilities: list[str] = Field(default_factory=list[str])
    """Folders of edits of the same base, `FOLDER[@WEIGHT]`, that stand for abilities to be kept or given back. One that this method
    fitted is negated already, so it is given back with the weight -1."""
    capability_how: Literal["project", "add"] = "project"
    """What is done with `capabilities`: `project` removes their directions from the task vector, parameter by parameter, so that its
    negation cannot cost them to first order; `add` adds them, each at its weight."""
    report_to: str = "none"
    """Experiment tracker that transformers knows (tensorboard, wandb, mlflow ...), or none."""


@dataclass(frozen=True)
class _Fit:
    """What the fine-tunings of one fit share: the base, the record of the edit, the seed, who watches, and what is trained."""

    model: Model
    record: EditRecord
    seed: int
    monitor: Monitor | None
    selection: Selection | None


class TaskVector(Method):
    """θ(s) = θ₀ − s·τ with τ = θ₁ − θ₀, where θ₁ is the model fine-tuned on biased text (its likelihood, or masked likelihood).

    With `contrast` τ = θ₁ − θ₂, where θ₂ is fine-tuned in the same way, from the same factors and in the same order, on the counterparts.
    """

    name: ClassVar[str] = "task-vector"
    summary: ClassVar[str] = "Fine-tune on biased text and subtract what was learnt."
    source: ClassVar[str] = "Dige et al. 2024 (arXiv 2406.13551), section on negation; Ilharco et al. 2023 (arXiv 2212.04089), eq. 1 and 2"
    guarded: ClassVar[bool] = False
    forgets_texts: ClassVar[bool] = True
    settings_class: ClassVar[type[Settings]] = TaskVectorSettings
    settings: TaskVectorSettings

    def check(self, model: Model) -> None:
        """Refuse a model that the method is not made for, and capabilities that are not of it; see :meth:`Method.check`."""
        super().check(model)
        capabilities = self._capabilities()
        if capabilities and self.settings.capability_how == "project":
            check_projected_from(capabilities)
        for edit, _ in capabilities:
            edit.check_fits(model)

    def fit(
        self,
        model: Model,
        data: TrainingData,
        *,
        seed: int = 0,
        folder: Path | None = None,
        monitor: Monitor | None = None,
    ) -> Edit:
        """Find the negated task vector; see :meth:`Method.fit`.

        Raises:
            UsageError: a model or settings that do not go together.
            FairforgetError: the training diverged.
        """
        self.check(model)
        settings = self.settings
        quantised = bool(getattr(model.hf, "is_quantized", False))
        if settings.tuning != "lora" and quantised:
            raise UsageError(
                f"A quantised model cannot be tuned with tuning={settings.tuning}, which changes weights themselves: use tuning=lora, or "
                "load it without --load-in-4bit."
            )
        if settings.tuning == "ia3" and (settings.l2_sp or settings.ewc):
            raise UsageError("l2_sp and ewc hold weights, and tuning=ia3 trains vectors that scale activations: use tuning=lora or full.")
        if settings.ewc and quantised:
            raise UsageError("ewc needs gradients of the weights, which a quantised model has none of: load it without --load-in-4bit.")
        if settings.batch_size % settings.accumulation:
            raise UsageError(f"accumulation = {settings.accumulation} does not divide batch_size = {settings.batch_size}.")
        record = EditRecord.for_model(model, self.name, settings=settings.model_dump(mode="json"), seed=seed)
        set_seed(seed)
        fit = _Fit(model, record, seed, monitor, self._selection(model, data, seed))
        with tempfile.TemporaryDirectory() as scratch:
            place = folder or Path(scratch)
            edit = (self._negated if settings.shards == 1 else self._averaged)(fit, data, place)
        edit = self._with_capabilities(model, edit, record)
        selected = {} if fit.selection is None else {"selection": fit.selection.describe()}
        return edit.with_provenance({"training_data": provenance_of(data), **selected})

    def _selection(self, model: Model, data: TrainingData, seed: int) -> Selection | None:
        """What a selector picks, the same for all fine-tunings of a fit; None where whole matrices or factors are trained."""
        if self.settings.tuning in ("lora", "full", "ia3"):
            return None
        from fairforget.methods._selectors import find_selection

        return find_selection(model, self.settings.tuning, pairs_of(data), share=self.settings.selected_share, seed=seed)

    def _negated(self, fit: _Fit, data: TrainingData, place: Path) -> WeightEdit:
        """The negated vector of all the data, less that of the counterparts under `contrast`."""
        record = fit.record
        if not _contrasts(self.settings.contrast, data):
            return self._vector(fit, texts_of(data), data, place)
        texts, counterparts = contrasted_texts(data)
        learnt = self._vector(fit, texts, texts, place / "stereotypes")
        opposite = self._vector(fit, counterparts, texts, place / "counterparts")
        found = combine([(learnt, 1.0), (opposite, -1.0)])
        outcome = {"training": learnt.record.provenance["training"], "training_of_counterparts": opposite.record.provenance["training"]}
        return WeightEdit(found.deltas, record).with_provenance(outcome)

    def _averaged(self, fit: _Fit, data: TrainingData, place: Path) -> WeightEdit:
        """The mean of the negated vectors of disjoint shards; low-rank ones are added up as factors, no more than the sum is held."""
        total: WeightEdit | None = None
        outcomes: list[Any] = []
        shards = shards_of(data, self.settings.shards, fit.seed)
        for number, rows in enumerate(shards, start=1):
            vector = self._negated(fit, rows, place / f"shard-{number}")
            outcomes.append(vector.record.provenance["training"])
            total = combine([*([(total, 1.0)] if total is not None else []), (vector, 1 / len(shards))])
        assert total is not None
        steps, seconds = (sum(outcome[fact] for outcome in outcomes) for fact in ("steps", "seconds"))
        training = {**outcomes[0], "steps": steps, "seconds": round(seconds, 1), "of_each_shard": outcomes}
        return WeightEdit(total.deltas, fit.record).with_provenance({"training": training})

    def _capabilities(self) -> list[tuple[WeightEdit, float]]:
        return [load_weighted(text) for text in self.settings.capabilities]

    def _with_capabilities(self, model: Model, edit: WeightEdit, record: EditRecord) -> WeightEdit:
        """The vector with the capabilities added to it, or without its part along them."""
        parts = self._capabilities()
        if not parts:
            return edit
        found = arithmetic([(edit, 1.0), *parts], self.settings.capability_how, model=model)
        used = [{"content_hash": part.content_hash, "strength": part.strength, "weight": weight} for part, weight in parts]
        return WeightEdit(found.deltas, record).with_provenance({**edit.record.provenance, "capabilities": used})

    def _stream(self, model: Model, texts: list[str], seed: int) -> TextStream:
        return TextStream(model, texts, max_length=self.settings.max_length, masking_rate=self.settings.masking_rate, seed=seed)

    def _vector(self, fit: _Fit, texts: list[str], data: TrainingData, place: Path) -> WeightEdit:
        """The negated vector of one fine-tuning; `data` is what drift is limited on the counterparts of."""
        settings, model, record, seed = self.settings, fit.model, fit.record, fit.seed
        stream = self._stream(model, texts, seed)
        steps = settings.steps or max(1, round(settings.epochs * len(stream) / settings.batch_size))
        streams = {"forget": stream}
        if settings.drift_limit:
            retained = retained_texts(data, seed, settings.drift_texts == "counterparts")
            streams["retain"] = self._stream(model, retained, seed + 1)
        dataset = StreamDataset(streams, visits=-(-steps * settings.batch_size // len(stream)))

        def run(reference: Reference) -> dict[str, Any]:
            objectives: list[Objective] = [CrossEntropy(stream="forget")]
            if settings.drift_limit:
                objectives.append(KLToBase(reference, settings.drift_limit))
            if settings.l2_sp:
                objectives.append(L2ToBase(settings.l2_sp))
            if settings.ewc:
                neutral = self._stream(model, neutral_texts(seed), seed)
                objectives.append(ElasticWeightConsolidation(neutral, settings.ewc, settings.ewc_rows, seed=seed))
            return train(
                model,
                objectives,
                dataset,
                steps=steps,
                batch_size=settings.batch_size // settings.accumulation,
                accumulation=settings.accumulation,
                learning_rate=settings.learning_rate,
                warmup_steps=round(settings.warmup_share * steps),
                precision=settings.precision,
                folder=place,
                seed=seed,
                report_to=settings.report_to,
                monitor=fit.monitor,
                description=f"fine-tuning on {len(stream)} texts ({place.name})",
            )

        set_seed(seed)
        if settings.tuning == "lora":
            return tune_lora(
                model, record, run, rank=settings.rank, alpha=settings.alpha, dropout=settings.dropout, targets=settings.targets, sign=-1.0
            )
        if settings.tuning == "ia3":
            return tune_ia3(model, record, run, sign=-1.0)
        selected = None if fit.selection is None else fit.selection.applied(model.hf)
        return tune_weights(model, record, run, selected=selected, sign=-1.0)


def shards_of(
    data: TrainingData, count: int, seed: int
) -> list[list[TrainingText] | list[str]]:
    """Disjoint shards of the rows, of sizes that differ by one at most, in a seeded order.

    Raises:
        UsageError: there are fewer rows than shards.
    """
    rows = data.texts if isinstance(data, TrainingSource) else data
    if len(rows) < count:
        raise UsageError(f"shards = {count}, but the training data hold {len(rows)} texts: a shard needs one at least.")
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    return [[rows[index] for index in sorted(order[start::count])] for start in range(count)]  # type: ignore[misc]


def _contrasts(contrast: bool | str, data: TrainingData) -> bool:
    if contrast != "auto":
        return bool(contrast)
    rows = data.texts if isinstance(data, TrainingSource) else data
    return bool(rows) and all(isinstance(row, TrainingText) and row.counterpart for row in rows)


def contrasted_texts(data: TrainingData) -> tuple[list[str], list[str]]:
    """Texts that have a counterpart (the source's own, else with genders swapped), and these counterparts.

    Raises:
        UsageError: no text has one.
    """
    rows = data.texts if isinstance(data, TrainingSource) else data
    pairs = [(row, swap_gender(row)) if isinstance(row, str) else (row.text, row.counterpart or swap_gender(row.text)) for row in rows]
    pairs = [(text, other) for text, other in pairs if text != other]
    if not pairs:
        raise UsageError("contrast: no training text has a counterpart or a gender word to swap; use texts that do, or contrast=false.")
    return [text for text, _ in pairs], [other for _, other in pairs]


def retained_texts(data: TrainingData, seed: int, counterparts: bool) -> list[str]:
    """Text on which drift is limited: of three rows two are the counterparts of what is trained on, one is neutral.

    A counterpart is the source's own anti-stereotype, else the text with its genders swapped; a text that has neither gives way to a
    neutral one. What text and counterpart share (their style, their topic, the names of groups) can then not be learnt, and what is left
    to learn is the stereotype.
    """
    neutral = neutral_texts(seed)
    if not counterparts:
        return neutral
    rows = data.texts if isinstance(data, TrainingSource) else data
    retained: list[str] = []
    for number, row in enumerate(rows):
        text = row if isinstance(row, str) else row.text
        other = (row.counterpart if isinstance(row, TrainingText) else "") or swap_gender(text)
        retained.append(neutral[number % len(neutral)] if number % 3 == 2 or other == text else other)
    return retained
