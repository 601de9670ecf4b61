"""SimNPO: negative preference optimisation by mean log-likelihood, without a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from fairforget.methods._base import texts_of
from fairforget.methods._forget import FORGET, ForgetMethod, ForgetSettings
from fairforget.methods._trained import Job
from fairforget.models.model import Model
from fairforget.objectives import SimpleNegativePreference, row_log_probabilities
from fairforget.objectives.drift import Reference
from fairforget.objectives.likelihood import row_labels
from fairforget.settings import Settings
from fairforget.training import Objective, Stream
from fairforget.training.streams import Collator

ROWS, BATCH = 128, 16
"""Texts that the margin is measured on, and how many at a time."""


class SimnpoSettings(ForgetSettings):
    """Settings of SimNPO."""

    beta: float = Field(4.5, gt=0)
    """Inverse temperature β (4.5 in open-unlearning; the authors take 2.5 for TOFU's 5 % split)."""
    delta: float | None = None
    """Margin δ, nats a token, added to the mean log-likelihood; the paper's γ is βδ. 0 in open-unlearning, for texts known by heart: what
    is far less likely than a nat a token has no gradient then. None: the base's mean loss on the texts, so that they start midway."""
    forget_weight: float = Field(0.125, gt=0)
    """Weight of the forget term (0.125 in open-unlearning, 0.1375 by the authors for TOFU's 5 % split)."""
    retain: Literal["none", "cross-entropy", "kl", "hidden"] = "cross-entropy"
    """What holds the model on `retain_text`; cross-entropy with weight 1 is the default of open-unlearning, `none` the plain loss."""


class Simnpo(ForgetMethod):
    """L = -(2/β) mean log σ(-β (S / T + δ)), S / T a text's mean log p of its labelled tokens, without dropout."""

    name: ClassVar[str] = "simnpo"
    summary: ClassVar[str] = "NPO by mean log-likelihood and without a reference: texts that are unlikely already are left alone."
    source: ClassVar[str] = "Fan et al. 2024 (arXiv 2410.07163)"
    settings_class: ClassVar[type[Settings]] = SimnpoSettings
    settings: SimnpoSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The training texts as ``forget``; measures the margin on the base where none was set."""
        texts = self.text_stream(job, texts_of(job.data))
        delta = self.settings.delta
        job.notes["delta"] = delta if delta is not None else round(-mean_log_likelihood(job.model, texts), 4)
        return {FORGET: texts}

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """The preference term on the texts."""
        del reference
        return [SimpleNegativePreference(self.settings.beta, job.notes["delta"], self.settings.forget_weight, FORGET)]


@torch.no_grad()
def mean_log_likelihood(model: Model, stream: Stream) -> float:
    """Mean over (the first) rows of a row's mean log p of its labelled tokens, nats a token."""
    collator, means = Collator(model.pad_id), list[float]()
    for start in range(0, min(ROWS, len(stream)), BATCH):
        rows = collator.batch([stream.example(row, 0) for row in range(start, min(start + BATCH, ROWS, len(stream)))])
        batch = {field: tensor.to(model.device) for field, tensor in rows.items()}
        means += (row_log_probabilities(model, batch) / row_labels(model, batch)).tolist()
    return sum(means) / len(means)
