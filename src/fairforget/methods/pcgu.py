"""PCGU: change only the weight vectors whose gradients for a stereotype and for its counterpart disagree most."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from transformers import set_seed

from fairforget.edits import Edit, EditRecord, WeightEdit
from fairforget.errors import UsageError
from fairforget.methods._base import Method, provenance_of, texts_of
from fairforget.methods._pcgu_changes import VectorChanges
from fairforget.methods._pcgu_gradients import Contrast, NonFiniteGradientError, PairBatch, RetainStatistics, contrast, preferences
from fairforget.methods._pcgu_ranking import benefits, costs, most_for_cost, ranked_between, similarities, smallest
from fairforget.methods._pcgu_vectors import VectorPartition
from fairforget.methods._retain import retain_texts
from fairforget.methods._trained import TrainingData, limited, pairs_of
from fairforget.methods._tuning import gradient_flags, tune_lora
from fairforget.models.model import Model
from fairforget.objectives.drift import Reference
from fairforget.progress import task
from fairforget.settings import Settings
from fairforget.training import IGNORED, Batch, Monitor, PairStream, TextStream
from fairforget.training.streams import Collator, Row

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "dige-2024": {
        "scope": "sentence", "skip_zero_gradient": False, "special_tokens": False, "shuffle": False, "keep_partial": False,
        "dropout": True,
        "learning_rate": 4e-4, "batch_size": 256, "epochs": 10, "share": 0.2,
    },
    "yu-2023": {
        "objective": "logit", "reduction": "sum", "skip_zero_gradient": False, "special_tokens": False, "shuffle": False, "dropout": True,
        "learning_rate": 1e-5, "batch_size": 16, "epochs": 5, "count": 10_000, "max_length": 24,
    },
}
"""Settings of the released codes, as far as they are known (`dige-2024`: OPT-2.7B); what is given beside a preset overrides it."""


class PcguSettings(Settings):
    """Settings of PCGU; how much of the change is applied is the edit's strength."""

    preset: Literal["none", "dige-2024", "yu-2023"] = "none"
    """Where unset settings come from: ours, or the quirks of a released code."""
    scope: Literal["answer", "sentence"] = "answer"
    """Tokens whose preference is lowered: those in which text and counterpart differ, or all (the released code for decoders; masked
    models: a share of the tokens that both have)."""
    objective: Literal["log-probability", "logit"] = "log-probability"
    """Preference J of a token: its log-probability, or its raw logit (the released code for masked models)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over the pairs of an update. With `sum` the step grows with the batch: a rate η there is η · batch_size with `mean`."""
    aggregation: Literal["input", "output"] = "input"
    """A vector of a matrix holds the inputs of one output, or the outputs of one input."""
    update: Literal["advantaged", "disadvantaged", "contrast", "dynamic"] = "advantaged"
    """Step of a chosen vector: lower the stereotype, raise the counterpart, both at once (`contrast`: what the two share cancels), or both
    with the roles of each pair given by which text the model prefers now (`dynamic`)."""
    neutral_width: float = Field(0.0, ge=0)
    """Update `dynamic`: a pair with a margin |J_adv − J_dis| below this (nats, or logits) weighs in proportion to it, so that a neutral
    pair is left alone: the gradient of Huber's function of the margins. 0 = the sign alone (Yu et al.)."""
    ranking: Literal["cosine", "flex", "interval"] = "cosine"
    """Which vectors are chosen: smallest cosine of the two gradients, most fall of the margin for its cost on retained text, or a stretch
    of the cosine ranking (to find out where a model is rigid)."""
    share: float = Field(0.2, gt=0, le=1)
    """Share of all vectors chosen in an update; 1 changes all."""
    count: int | None = Field(None, ge=1)
    """Number of vectors chosen in an update, in place of `share`."""
    interval_from: float = Field(0.0, ge=0, le=1)
    """Ranking `interval`: first rank, as a share of the ranked vectors."""
    interval_to: float = Field(0.1, ge=0, le=1)
    """Ranking `interval`: rank before which it ends."""
    cost_budget: float = Field(0.02, gt=0)
    """Ranking `flex`: predicted rise of the cross-entropy on retained text over all updates, nats per token, a like part of it for each."""
    retain_text: str = "starter"
    """Ranking `flex`: neutral text on which costs are predicted: `starter`, `lm-corpus-small`, or a text file with one text a line."""
    retain_count: int = Field(64, ge=1)
    """Ranking `flex`: texts taken of it."""
    skip_zero_gradient: bool = True
    """Leave out vectors of which a gradient is zero (embeddings of tokens that do not occur): their cosine of 0 would fill the choice."""
    learning_rate: float = Field(1e-3, gt=0, le=100)
    """Step size η of plain gradient descent on the chosen vectors."""
    scheduler: Literal["constant", "linear"] = "constant"
    """η of later updates: the same (both released codes), or falling evenly, of n updates the last with η / n."""
    epochs: float = Field(1.0, gt=0, le=1000)
    """Passes over the pairs. `updates` overrides it."""
    updates: int | None = Field(None, ge=1)
    """Updates, in place of `epochs`."""
    batch_size: int = Field(32, ge=1)
    """Pairs whose gradients make one update."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Pairs in one pass; None = all of an update, with one gradient copy in memory. Smaller ones need less memory for activations."""
    second_pass_blocks: int = Field(1, ge=1)
    """With several micro-batches the second gradient must be whole before its norms are known. It is found in so many parts, each with a
    pass of its own: in memory are the parameters, one gradient and one part of another."""
    shuffle: bool = True
    """Draw the pairs in a seeded order, anew for each pass."""
    keep_partial: bool = True
    """Make an update of the pairs left at the end of a pass."""
    special_tokens: bool = True
    """Put the prefix token before causal texts and [CLS], [SEP] around masked ones."""
    dropout: bool = False
    """Leave the model's dropout on while gradients are taken, which makes cosines noisy."""
    max_length: int = Field(128, ge=2)
    """Pairs with a longer side, in tokens, are left out."""
    masking_rate: float = Field(0.15, gt=0, le=1)
    """Masked models, scope `sentence`: share of the shared tokens scored at each visit."""
    max_texts: int | None = Field(None, ge=1)
    """Use at most this many pairs, an even draw by the seed; None = all."""
    adapter: bool = False
    """Change low-rank factors (LoRA) instead of the weights: for quantised bases, and for small edits."""
    rank: int = Field(8, ge=1)
    """Rank of the factors."""
    alpha: float = Field(8.0, gt=0)
    """LoRA scaling: the change is alpha / rank · B · A."""
    targets: Literal["attention", "all-linear"] | list[str] = "all-linear"
    """Modules with LoRA: `attention` is PEFT's choice for the architecture, `all-linear` every linear but the head, or module names."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            preset: Any = values.get("preset", "none")
            return {**PRESETS.get(preset, {}), **values} if isinstance(preset, str) else values
        return values

    @model_validator(mode="after")
    def _go_together(self) -> PcguSettings:
        if self.interval_to <= self.interval_from:
            raise ValueError("interval_to must be above interval_from")
        if self.neutral_width and self.update != "dynamic":
            raise ValueError(f"neutral_width goes with update=dynamic, and update is {self.update}")
        return self


class Pcgu(Method):
    """θ_v ← θ_v − η u_v for the k vectors v whose cosine of ∇J(stereotype) and ∇J(counterpart) is smallest, re-chosen at every update."""

    name: ClassVar[str] = "pcgu"
    summary: ClassVar[str] = "Change only the weight vectors whose gradients for stereotype and counterpart disagree most."
    source: ClassVar[str] = (
        "Yu et al. 2023 (Findings of ACL, 2023.findings-acl.375), section 3; for decoders Dige et al. 2024 (arXiv 2406.13551)"
    )
    forgets_texts: ClassVar[bool] = True
    settings_class: ClassVar[type[Settings]] = PcguSettings
    settings: PcguSettings

    def check(self, model: Model) -> None:
        """Refuse quantised weights unless an adapter is changed; see :meth:`Method.check`."""
        super().check(model)
        if not self.settings.adapter and bool(getattr(model.hf, "is_quantized", False)):
            raise UsageError("The weights of a quantised model cannot be changed: set adapter=true, or load it without --load-in-4bit.")

    def fit(
        self, model: Model, data: TrainingData, *, seed: int = 0, folder: Path | None = None, monitor: Monitor | None = None
    ) -> Edit:
        """Find the change; see :meth:`Method.fit`. `data` are texts with counterparts; those without one are left out.

        Raises:
            UsageError: a model or settings that do not go together, or no pair that can be compared.
            FairforgetError: the gradients are not finite, and there is no checkpoint to go back to.
        """
        self.check(model)
        settings = self.settings
        given = len(texts_of(data))
        data = limited(data, settings.max_texts, seed)
        pairs = pairs_of(data)
        if not pairs:
            raise UsageError(
                "PCGU needs pairs, a stereotype and its counterpart, and the training data have none: use starter, stereoset, bbq or "
                "winogender, or a file of your own with a column for the role 'counterpart'."
            )
        record = EditRecord.for_model(model, self.name, settings=settings.model_dump(mode="json"), seed=seed)
        notes = {"training_data": provenance_of(data), "texts_given": given}
        work = _Unlearning(settings, model, pairs, seed, monitor)
        with tempfile.TemporaryDirectory() as scratch:
            place = folder or Path(scratch)
            set_seed(seed)  # the factors of an adapter
            edit = self._adapter(model, record, work, place) if settings.adapter else self._dense(model, record, work, place)
        return edit.with_provenance(notes)

    def _dense(self, model: Model, record: EditRecord, work: _Unlearning, folder: Path) -> WeightEdit:
        with gradient_flags(model.hf):
            for parameter in model.hf.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            changes = VectorChanges(VectorPartition(model.hf, self.settings.aggregation))
            try:
                outcome = work.run(changes, folder)
                return WeightEdit(changes.deltas(), record).with_provenance({"training": outcome})
            finally:
                model.hf.zero_grad(set_to_none=True)
                changes.restore()
                model.hf.eval()

    def _adapter(self, model: Model, record: EditRecord, work: _Unlearning, folder: Path) -> WeightEdit:
        settings = self.settings

        def run(_: Reference) -> dict[str, Any]:
            return work.run(VectorChanges(VectorPartition(model.hf, settings.aggregation)), folder)

        return tune_lora(model, record, run, rank=settings.rank, alpha=settings.alpha, dropout=0.0, targets=settings.targets)


class _Unlearning:
    """One run of updates over the pairs, on whatever vectors of the model are trainable."""

    def __init__(
        self, settings: PcguSettings, model: Model, pairs: Sequence[tuple[str, str]], seed: int, monitor: Monitor | None
    ) -> None:
        self.settings, self.model, self.seed, self.monitor = settings, model, seed, monitor
        kind = PairStream if settings.special_tokens else _BarePairStream
        self.stream = kind(
            model, pairs, scope=settings.scope, max_length=settings.max_length, masking_rate=settings.masking_rate, seed=seed
        )
        # Without a prefix a first token has no distribution, so that a pair may be left with nothing to compare.
        self.usable = [index for index in range(len(self.stream)) if all(_labelled(self.stream.example(index, 0)))]
        self.left_out = len(pairs) - len(self.usable)
        if not self.usable:
            raise UsageError("No training pair can be compared without a first token: set special_tokens=true or scope=sentence.")
        batches = len(self.usable) / settings.batch_size
        self.per_pass = max(1, int(np.ceil(batches) if settings.keep_partial else np.floor(batches)))
        self.updates = settings.updates or max(1, round(settings.epochs * self.per_pass))
        self.collator = Collator(model.pad_id)
        self.identity = hashlib.sha256(
            json.dumps([settings.digest(), model.base_hash, seed, list(pairs)]).encode()
        ).hexdigest()

    def run(self, changes: VectorChanges, folder: Path) -> dict[str, Any]:
        """Make the updates that are left; returns what the record says of them."""
        settings, model = self.settings, self.model
        begun = time.monotonic()
        progress: dict[str, Any] = {"update": 0, "margins": [], "stopped": None, "diverged": False}
        progress |= changes.load(folder, self.identity) or {}
        every = max(1, self.updates // 8)
        statistics = None
        if settings.ranking == "flex" and progress["update"] < self.updates:
            statistics = self._retain_statistics(changes)
        words = f"PCGU on {len(self.usable)} pairs" + (f" ({self.left_out} cannot be compared)" if self.left_out else "")
        with task(words, self.updates) as advance:
            advance(progress["update"])
            while progress["update"] < self.updates and progress["stopped"] is None:
                try:
                    margin = self._update(changes, progress["update"], statistics)
                except NonFiniteGradientError as error:
                    failed, last = progress["update"], changes.load(folder, self.identity)
                    if last is None:
                        raise
                    reason = f"update {failed + 1}: {error} The state of update {last['update']} is kept."
                    progress |= {**last, "stopped": reason, "diverged": True}
                    break
                progress["margins"].append(round(margin, 6))
                progress["update"] += 1
                if self._is_due(progress["update"]) and self.monitor is not None:
                    progress["stopped"] = self.monitor.look(model, progress["update"])
                if progress["update"] % every == 0 or progress["update"] == self.updates or progress["stopped"] is not None:
                    changes.save(folder, self.identity, progress)
                advance(1)
        return {
            "updates": progress["update"],
            "pairs": {"used": len(self.usable), "left_out": self.left_out},
            "vectors": changes.partition.count,
            "margins": progress["margins"],
            "seconds": round(time.monotonic() - begun, 1),
            "stopped": progress["stopped"],
            "diverged": progress["diverged"],
            "selection": changes.report(progress["update"]),
        }

    def _is_due(self, update: int) -> bool:
        """Whether the monitor looks after this update: evenly over the run, never at its end."""
        if self.monitor is None or not self.monitor.looks or update >= self.updates:
            return False
        return update % -(-self.updates // (self.monitor.looks + 1)) == 0

    def _update(self, changes: VectorChanges, number: int, statistics: RetainStatistics | None) -> float:
        """One update; returns the margin before it."""
        settings, model = self.settings, self.model
        if settings.dropout:
            torch.manual_seed(self.seed * 1_000_003 + number)  # of its own for each update, so that a resumed run draws the same
        batches = self._batches(number)
        if settings.update == "dynamic":
            batches = [self._oriented(batch) for batch in batches]
        model.hf.train(settings.dropout)
        found = contrast(
            model, changes.partition, batches, update=settings.update, preference=settings.objective, blocks=settings.second_pass_blocks
        )
        model.hf.eval()
        rate = settings.learning_rate * (1 - number / self.updates if settings.scheduler == "linear" else 1)
        chosen = self._chosen(changes.partition, found, statistics, rate)
        selected = torch.zeros(changes.partition.count, dtype=torch.bool)
        selected[chosen] = True
        for tensor in changes.partition:
            numbers = selected[tensor.span].nonzero().flatten()
            if len(numbers) and tensor.name in found.direction:
                step = found.direction.pop(tensor.name)
                places = tensor.places(numbers.to(step.device))
                changes.add(tensor, numbers, tensor.rows(step)[places].float() * -rate)
        return found.margin

    def _chosen(self, partition: VectorPartition, found: Contrast, statistics: RetainStatistics | None, rate: float) -> torch.Tensor:
        settings = self.settings
        similarity = similarities(found.sums, found.present, skip_zero_gradient=settings.skip_zero_gradient)
        count = settings.count or round(settings.share * partition.count)
        if settings.ranking == "interval":
            return ranked_between(similarity, settings.interval_from, settings.interval_to)
        if statistics is None:
            return smallest(similarity, count)
        products, curvatures = statistics.along(partition, found.direction)
        return most_for_cost(
            benefits(found.sums.cpu(), settings.update, rate),
            costs(products, curvatures, rate),
            count,
            settings.cost_budget / self.updates,
            torch.isinf(similarity.cpu()),
        )

    def _batches(self, number: int) -> list[PairBatch]:
        """The micro-batches of the n-th update; a function of its number and the seed alone."""
        settings = self.settings
        visit, place = divmod(number, self.per_pass)
        order = list(self.usable)
        if settings.shuffle:
            order = [order[index] for index in np.random.default_rng([self.seed, visit]).permutation(len(order)).tolist()]
        rows = [self.stream.example(index, visit) for index in order[place * settings.batch_size : (place + 1) * settings.batch_size]]
        weight = 1.0 if settings.reduction == "sum" else 1.0 / len(rows)
        size = settings.micro_batch_size or len(rows)
        return [self._pair_batch(rows[start : start + size], weight) for start in range(0, len(rows), size)]

    def _pair_batch(self, rows: list[Row], weight: float) -> PairBatch:
        batch = {field: values.to(self.model.device) for field, values in self.collator.batch(rows).items()}
        sides: list[Batch] = [{field: batch[start + field] for field in ("ids", "mask", "labels")} for start in ("", "other_")]
        return PairBatch(sides[0], sides[1], torch.full((len(rows),), weight, device=self.model.device))

    @torch.no_grad()
    def _oriented(self, batch: PairBatch) -> PairBatch:
        """The batch with a factor for each pair: +1 where the stereotype is preferred now, else −1 (Yu et al. 2023, dynamic direction).

        Within `neutral_width` it is margin / width: the derivative of Huber's function (Huber 1964), of which neutral is a point of rest.
        """
        counterpart, stereotype = (preferences(self.model, side, self.settings.objective) for side in batch.halves())
        margin, width = stereotype - counterpart, self.settings.neutral_width
        factors = (margin / width).clamp(-1, 1) if width else torch.where(margin > 0, 1.0, -1.0)
        return PairBatch(batch.advantaged, batch.disadvantaged, batch.weights * factors)

    def _retain_statistics(self, changes: VectorChanges) -> RetainStatistics:
        """Of the base: changes that a checkpoint put on are taken off for it."""
        settings, model = self.settings, self.model
        texts = retain_texts(settings.retain_text, self.seed)[: settings.retain_count]
        stream = TextStream(model, texts, max_length=settings.max_length, masking_rate=settings.masking_rate, seed=self.seed)
        rows = [stream.example(index, 0) for index in range(len(stream))]
        size = min(settings.micro_batch_size or settings.batch_size, 8)
        batches = [
            {field: values.to(model.device) for field, values in self.collator.batch(rows[start : start + size]).items()}
            for start in range(0, len(rows), size)
        ]
        with changes.off():
            return RetainStatistics.of(model, changes.partition, batches)


class _BarePairStream(PairStream):
    """Pairs without prefix and special tokens, as the released codes feed them."""

    def _ids(self, text: str) -> list[int]:
        return self.model.token_ids(text)


def _labelled(row: Row) -> tuple[bool, bool]:
    """Whether each side of a pair has a token to score."""
    return any(label != IGNORED for label in row["labels"]), any(label != IGNORED for label in row["other_labels"])
