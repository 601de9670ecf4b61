"""MABEL's term: sentences that follow from each other found again among others, alike with genders swapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fairforget.models.model import Model
from fairforget.training.objective import Batch, Objective, Role
from fairforget.training.streams import Row

FIELDS = ("ids", "other_ids", "swapped_ids", "swapped_other_ids")


class QuadrupleStream:
    """Rows of a sentence, one that goes with it, and both with groups exchanged.

    Args:
        model: whose tokenizer makes the ids.
        quadruples: the four texts.
        max_length: tokens kept of each.
    """

    def __init__(self, model: Model, quadruples: Sequence[tuple[str, str, str, str]], *, max_length: int = 128) -> None:
        limit = min(max_length, model.max_length)
        prefix = list(model.prefix) if model.family == "causal" else []
        self.rows = [[[*prefix, *model.sequence_ids(text)][:limit] for text in texts] for texts in quadruples]

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int, visit: int) -> Row:
        """The ids of all four."""
        del visit
        return dict(zip(FIELDS, self.rows[index % len(self.rows)], strict=True))


class EntailmentAlignment(Objective):
    """L_CL + a · L_AL over the batch's n pairs (p, h) and their swaps (p̂, ĥ) (MABEL; He et al. 2022, arXiv 2210.14975, eq. 1 and 2).

    L_CL = mean over the 2n pairs of -log softmax_j cos(z_p, z_h_j) / τ at its own h; L_AL = mean_i Σ_j (s_ij - ŝ_ij)², s and ŝ the n x n
    similarities over τ of originals and swaps. z = W₂ tanh(W₁ h), trained with the model and thrown away; h is the state at the first
    token (masked models) or at the last (causal ones). Rows are compared with each other, hence one batch a step.

    Args:
        weight: factor of the term.
        stream: a :class:`QuadrupleStream`.
        temperature: τ.
        align: a.
    """

    role: ClassVar[Role] = "forget"
    in_batch = True

    def __init__(self, weight: float = 1.0, stream: str = "forget", *, temperature: float = 0.05, align: float = 0.05) -> None:
        super().__init__(weight, stream)
        self.temperature, self.align = temperature, align

    def prepare(self, model: Model) -> None:
        """Make the projection, from the seed that was set."""
        width = int(model.hf.config.get_text_config().hidden_size)
        self.module = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)).to(model.device)

    def count(self, batch: Batch) -> int:
        """Number of pairs."""
        return len(batch["ids"])

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """The batch's loss times its pairs."""
        states = [self._projected(model, batch[name], batch[name.removesuffix("ids") + "mask"]) for name in FIELDS]
        return alignment_loss(states[0], states[1], states[2], states[3], self.temperature, self.align) * len(batch["ids"])

    def _projected(self, model: Model, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = model.hidden(ids, mask)
        places = mask.sum(dim=1) - 1 if model.family == "causal" else torch.zeros_like(mask[:, 0])
        assert self.module is not None
        return self.module(hidden[torch.arange(len(ids), device=ids.device), places].float())


def alignment_loss(
    first: Tensor, second: Tensor, first_swapped: Tensor, second_swapped: Tensor, temperature: float, align: float
) -> Tensor:
    """L_CL + align · L_AL of four (n, width) tables; see :class:`EntailmentAlignment`."""

    def similarity(left: Tensor, right: Tensor) -> Tensor:
        normal = torch.nn.functional.normalize
        return normal(left, dim=-1) @ normal(right, dim=-1).T / temperature

    contrast = similarity(torch.cat([first, first_swapped]), torch.cat([second, second_swapped]))
    found = torch.nn.functional.cross_entropy(contrast, torch.arange(len(contrast), device=contrast.device))
    apart = similarity(first, second) - similarity(first_swapped, second_swapped)
    return found + align * apart.square().sum(dim=1).mean()
