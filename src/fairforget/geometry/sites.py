"""Which states count as those of a word, and the output matrix whose rows they are compared with."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from fairforget.errors import UsageError
from fairforget.models.model import Model

Site: TypeAlias = Literal["pre_decoder", "encoder_last"]
"""``pre_decoder``: what the rows of the output matrix are multiplied with, behind the transform of a masked model; ``encoder_last``: what
the body gives. They are the same in causal models."""

Pairing: TypeAlias = Literal["next", "masked", "self"]
"""Which word a state stands for: the next token, the one to be predicted at its place, or the one that stands at its place."""

IGNORED = -100


def output_layer(model: Model) -> Any:
    """The layer that turns states into logits, a row of its weight per word.

    Raises:
        UsageError: the model has none that can be told.
    """
    layer: nn.Module | None = model.hf.get_output_embeddings()
    if layer is None or not isinstance(getattr(layer, "weight", None), Tensor):
        raise UsageError(f"The output matrix of {model.name} cannot be found, so its words have no geometry that could be measured.")
    return layer


def output_matrix(model: Model) -> Tensor:
    """The weight of that layer, (vocabulary, width), as a parameter."""
    return output_layer(model).weight


def decoder_inputs(model: Model, states: Tensor) -> Tensor:
    """What the output matrix is multiplied with, for states of the body.

    The model's own head runs with its last layer replaced, so that the transform between is the model's own code.

    Args:
        model: the model.
        states: (n, width) of the body.

    Returns:
        (n, width of the output matrix).
    """
    layer = output_layer(model)
    held: list[Tensor] = []

    def hold(inputs: Tensor, *_: Any, **__: Any) -> Tensor:
        held.append(inputs)
        return inputs.new_zeros((*inputs.shape[:-1], 1))

    wrapped = vars(layer).get("forward")  # accelerate puts its own there
    layer.forward = hold
    try:
        model.head(states)
    finally:
        if wrapped is None:
            del layer.forward
        else:
            layer.forward = wrapped
    return held[-1].reshape(states.shape[0], -1)


def states_at(model: Model, states: Tensor, site: Site) -> Tensor:
    """Chosen states of the body (n, width), as they are at a site.

    Raises:
        UsageError: states and output matrix are of different width there, so that no angle lies between them.
    """
    found = decoder_inputs(model, states) if site == "pre_decoder" else states
    width = output_matrix(model).shape[1]
    if found.shape[-1] != width:
        raise UsageError(f"The states of {model.name} at the site {site} have {found.shape[-1]} dimensions and its output matrix {width}: "
                         "use site=pre_decoder.")
    return found


def tokens_to_pair(model: Model, pairing: str) -> Pairing:
    """The pairing that a name stands for; ``auto`` is the one in which the states are multiplied with the word's row in use.

    Raises:
        UsageError: a causal model, which predicts no token at its own place, is asked for masked pairing.
    """
    if pairing == "masked" and model.family == "causal":
        raise UsageError(f"{model.name} is a causal model and predicts no masked token: use pairing=next.")
    if pairing == "auto":
        return "next" if model.family == "causal" else "masked"
    return pairing  # type: ignore[return-value]


def paired_tokens(ids: Tensor, mask: Tensor, labels: Tensor | None, pairing: Pairing) -> Tensor:
    """The token that each state stands for.

    Args:
        ids: int64 (batch, length).
        mask: int64 (batch, length), 1 where a token is.
        labels: int64 (batch, length), the token to be predicted at a place and -100 elsewhere; for masked pairing.
        pairing: see :data:`Pairing`.

    Returns:
        int64 (batch, length); -100 where a state stands for none.
    """
    if pairing == "masked":
        return torch.full_like(ids, IGNORED) if labels is None else labels
    shown = ids.masked_fill(mask == 0, IGNORED)
    return shown if pairing == "self" else torch.nn.functional.pad(shown[:, 1:], (0, 1), value=IGNORED)
