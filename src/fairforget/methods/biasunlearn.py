"""The mixture of BiasUnlearn: forget stereotypes, learn their counterparts, stay near the base; domains that are reversed change sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fairforget.data.training import TrainingSource, TrainingText
from fairforget.errors import UsageError
from fairforget.methods._forget import FORGET, ForgetMethod, ForgetSettings
from fairforget.methods._trained import Job, TrainingData
from fairforget.models.model import Model
from fairforget.objectives import CrossEntropy, DomainTurns, NegativePreference, SidesStream, Turned
from fairforget.objectives.domains import preferred_share
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Monitor, Objective, PairStream, StopCondition, Stream

PAIRS = 128
"""Pairs of a domain that the stop looks at."""


class BiasunlearnSettings(ForgetSettings):
    """Settings of the mixture."""

    forget_weight: float = Field(0.5, gt=0)
    """Weight of NPO on the stereotypes (run.sh of the released code)."""
    learn_weight: float = Field(0.3, ge=0)
    """Weight of the cross-entropy on the counterparts (run.sh)."""
    retain: Literal["none", "cross-entropy", "kl", "hidden"] = "kl"
    """What holds the model on `retain_text`: divergence from the base, in the paper on StereoSet's unrelated sentences."""
    retain_weight: float = Field(0.2, ge=0)
    """Weight of that term (run.sh)."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature of NPO (released code)."""
    per_token: bool = True
    """NPO on a text's mean log-likelihood, as in the released code, whose weights are meant for it; false: on the sum, as in NPO."""
    mix: float = Field(0.25, ge=0, le=1)
    """Share of the counterparts that are forgotten too (a quarter in the released code)."""
    turn_below: float = Field(49.0, ge=0, le=100)
    """Percentage of a domain's pairs whose stereotype is preferred, below which its two sides are exchanged (released code: 49, for
    religion 48); looked at on the training pairs before every pass. 0: never."""
    stop_gap: float = Field(0.0, ge=0, le=50)
    """Stop once every domain's percentage on the training pairs is nearer to 50 than this many points (released code: 2, of StereoSet's dev
    part); looked at as often as the run's guard looks, ten times without one. 0: never."""
    epochs: float = Field(3.0, gt=0, le=1000)
    """Passes over the training pairs. `steps` overrides it (released code: at most 3, and at most 1000 steps)."""
    alpha: float = Field(16.0, gt=0)
    """LoRA scaling: the change is alpha / rank · B · A (released code)."""
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on the LoRA's input (released code)."""


class Biasunlearn(ForgetMethod):
    """L = 0.5 NPO(stereotypes) + 0.3 CE(counterparts) + 0.2 KL(neutral text)."""

    name: ClassVar[str] = "biasunlearn"
    summary: ClassVar[str] = "NPO on stereotypes, cross-entropy on their counterparts, KL on neutral text; reversed domains change sides."
    source: ClassVar[str] = "BiasUnlearn, EMNLP 2025 (arXiv 2509.25673)"
    settings_class: ClassVar[type[Settings]] = BiasunlearnSettings
    settings: BiasunlearnSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """Stereotypes and counterparts side by side as ``forget``, with their domains."""
        rows = pairs_by_domain(job.data)
        names = sorted({name for name, _, _ in rows})
        job.notes["domains"] = names
        drawn = np.random.default_rng([job.seed, 3]).permutation(len(rows))[: round(self.settings.mix * len(rows))]
        rows += [(name, other, other) for name, _, other in (rows[index] for index in sorted(drawn.tolist()))]
        first = self.text_stream(job, [text for _, text, _ in rows])
        second = self.text_stream(job, [other for _, _, other in rows])
        return {FORGET: SidesStream(first, second, [names.index(name) for name, _, _ in rows])}

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """NPO and cross-entropy, each on the side of a row that its domain's turn gives it."""
        settings = self.settings
        turns = DomainTurns(len(job.notes["domains"]), self._domain_pairs(job) if settings.turn_below else {}, settings.turn_below)
        forget = NegativePreference(reference, settings.beta, settings.forget_weight, FORGET, per_token=settings.per_token)
        learn = CrossEntropy(settings.learn_weight, FORGET, per_row=True)
        return [Turned(forget, turns), *([Turned(learn, turns, second=True)] if settings.learn_weight else [])]

    def watched(self, job: Job, monitor: Monitor | None) -> Monitor | None:
        """The released stop: all domains near neutral."""
        pairs = self._domain_pairs(job) if self.settings.stop_gap else {}
        return EvenDomains(pairs, self.settings.stop_gap, monitor) if pairs else monitor

    def _domain_pairs(self, job: Job) -> dict[int, PairStream]:
        """Pairs of each domain, compared by whole sentences on causal models and by the tokens that differ on masked ones."""
        scope: Literal["answer", "sentence"] = "sentence" if job.model.family == "causal" else "answer"
        found: dict[int, PairStream] = {}
        for number, domain in enumerate(job.notes["domains"]):
            pairs = [(text, other) for name, text, other in pairs_by_domain(job.data) if name == domain]
            try:
                found[number] = PairStream(job.model, pairs, scope=scope, max_length=self.settings.max_length)
            except UsageError:  # none of its pairs can be compared
                if domain not in (left := job.notes.setdefault("domains_not_compared", [])):
                    left.append(domain)
        return found


class EvenDomains(StopCondition):
    """Stops a training once the share of preferred stereotypes is near 50 % in every domain.

    Args:
        pairs: pairs of each domain, of which the first ``PAIRS`` are looked at.
        gap: percentage points from 50 below which a domain is even.
        inner: the monitor of the run.
    """

    def __init__(self, pairs: Mapping[int, PairStream], gap: float, inner: Monitor | None = None) -> None:
        super().__init__(inner)
        self.pairs, self.gap = dict(pairs), gap

    def reached(self, model: Model, step: int) -> str | None:
        """Measure every domain."""
        widest = max(abs(preferred_share(model, stream, PAIRS) - 50) for stream in self.pairs.values())
        if widest >= self.gap:
            return None
        return f"all {len(self.pairs)} domains with pairs that can be compared are within {widest:.1f} points of 50 % at step {step}"


def pairs_by_domain(data: TrainingData) -> list[tuple[str, str, str]]:
    """Domain (the first group, ``all`` without one), text and counterpart of every text that has a counterpart.

    Raises:
        UsageError: no text has one.
    """
    rows = data.texts if isinstance(data, TrainingSource) else data
    found = [
        (row.groups[0] if row.groups else "all", row.text, row.counterpart)
        for row in rows
        if isinstance(row, TrainingText) and row.counterpart
    ]
    if not found:
        raise UsageError("biasunlearn learns the counterparts of the training texts, and none has one: train on starter or stereoset.")
    return found
