"""Methods that are a loss: streams of text and the terms computed on them; everything else is shared."""

from __future__ import annotations

import contextlib
import tempfile
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field
from transformers import set_seed

from fairforget.data.training import TrainingSource, TrainingText
from fairforget.edits import Edit, EditRecord
from fairforget.errors import UsageError
from fairforget.methods._base import Method, provenance_of, texts_of
from fairforget.methods._retain import collapse_facts, collapse_terms, retain_stream, retain_terms
from fairforget.methods._tuning import tune_lora, tune_weights
from fairforget.models.model import Model
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Monitor, Objective, PairStream, Stream, StreamDataset, TextStream, train

TrainingData: TypeAlias = TrainingSource | Sequence[TrainingText] | Sequence[str]
RETAIN = "retain"


class TrainedSettings(Settings):
    """Settings that every method with a loss has."""

    tuning: str = Field(
        "lora", pattern=r"^(lora|full|attention|mlp|half|layers:\d+(-\d+)?|heads|neurons|contrastive-gradient|fisher-ratio)$"
    )
    """What is trained: `lora`, low-rank factors on `targets`; `full`, all weights; or weights that a selector picks: `attention`, `mlp`,
    `half` (of every block, drawn), `layers:2-4`, `heads` (causal mediation), `neurons` (integrated gradients), `contrastive-gradient` or
    `fisher-ratio` (parameters)."""
    selected_share: float = Field(0.1, gt=0, le=1)
    """Share that the selectors heads, neurons, contrastive-gradient and fisher-ratio pick."""
    learning_rate: float = Field(5e-5, gt=0, le=1)
    """Peak learning rate of AdamW."""
    epochs: float = Field(1.0, gt=0, le=1000)
    """Passes over the training texts. `steps` overrides it."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps, in place of `epochs`."""
    batch_size: int = Field(16, ge=1)
    """Rows in an optimiser step."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches that a step is made of, where memory is short; must divide `batch_size`."""
    warmup_share: float = Field(0.1, ge=0, le=1)
    """Share of the steps in which the learning rate rises."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """Course of the learning rate after the warm-up."""
    rank: int = Field(8, ge=1)
    """Rank of the LoRA factors."""
    alpha: float = Field(8.0, gt=0)
    """LoRA scaling: the change is alpha / rank · B · A."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the LoRA's input."""
    targets: Literal["attention", "all-linear"] | list[str] = "all-linear"
    """Modules with LoRA: `attention` is PEFT's choice for the architecture, `all-linear` every linear but the head, or module names."""
    max_length: int = Field(128, ge=2)
    """Tokens kept of a text; longer pairs are left out."""
    masking_rate: float = Field(0.15, gt=0, le=1)
    """Masked models: share of tokens predicted at each visit, where the method does not say which."""
    max_texts: int | None = Field(None, ge=1)
    """Train on at most this many texts, an even draw by the seed; None = all."""
    retain: Literal["none", "cross-entropy", "kl", "hidden"] = "none"
    """What holds the model on `retain_text`: likelihood of the text, forward divergence from the base, KL(base || tuned), or the distance
    of the last hidden states from the base's."""
    retain_weight: float = Field(1.0, ge=0)
    """Weight of that term."""
    retain_text: str = "starter"
    """Text to be retained: `starter` (neutral sentences of the starter set), `lm-corpus-small` (textbook and dialogues),
    `stereoset-unrelated` (its unrelated sentences of the train terms), `own` (the training texts, or the prompts of questions, as in LwF),
    a text file with one text a line, or a JSONL file whose rows have `text`, or `prompt` and `answer`: then only the answer counts."""
    retain_temperature: float = Field(1.0, gt=0, le=100)
    """With retain=kl: temperature T of T² KL(base || tuned). Learning without forgetting (Li, Hoiem 2016) takes 2."""
    l2_sp: float = Field(0.0, ge=0)
    """Weight of half the squared distance of the weights from the base's (L2-SP, Li et al. 2018)."""
    ewc: float = Field(0.0, ge=0)
    """Weight of half the same distance weighted by the Fisher information on `retain_text`, per example (EWC, Kirkpatrick et al. 2017)."""
    ewc_rows: int = Field(64, ge=1)
    """Rows that the Fisher information is the mean over, the first of `retain_text`."""
    ewc_labels: Literal["given", "drawn"] = "given"
    """Labels that its gradients are of: `given` by the text (the empirical Fisher information), or `drawn` from the base's predictions."""
    orthogonal: float = Field(0.0, ge=0)
    """Weight λ₁ of O-LoRA's Σ |A_prev A_newᵀ|, that new low-rank factors read other directions than earlier ones. Wang et al. 2023 take
    0.5."""
    orthogonal_to: list[str] = Field(default_factory=list[str])
    """Folders of the earlier low-rank edits."""
    sam: float = Field(0.0, ge=0)
    """Radius ρ of sharpness-aware minimisation: gradients at θ + ρ g/‖g‖, two passes a step (SAM, Foret et al. 2021, who take 0.05)."""
    sam_adaptive: bool = False
    """Scale that step by the weights, θ + ρ |θ|² g / ‖|θ| g‖ (ASAM, Kwon et al. 2021), which wants a ρ about ten times as large."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay d of the average of the trained parameters over the steps, (1 - d) Σ d^(t-i) θ_i / (1 - d^t), which the edit is made from;
    0 is the last step's parameters."""
    unc3: float = Field(0.0, ge=0)
    """Weight of (U)NC3, the spread over words of the angle between a word's output row and the mean state that calls for it. Xu et al.
    2025 take 100 with masked likelihood, 10 with contrastive losses, 5 with Context-Debias and ADEPT."""
    unc3_words: str = "gender"
    """Words it is taken over: a list (`gender`, `race`, `religion`, `nationality`, or a file), or as a control `random:LIST` or
    `matched:LIST`, as many other words of the training texts, at random or of like frequency."""
    unc3_gradient: Literal["weights", "features", "both"] = "weights"
    """Who is moved: the words' rows of the output matrix (released code; needs `tuning=full`), the states, or both."""
    unc3_means: str = Field("never", pattern=r"^(never|epoch|ema:0(\.\d+)?)$")
    """When the running mean states start anew: `never`, at each `epoch`, or moving averages, `ema:0.99`."""
    unc3_protocol: Literal["ours", "xu2025"] = "ours"
    """`xu2025`: the released pairing (a state with the next token, in masked models too), site (before the masked model's transform) and
    words (first word pieces)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the training: `auto` is bfloat16 autocast where it is native."""
    report_to: str = "none"
    """Experiment tracker that transformers knows (tensorboard, wandb, mlflow ...), or none."""


@dataclass
class Job:
    """One fit: what the terms and streams of a method are made from.

    Attributes:
        model: the base, without edits.
        data: training data as given.
        seed: of this fit.
        folder: for what is to survive a kill (caches, checkpoints).
        notes: facts for the record of the edit; add to it.
    """

    model: Model
    data: TrainingData
    seed: int
    folder: Path
    notes: dict[str, Any] = field(default_factory=dict[str, Any])


class TrainedMethod(Method):
    """A method that trains on a sum of objectives; its edit is θ₁ - θ₀, at strength 1 as trained.

    A subclass says which streams there are (:meth:`streams`) and which terms are computed on them (:meth:`objectives`).
    """

    settings_class: ClassVar[type[Settings]] = TrainedSettings
    collapse_stream: ClassVar[str | None] = None
    """Stream whose states (U)NC3 looks at; the leading one by default."""

    @property
    def common(self) -> TrainedSettings:
        """The settings that every method with a loss has."""
        assert isinstance(self.settings, TrainedSettings)
        return self.settings

    def check(self, model: Model) -> None:
        """Refuse a model that the method is not made for, and settings that do not go together; see :meth:`Method.check`."""
        super().check(model)
        settings = self.common
        if settings.tuning != "lora" and bool(getattr(model.hf, "is_quantized", False)):
            raise UsageError("The weights of a quantised model cannot be trained: use tuning=lora, or load it without --load-in-4bit.")
        if settings.ewc and bool(getattr(model.hf, "is_quantized", False)):
            raise UsageError("ewc needs gradients of the weights, which a quantised model has none of: load it without --load-in-4bit.")
        if settings.batch_size % settings.accumulation:
            raise UsageError(f"accumulation = {settings.accumulation} does not divide batch_size = {settings.batch_size}.")
        if bool(settings.orthogonal) != bool(settings.orthogonal_to):
            raise UsageError("orthogonal, a weight, and orthogonal_to, folders of low-rank edits, go together: set both or neither.")
        if settings.orthogonal and settings.tuning != "lora":
            raise UsageError(f"orthogonal needs low-rank factors, and tuning={settings.tuning} trains none: set tuning=lora.")
        if settings.sam_adaptive and not settings.sam:
            raise UsageError("sam_adaptive says how SAM's step is scaled: set its radius sam too, about 0.5.")

    @abstractmethod
    def streams(self, job: Job) -> Mapping[str, Stream]:
        """Rows to train on by stream name, the leading stream first; called with the plain base."""

    @contextlib.contextmanager
    def around(self, model: Model) -> Generator[dict[str, Any]]:
        """What holds while the model is trained, e.g. another dropout; gives what the record says of it."""
        del model
        yield {}

    def watched(self, job: Job, monitor: Monitor | None) -> Monitor | None:
        """The monitor of the training, with a stop of the method's own before it; called when the streams are made."""
        del job
        return monitor

    @abstractmethod
    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Terms of the loss; `reference` gives a context in which the model computes what its base computes."""

    def fit(
        self, model: Model, data: TrainingData, *, seed: int = 0, folder: Path | None = None, monitor: Monitor | None = None
    ) -> Edit:
        """Train; see :meth:`Method.fit`.

        Raises:
            UsageError: a model, data or settings that do not go together.
            FairforgetError: the training diverged.
        """
        self.check(model)
        settings = self.common
        texts = texts_of(data)
        record = EditRecord.for_model(model, self.name, settings=settings.model_dump(mode="json"), seed=seed)
        with tempfile.TemporaryDirectory() as scratch, self.around(model) as held:
            job = Job(model, limited(data, settings.max_texts, seed), seed, folder or Path(scratch))
            set_seed(seed)
            streams = dict(self.streams(job))
            collapse, facts = collapse_terms(settings, model, texts, self.collapse_stream or next(iter(streams)), seed)
            job.notes |= {**facts, **held}
            monitor = self.watched(job, monitor)
            if settings.retain != "none" or settings.ewc:
                streams[RETAIN], job.notes["retained"] = retain_stream(settings, model, job.data, seed)
            leading = len(next(iter(streams.values())))
            steps = settings.steps or max(1, round(settings.epochs * leading / settings.batch_size))
            dataset = StreamDataset(streams, visits=-(-steps * settings.batch_size // leading))

            def run(reference: Reference) -> dict[str, Any]:
                terms = [*self.objectives(job, reference), *retain_terms(settings, streams.get(RETAIN), reference, seed), *collapse]
                return train(
                    model,
                    terms,
                    dataset,
                    steps=steps,
                    batch_size=settings.batch_size // settings.accumulation,
                    accumulation=settings.accumulation,
                    learning_rate=settings.learning_rate,
                    warmup_steps=round(settings.warmup_share * steps),
                    scheduler=settings.scheduler,
                    sam=settings.sam,
                    sam_adaptive=settings.sam_adaptive,
                    ema=settings.ema,
                    precision=settings.precision,
                    folder=job.folder,
                    seed=seed,
                    report_to=settings.report_to,
                    monitor=monitor,
                    description=f"{self.name}: training on {leading} rows",
                )

            set_seed(seed)
            if settings.tuning == "lora":
                edit = tune_lora(
                    model, record, run, rank=settings.rank, alpha=settings.alpha, dropout=settings.lora_dropout, targets=settings.targets
                )
            elif settings.tuning == "full":
                edit = tune_weights(model, record, run)
            else:
                from fairforget.methods._selectors import find_selection

                selection = find_selection(model, settings.tuning, pairs_of(job.data), share=settings.selected_share, seed=seed)
                job.notes["selection"] = selection.describe()
                edit = tune_weights(model, record, run, selected=selection.applied(model.hf))
        job.notes |= collapse_facts(settings, collapse, facts)
        return edit.with_provenance({"training_data": provenance_of(job.data), **job.notes})

    def text_stream(self, job: Job, texts: Sequence[str]) -> TextStream:
        """A stream of texts with this method's length, masking rate and seed."""
        settings = self.common
        return TextStream(job.model, texts, max_length=settings.max_length, masking_rate=settings.masking_rate, seed=job.seed)

    def pair_stream(self, job: Job, scope: Literal["answer", "sentence"]) -> PairStream:
        """A stream of the pairs of the data; says in the record how many were left out."""
        settings = self.common
        stream = PairStream(
            job.model, pairs_of(job.data), scope=scope, max_length=settings.max_length, masking_rate=settings.masking_rate, seed=job.seed
        )
        job.notes["pairs"] = {"used": len(stream), "left_out": stream.left_out}
        return stream


def pairs_of(data: TrainingData) -> list[tuple[str, str]]:
    """Each text that has a counterpart of its own, with it."""
    rows = data.texts if isinstance(data, TrainingSource) else data
    return [(row.text, row.counterpart) for row in rows if isinstance(row, TrainingText) and row.counterpart]


def limited(data: TrainingData, most: int | None, seed: int) -> TrainingData:
    """At most so many rows of the data, in their order, drawn by the seed."""
    rows = data.texts if isinstance(data, TrainingSource) else data
    if most is None or len(rows) <= most:
        return data
    chosen = sorted(np.random.default_rng([seed, most]).permutation(len(rows))[:most].tolist())
    picked: Any = [rows[index] for index in chosen]
    if isinstance(data, TrainingSource):
        return TrainingSource(data.name, tuple(picked), {**data.provenance, "texts_used": most})
    return picked
