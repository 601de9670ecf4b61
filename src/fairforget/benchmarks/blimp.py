"""BLiMP (Warstadt et al. 2020): which sentence of a minimal pair is acceptable English."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fairforget.benchmarks._base import Item, MetricDefinition
from fairforget.benchmarks._choices import ACCURACY, ANSWER_NLL
from fairforget.benchmarks._prefixed import PrefixedChoiceBenchmark, PrefixedChoiceSettings
from fairforget.errors import UsageError
from fairforget.settings import Settings

if TYPE_CHECKING:
    from fairforget.models.model import Model


class BlimpSettings(PrefixedChoiceSettings):
    """How sentences are scored and compared."""

    leading_space: bool = False
    """Causal models: a space before the sentence, as lm-eval's delimiter puts one; it is another first token for byte-level tokenizers."""


class Blimp(PrefixedChoiceBenchmark):
    """Accuracy over 67 paradigms, and by field and phenomenon.

    - causal (``sentence-likelihood``): log-probability of the sentence after the prefix token.
    - masked (``sentence-pll``): pseudo-log-likelihood, every token masked in turn (Salazar et al. 2020).

    Each pair is a cluster, each paradigm a stratum. All paradigms have equally many pairs, so that the accuracy is the mean over paradigms.
    """

    name = "blimp"
    description = "BLiMP (Warstadt et al. 2020): pairs of an acceptable and an unacceptable sentence, 67 paradigms; accuracy."
    Settings: ClassVar[type[Settings]] = BlimpSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lm-eval": {"prefix": "tokenizer", "leading_space": True, "tie": 0.0}}
    datasets = ("blimp",)

    def check(self, model: Model) -> None:
        """Refuse the chat format: likelihoods of sentences are plain."""
        if self.settings.prompt_format == "chat":
            raise UsageError("blimp scores whole sentences, which have no chat format: use prompt_format plain.")
        super().check(model)

    def items(self, family: str, part: str) -> list[Item]:
        """Pairs of one part, the acceptable sentence first."""
        from fairforget.data.blimp import load_blimp

        space = " " * (self.settings.leading_space and family == "causal")
        return [
            Item(
                id=pair.id, task="blimp", role="ability", part=part, cluster=pair.id, stratum=pair.paradigm,
                groups=(f"field: {pair.field}", f"phenomenon: {pair.phenomenon}"), texts=(space + pair.good, space + pair.bad),
                payload={"context": "", "right": 0},
            )
            for pair in load_blimp()
            if part in ("all", pair.part)
        ]

    def protocol(self, item: Item, family: str) -> str:
        """``sentence-likelihood`` or ``sentence-pll``, with what departs from the sum over the bare sentence."""
        variant = ", leading space" * (self.settings.leading_space and family == "causal")
        return super().protocol(item, family).replace("option", "sentence") + variant

    def metrics(self) -> list[MetricDefinition]:
        """Accuracy, and the acceptable sentence's likelihood."""
        return [ACCURACY, ANSWER_NLL]
