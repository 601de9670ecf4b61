"""What every method is: settings that explain themselves, and a fit that returns an edit and leaves the model as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from fairforget.data.training import TrainingSource, TrainingText
from fairforget.edits import Edit
from fairforget.errors import UsageError
from fairforget.models.model import Family, Model
from fairforget.settings import Settings, explain_validation
from fairforget.training import Monitor


class Method(ABC):
    """An intervention: takes a model and training data, returns an edit.

    Args:
        settings: all settings; by default those of the class.
        **values: single settings by name, instead of `settings`.

    Raises:
        UsageError: a setting that there is not, or a value out of its range.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One sentence for lists and pages."""
    source: ClassVar[str]
    """The paper, with its equation or section."""
    families: ClassVar[frozenset[Family]] = frozenset({"causal", "masked"})
    default_source: ClassVar[str] = "starter"
    """Built-in training source that is taken where a run names none."""
    guarded: ClassVar[bool] = True
    """Whether a guard may look at the model in training: not where it is trained toward the bias, to be subtracted."""
    forgets_texts: ClassVar[bool] = False
    """Whether the training texts are to become less likely; methods that even out or learn say nothing of that."""
    settings_class: ClassVar[type[Settings]]

    def __init__(self, settings: Settings | None = None, **values: Any) -> None:
        if settings is None:
            try:
                settings = self.settings_class(**values)
            except ValidationError as error:
                raise explain_validation(error, self.settings_class, f"settings of {self.name}") from error
        elif values:
            raise UsageError("Give a method either `settings` or single values, not both.")
        self.settings = settings

    def check(self, model: Model) -> None:
        """Refuse a model that the method is not made for.

        Raises:
            UsageError: the model is of another family, or carries edits.
        """
        if model.family not in self.families:
            known = " and ".join(sorted(self.families))
            raise UsageError(f"The method {self.name} works on {known} models; {model.name} is {model.family}.")
        if model.edits:
            raise UsageError(
                f"{model.name} has edits attached: detach them before fitting, or save the edited model and load it as a base."
            )

    @abstractmethod
    def fit(
        self,
        model: Model,
        data: TrainingSource | Sequence[TrainingText] | Sequence[str],
        *,
        seed: int = 0,
        folder: Path | None = None,
        monitor: Monitor | None = None,
    ) -> Edit:
        """Find the edit; the model is as before when this returns.

        Args:
            model: the base, without edits.
            data: what is trained on; plain strings do.
            seed: order of the data, masks, initial factors, dropout.
            folder: checkpoints go here, and a fit that was interrupted goes on from them; a temporary folder by default.
            monitor: looks at the model now and then and may end the training.
        """


def texts_of(data: TrainingSource | Sequence[TrainingText] | Sequence[str]) -> list[str]:
    """The plain texts of training data.

    Raises:
        UsageError: there are none.
    """
    rows = data.texts if isinstance(data, TrainingSource) else data
    texts = [row if isinstance(row, str) else row.text for row in rows]
    if not texts:
        raise UsageError("The training data are empty: a method needs at least one text.")
    return texts


def provenance_of(data: TrainingSource | Sequence[TrainingText] | Sequence[str]) -> dict[str, Any]:
    """What the record of an edit says of its training data."""
    return dict(data.provenance) if isinstance(data, TrainingSource) else {"source": "given in Python", "texts": len(data)}
