"""MLM unlearning: gradient ascent on the harmful words of hateful text and on nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from fairforget.data.negatives import matched_lengths, negative_texts
from fairforget.data.training import TrainingSource, TrainingText
from fairforget.errors import UsageError
from fairforget.methods._base import texts_of
from fairforget.methods._forget import FORGET, ForgetMethod, ForgetSettings
from fairforget.methods._spans import Span, SpanFinder, cached_spans, random_spans
from fairforget.methods._spans.attribution import classifier_finder, probe_finder
from fairforget.methods._spans.chat import Chat, ChatFinder, endpoint
from fairforget.methods._spans.contrast import ContrastFinder
from fairforget.methods._spans.lexicon import LexiconFinder, read_lexicon, telling_words
from fairforget.methods._trained import Job, TrainingData
from fairforget.models.model import Model
from fairforget.objectives import Ascent
from fairforget.objectives.drift import Reference
from fairforget.objectives.spans import CandidatePosterior, SpanStream
from fairforget.settings import Settings
from fairforget.training import Objective, Stream


class MlmUnlearningSettings(ForgetSettings):
    """Settings of MLM unlearning."""

    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Peak learning rate of AdamW, for LoRA (ours); full tuning wants 1e-5. The paper's is not known."""
    batch_size: int = Field(32, ge=1)
    """Texts in an optimiser step (ours; the paper's is not known)."""
    finder: Literal["lexicon", "attribution", "contrast", "llm", "annotated"] = "lexicon"
    """Which words are harmful: `lexicon`, the words of `lexicon` or those that tell the source's hateful posts from its others (log-odds);
    `attribution`, integrated gradients of a classifier; `contrast`, words that a model tuned on the texts expects more than its base;
    `llm`, as a chat model names them (the paper asked GPT-4); `annotated`, as the source's annotators marked them."""
    lexicon: str | None = None
    """Text file of harmful words or phrases, one a line."""
    share: float = Field(0.15, gt=0, le=1)
    """Finders attribution and contrast: share of a text's words."""
    contrast_threshold: float | None = None
    """Finder contrast: words whose log-probability rose by more, nats, in place of a share."""
    classifier: str | None = None
    """Finder attribution: folder or hub id of a sequence classifier; by default a logistic probe on the model's own hidden states."""
    classifier_label: str | None = None
    """Finder attribution: name of the harmful class; the last one by default."""
    endpoint: str | None = None
    """Finder llm: base address of an OpenAI-compatible interface; the key is read from OPENAI_API_KEY."""
    endpoint_model: str = "gpt-4o-mini"
    """Finder llm: name of the model there."""
    control: Literal["none", "random", "non-hateful"] = "none"
    """`random`: as many other words of the same texts; `non-hateful`: the marked words of as many posts that are not hateful, each the
    nearest in length to a hateful one."""
    reduction: Literal["token", "sequence"] = "token"
    """Mean over all marked tokens, or over texts of each one's mean, so that a text with many marked words counts no more than another."""
    right_context: Literal["ignored", "candidates"] = "ignored"
    """Causal models: whether words after the harmful one are ignored, as in the paper, or weighed by a posterior over candidates."""
    candidates: int = Field(8, ge=1)
    """Candidates of that posterior."""
    clamp: float = Field(1.0, ge=0)
    """Floor of a token's probability, in uniform guesses 1 / V: rarer tokens get no gradient, or ascent on rare words would not end. 0 is
    the paper's unbounded form."""


class MlmUnlearning(ForgetMethod):
    """Minimise L = mean over marked tokens of log P(x_i | context): ascent on the loss of the harmful words alone.

    Masked models predict them from both sides; causal ones from the left (or, with ``right_context=candidates``, by a posterior).
    """

    name: ClassVar[str] = "mlm-unlearning"
    summary: ClassVar[str] = "Gradient ascent on the harmful words of hateful text only."
    source: ClassVar[str] = "Lu et al. 2024 (arXiv 2407.16951)"
    default_source: ClassVar[str] = "edos"
    settings_class: ClassVar[type[Settings]] = MlmUnlearningSettings
    settings: MlmUnlearningSettings
    chat: Chat | None = None
    """A chat model for the finder `llm`, in place of an endpoint; set it on the method."""

    def check(self, model: Model) -> None:
        """Refuse a model or settings that do not go together."""
        super().check(model)
        if self.settings.right_context == "candidates" and model.family == "masked":
            raise UsageError("right_context=candidates is for causal models: a masked model sees both sides anyway.")
        if self.settings.finder == "llm" and self.chat is None and self.settings.endpoint is None:
            raise UsageError("The finder llm needs method.endpoint, the address of a chat model, or in Python a callable in `method.chat`.")
        if not getattr(model.tokenizer, "is_fast", False):
            raise UsageError(f"The tokenizer of {model.name} gives no character offsets, which words are found by: use its fast version.")

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The texts with their harmful words marked, as ``forget``."""
        settings = self.settings
        harmful = texts_of(job.data)
        if settings.control == "non-hateful":
            texts, spans = self._matched(job, harmful)
        else:
            texts, spans = harmful, self._spans(job, harmful, harmful)
        if settings.control == "random":
            spans = random_spans(texts, spans, job.seed)
        stream = SpanStream(
            job.model, texts, spans, max_length=settings.max_length, whole=settings.right_context == "candidates", seed=job.seed
        )
        job.notes["spans"] = {
            "finder": settings.finder, "control": settings.control, "texts": len(stream), "left_out": stream.left_out,
            "marked_share": round(stream.marked_share, 4),
        }
        return {FORGET: stream}

    def harmful_spans(self, model: Model, data: TrainingData, *, seed: int = 0, folder: Path | None = None) -> list[list[Span]]:
        """The finder's marks, without training anything to be unlearned: (start, end) of the harmful stretches of every text.

        A control (`control`) and a part of the texts (`max_texts`) are not looked at.

        Args:
            model: the base, which the finders `contrast` and `attribution` ask.
            data: hateful texts.
            seed: of a finder that trains.
            folder: where findings are kept, so that they are not asked for twice.

        Raises:
            UsageError: a model or settings that do not go together.
        """
        self.check(model)
        with tempfile.TemporaryDirectory() as scratch:
            harmful = texts_of(data)
            return self._spans(Job(model, data, seed, folder or Path(scratch)), harmful, harmful)

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Ascent on the marked tokens."""
        del job, reference
        settings = self.settings
        if settings.right_context == "candidates":
            return [CandidatePosterior(settings.forget_weight, FORGET, candidates=settings.candidates, clamp=settings.clamp)]
        return [Ascent(settings.forget_weight, FORGET, clamp=settings.clamp, per_row=settings.reduction == "sequence")]

    def _matched(self, job: Job, harmful: Sequence[str]) -> tuple[list[str], list[list[Span]]]:
        """As many posts without harm that have a marked word, matched in length; no more of them are looked at than it takes."""
        texts, spans = list[str](), list[list[Span]]()
        for chunk in matched_lengths(harmful, self._negatives(job), job.seed):
            found = self._spans(job, harmful, chunk)
            for text, marked in zip(chunk, found, strict=True):
                if marked and len(texts) < len(harmful):
                    texts.append(text)
                    spans.append(marked)
            if len(texts) == len(harmful):
                break
        return texts, spans

    def _spans(self, job: Job, harmful: Sequence[str], texts: Sequence[str]) -> list[list[Span]]:
        if self.settings.finder == "annotated":
            rows = job.data.texts if isinstance(job.data, TrainingSource) else job.data
            marked = [list(row.spans) if isinstance(row, TrainingText) else [] for row in rows]
            if self.settings.control == "non-hateful" or not any(marked):
                raise UsageError("The finder annotated needs texts whose harmful words are marked, e.g. train.source=civil-comments, "
                                 "and has no non-hateful control.")
            return marked
        return cached_spans(self._finder(job, harmful), texts, job.folder / "spans.jsonl")

    def _finder(self, job: Job, harmful: Sequence[str]) -> SpanFinder:
        settings = self.settings
        if settings.finder == "llm":
            chat = self.chat or endpoint(str(settings.endpoint), settings.endpoint_model)
            return ChatFinder(chat, "a callable" if self.chat else f"{settings.endpoint} {settings.endpoint_model}")
        if settings.finder == "contrast":
            return ContrastFinder(
                job.model, harmful, share=settings.share, threshold=settings.contrast_threshold, folder=job.folder / "contrast",
                seed=job.seed,
            )
        if settings.finder == "attribution":
            if settings.classifier is not None:
                return classifier_finder(
                    settings.classifier, label=settings.classifier_label, share=settings.share, device=job.model.device
                )
            return probe_finder(job.model, harmful, self._negatives(job), share=settings.share, seed=job.seed)
        if settings.lexicon is not None:
            return LexiconFinder(read_lexicon(Path(settings.lexicon)))
        words = telling_words(harmful, self._negatives(job))
        if not words:
            raise UsageError("No word tells these hateful texts from others of their source: give a list of your own in method.lexicon.")
        return LexiconFinder(words)

    def _negatives(self, job: Job) -> list[str]:
        name = job.data.name if isinstance(job.data, TrainingSource) else "given in Python"
        return negative_texts(name)
