"""RMU: lead the hidden states of what is to be forgotten to a random direction, and keep those of neutral text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from fairforget.methods._base import texts_of
from fairforget.methods._forget import FORGET, ForgetMethod, ForgetSettings
from fairforget.methods._retain import retain_stream
from fairforget.methods._trained import RETAIN, Job
from fairforget.models.hidden_sites import Layer
from fairforget.models.model import Model
from fairforget.objectives import HiddenMatch, Misdirection
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective, Stream
from fairforget.training.streams import Collator

PAPERS_LAYER, PAPERS_DEPTH = 7, 32
ROWS = 32
"""Texts that the norm of states is measured on."""


class RmuSettings(ForgetSettings):
    """Settings of RMU; its own retain term is `hold_weight`, `retain` would add another."""

    layer: int | Literal["final"] | None = None
    """Block whose output is led away, from 0; only it and those before it change. `final`: the states before the head. None: as deep as
    the papers' 7 of 32."""
    steering: float | None = Field(None, gt=0)
    """Length c of the vector that states are led to, in the model's own units; published values run from 2 to 300 by model
    (open-unlearning). None: the base's root mean square norm of the states there (ours)."""
    hold_weight: float = Field(1.0, ge=0)
    """Weight α of the distance of the same layer's states on `retain_text` from the base's. 1 and 1000 in versions of open-unlearning."""


class Rmu(ForgetMethod):
    """L = mean_f (1/d) ‖h - c·u‖² + α mean_r (1/d) ‖h - h_ref‖² at one layer, u a random unit vector."""

    name: ClassVar[str] = "rmu"
    summary: ClassVar[str] = "Lead hidden states of biased text to a random direction, keep those of neutral text."
    source: ClassVar[str] = "Li et al. 2024 (arXiv 2403.03218)"
    settings_class: ClassVar[type[Settings]] = RmuSettings
    settings: RmuSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The training texts as ``forget`` and neutral text as ``retain``; measures the states where no length was set."""
        settings, forget = self.settings, self.text_stream(job, texts_of(job.data))
        layer = self.layer_of(job.model)
        steering = settings.steering if settings.steering is not None else round(state_norm(job.model, forget, layer), 4)
        neutral, facts = retain_stream(settings, job.model, job.data, job.seed)
        job.notes |= {"layer": layer, "steering": steering, "retained": facts}
        return {FORGET: forget, RETAIN: neutral}

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Misdirection of the texts, and what holds the same layer on neutral text."""
        settings, layer = self.settings, job.notes["layer"]
        forget = Misdirection(layer, job.notes["steering"], seed=job.seed, weight=settings.forget_weight, stream=FORGET)
        hold = [HiddenMatch(reference, settings.hold_weight, RETAIN, layer=layer)] if settings.hold_weight else []
        return [forget, *hold]

    def layer_of(self, model: Model) -> Layer:
        """The layer that was set, or the one as deep as the papers'."""
        depth = int(model.hf.config.get_text_config().num_hidden_layers)
        return self.settings.layer if self.settings.layer is not None else min(depth - 1, round(PAPERS_LAYER * depth / PAPERS_DEPTH))


@torch.no_grad()
def state_norm(model: Model, stream: Stream, layer: Layer) -> float:
    """Root mean square norm of the states that RMU leads away, on the first rows."""
    term = Misdirection(layer, 0.0)
    term.prepare(model)
    rows = Collator(model.pad_id).batch([stream.example(row, 0) for row in range(min(ROWS, len(stream)))])
    batch = {field: tensor.to(model.device) for field, tensor in rows.items()}
    return math.sqrt(int(model.hf.config.get_text_config().hidden_size) * float(term.sum(model, batch)) / term.count(batch))
