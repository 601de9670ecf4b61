"""Free composition: the losses of several methods trained at once, each with a weight."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from fairforget.data.training import training_source
from fairforget.errors import UsageError, unknown_name
from fairforget.methods import method_registry
from fairforget.methods._retain import retain_stream, retain_terms
from fairforget.methods._trained import RETAIN, Job, TrainedMethod, TrainedSettings
from fairforget.models.model import Model
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Monitor, Objective, Stream


class Term(BaseModel):
    """One method of a composition; its own settings stand beside these."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    method: str
    """A method that is a loss, by name."""
    weight: float = Field(1.0, gt=0)
    """Factor of its loss."""
    train: str | None = None
    """A built-in training source of its own; what the run trains on by default."""

    @property
    def settings(self) -> dict[str, Any]:
        """What was set beside name, weight and source."""
        return dict(self.model_extra or {})


class CompositionSettings(TrainedSettings):
    """Settings of the training, and the terms of its loss."""

    terms: list[Term] = Field(min_length=1)
    """Methods with weights, e.g. `[{method: gradient-ascent}, {method: cda, weight: 0.5}]`. How it is trained (tuning, learning rate,
    steps, lengths, `retain_text`) is set once, here. A term keeps the `retain` of its method unless it sets another; `retain` here adds
    one more, over all."""


_OF_A_TERM = ("retain", "retain_weight", "retain_temperature", "retain_text")
"""Settings of the training that a term may have of its own: what its loss holds the model with."""


class Composition(TrainedMethod):
    """L = Σ_i w_i L_i over methods that are a loss, what each retains by included; streams are their own, the first sets a pass."""

    name: ClassVar[str] = "composition"
    summary: ClassVar[str] = "Train on the weighted losses of several methods at once."
    source: ClassVar[str] = "ours; GradDiff, BiasUnlearn or ASE with a collapse regulariser are compositions that have names of their own"
    settings_class: ClassVar[type[Settings]] = CompositionSettings
    settings: CompositionSettings

    def __init__(self, settings: Settings | None = None, **values: Any) -> None:
        super().__init__(settings, **values)
        self.jobs: list[Job] = []
        self.parts = [_part(term, self.settings) for term in self.settings.terms]

    def check(self, model: Model) -> None:
        """Refuse a model that one of the methods is not made for."""
        super().check(model)
        for part in self.parts:
            part.check(model)

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The streams of every term, under the term's number."""
        self.jobs = [self._job(job, number) for number in range(len(self.parts))]
        found: dict[str, Stream] = {}
        for number, (part, own) in enumerate(zip(self.parts, self.jobs, strict=True)):
            found |= {f"{number}/{name}": stream for name, stream in part.streams(own).items()}
            if part.common.retain != "none":
                found[f"{number}/{RETAIN}"], own.notes["retained"] = retain_stream(part.common, own.model, own.data, own.seed)
        return found

    @contextlib.contextmanager
    def around(self, model: Model) -> Generator[dict[str, Any]]:
        """What holds for each term holds for all: they share their forward passes."""
        held: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            for part in self.parts:
                held |= stack.enter_context(part.around(model))
            yield held

    def watched(self, job: Job, monitor: Monitor | None) -> Monitor | None:
        """The monitor with every term's own stop."""
        del job
        for part, own in zip(self.parts, self.jobs, strict=True):
            monitor = part.watched(own, monitor)
        return monitor

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """The terms of every method, weighted, on its own streams."""
        found: list[Objective] = []
        for number, (term, part, own) in enumerate(zip(self.settings.terms, self.parts, self.jobs, strict=True)):
            for objective in [*part.objectives(own, reference), *retain_terms(part.common, None, reference, own.seed)]:
                objective.weight *= term.weight
                if objective.stream is not None:
                    objective.stream = f"{number}/{objective.stream}"
                found.append(objective)
        job.notes["terms"] = [{"method": part.name, **own.notes} for part, own in zip(self.parts, self.jobs, strict=True)]
        return found

    def _job(self, job: Job, number: int) -> Job:
        source = self.settings.terms[number].train
        folder = job.folder / f"term-{number}"
        return Job(job.model, job.data if source is None else training_source(source), job.seed + number, folder)


def _part(term: Term, settings: CompositionSettings) -> TrainedMethod:
    """The method of a term, with the composition's lengths and rates.

    Raises:
        UsageError: no such method, one that is not a loss, or a setting that belongs to the whole.
    """
    found = method_registry().get(term.method)
    if not issubclass(found, TrainedMethod) or issubclass(found, Composition):
        raise UsageError(f"terms: {term.method} is not a loss that can be added to others; use a method that trains on one.")
    for name in term.settings:
        if name in TrainedSettings.model_fields and name not in _OF_A_TERM:
            raise UsageError(f"terms: '{name}' of {term.method} belongs to the whole training: set method.{name}.")
        if name not in found.settings_class.model_fields:
            own = [field for field in found.settings_class.model_fields if field not in TrainedSettings.model_fields]
            raise unknown_name(f"setting of {term.method}", name, own)
    shared = {"max_length": settings.max_length, "masking_rate": settings.masking_rate, "retain_text": settings.retain_text}
    return found(**shared, **term.settings)
