"""Go on with language modelling under raised dropout."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from fairforget.data.training import TrainingSource
from fairforget.methods._trained import Job, TrainedMethod, TrainedSettings
from fairforget.models.model import Model
from fairforget.objectives import CrossEntropy
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective, Stream

RATES = {"albert": (0.05, 0.05), "gpt2": (0.15, 0.15)}
"""(hidden, attention) of the architectures that differ from those below (Webster et al. 2020; Bias Bench)."""
MASKED_RATES, CAUSAL_RATES = (0.20, 0.15), (0.15, 0.15)
"""BERT's and RoBERTa's rates, taken for all masked models, and GPT-2's, taken for all causal ones."""


class DropoutSettings(TrainedSettings):
    """Settings of the training under raised dropout."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW. 5e-4 suits low-rank tuning (ours, as for task-vector); Bias Bench tunes all weights with 5e-5."""
    hidden: float | None = Field(None, ge=0, lt=1)
    """Dropout of embeddings and of what attention and feed-forward blocks add. None: 0.20 (masked models), 0.05 (ALBERT), 0.15 (causal)."""
    attention: float | None = Field(None, ge=0, lt=1)
    """Dropout of attention weights. None: 0.15, 0.05 for ALBERT."""


class Dropout(TrainedMethod):
    """L = CE of the training text, with dropout raised; a text with a counterpart is trained on together with it."""

    name: ClassVar[str] = "dropout"
    summary: ClassVar[str] = "Go on with language modelling under raised dropout."
    source: ClassVar[str] = "Webster et al. 2020 (arXiv 2010.06032), section on dropout; Meade et al. 2022 (arXiv 2110.08527), section 3"
    default_source: ClassVar[str] = "corpus"
    settings_class: ClassVar[type[Settings]] = DropoutSettings
    settings: DropoutSettings

    @contextlib.contextmanager
    def around(self, model: Model) -> Generator[dict[str, Any]]:
        """Raised dropout, for all terms that are trained together."""
        hidden, attention = self.rates(model)
        with raised_dropout(model.hf, hidden, attention) as changed:
            yield {"dropout": {"hidden": hidden, "attention": attention, "places": changed}}

    def rates(self, model: Model) -> tuple[float, float]:
        """(hidden, attention) dropout for a model."""
        usual = RATES.get(model.hf.config.get_text_config().model_type, MASKED_RATES if model.family == "masked" else CAUSAL_RATES)
        hidden, attention = self.settings.hidden, self.settings.attention
        return usual[0] if hidden is None else hidden, usual[1] if attention is None else attention

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The texts as they are, and the counterparts that their source gives: stereotypes alone would be learnt."""
        texts: list[str] = []
        for row in job.data.texts if isinstance(job.data, TrainingSource) else job.data:
            texts += [row] if isinstance(row, str) else [row.text, *([row.counterpart] if row.counterpart else [])]
        return {"forget": self.text_stream(job, texts)}

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Likelihood of the texts."""
        del job, reference
        return [CrossEntropy(stream="forget")]


@contextlib.contextmanager
def raised_dropout(hf: nn.Module, hidden: float, attention: float) -> Generator[int]:
    """While the block runs, a model drops out at these rates when it is in training mode.

    Dropout modules and rates kept as numbers are set where an architecture has them. One that has none outside attention (LLaMA and its
    kin) gets it where GPT-2 has it: on the embeddings and on what attention and feed-forward blocks add to the stream.

    Args:
        hf: the model.
        hidden: rate of embeddings and of what blocks add.
        attention: rate of attention weights.

    Yields:
        Number of places at which a rate is set.
    """
    before: list[tuple[Any, str, float]] = []
    hooks: list[Any] = []

    def put(owner: Any, name: str, rate: float) -> None:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, rate)

    has_hidden = False
    for module in hf.modules():
        is_attention = _is_attention(module)
        for name, value in list(vars(module).items()):
            if name in ("attention_dropout", "dropout", "dropout_prob") and isinstance(value, float):
                put(module, name, attention if is_attention or name == "attention_dropout" else hidden)
                has_hidden |= not is_attention and name != "attention_dropout"
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                of_weights = is_attention and name in ("dropout", "attn_dropout", "attention_dropout")
                put(child, "p", attention if of_weights else hidden)
                has_hidden |= not of_weights
    try:
        if not has_hidden:
            places = [module for module in hf.modules() if _is_attention(module) or type(module).__name__.endswith(("MLP", "FeedForward"))]
            hooks += [place.register_forward_hook(_dropping(hidden)) for place in (_embeddings(hf), *places)]
        yield len(before) + len(hooks)
    finally:
        for hook in hooks:
            hook.remove()
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def _is_attention(module: nn.Module) -> bool:
    """Whether a module computes attention weights itself; BERT's wrapper around one and its output layer do not."""
    return type(module).__name__.endswith("Attention") and any(isinstance(child, nn.Linear) or type(child).__name__ == "Conv1D"
                                                               for child in module.children())


def _embeddings(hf: Any) -> nn.Module:
    return hf.get_input_embeddings()


def _dropping(rate: float) -> Any:
    def drop(module: nn.Module, inputs: Any, output: Any) -> Any:
        del inputs
        if isinstance(output, tuple):
            return (torch.dropout(output[0], rate, module.training), *output[1:])
        return torch.dropout(output, rate, module.training)

    return drop
