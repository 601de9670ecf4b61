"""Streams of training text: tokenised once, masked afresh at every visit by a seed of its own, collated by stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fairforget.errors import UsageError
from fairforget.models.model import Model
from fairforget.scoring.alignment import changed_positions, shared_positions
from fairforget.training.objective import IGNORED, Batch

Row: TypeAlias = dict[str, list[int]]
"""Fields of one row; at least ``ids``."""


class Stream(Protocol):
    """Rows that a loss term is computed on. A row is a function of its number and visit alone, so that a resumed run sees the same ones."""

    def __len__(self) -> int: ...

    def example(self, index: int, visit: int) -> Row:
        """Fields of a row at its n-th visit; numbers past the end start over."""
        ...


class TextStream:
    """Texts of one stream as token ids.

    Args:
        model: whose tokenizer and family decide ids and labels.
        texts: one text a row.
        max_length: longer texts are cut on the right.
        masking_rate: share of tokens predicted at each visit (masked models); at least one.
        seed: masks are a function of (seed, row, visit) alone, so that a resumed run sees the same ones.

    Raises:
        UsageError: there is no text that holds a token to predict.
    """

    def __init__(self, model: Model, texts: Sequence[str], *, max_length: int = 128, masking_rate: float = 0.15, seed: int = 0) -> None:
        self.model, self.masking_rate, self.seed = model, masking_rate, seed
        limit = min(max_length, model.max_length)
        rows = [model.sequence_ids(text) for text in texts]
        if model.family == "causal":
            rows = [[*model.prefix, *row][:limit] for row in rows]
        else:
            rows = [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in rows]
        self.rows = [row for row in rows if len(row) > (1 if model.family == "causal" else 2)]
        if not self.rows:
            raise UsageError("The training data hold no text to learn from: every row is empty after tokenising.")

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int, visit: int) -> Row:
        """``ids`` and ``labels`` of a row at its n-th visit."""
        row = self.rows[index % len(self.rows)]
        if self.model.family == "causal":
            first = len(self.model.prefix) or 1  # a first token without prefix has no distribution to learn
            return {"ids": row, "labels": [IGNORED] * first + row[first:]}
        return self._masked(row, np.random.default_rng([self.seed, index, visit]))

    def _masked(self, row: list[int], generator: np.random.Generator) -> Row:
        """BERT's corruption (Devlin et al. 2019): of the chosen places 80 % become the mask, 10 % a random id, 10 % stay."""
        assert self.model.mask_id is not None
        inner = np.arange(1, len(row) - 1)
        chosen = generator.choice(inner, max(1, round(len(inner) * self.masking_rate)), replace=False)
        ids, labels = list(row), [IGNORED] * len(row)
        for place in chosen.tolist():
            labels[place] = row[place]
            kind = generator.random()
            if kind < 0.8:
                ids[place] = self.model.mask_id
            elif kind < 0.9:
                ids[place] = int(generator.integers(len(self.model.tokenizer)))
        return {"ids": ids, "labels": labels}


class AnswerStream:
    """Prompts with the answer that follows each; the loss is on the answer alone.

    Token ids are cut as they are where the answer is scored: prompt and answer are tokenised as one text, and white space at the prompt's
    end goes to the answer. In masked models all tokens of the answer hold the mask at once.

    Args:
        model: whose tokenizer and family decide ids and labels.
        rows: prompt and answer; the answer as it follows the prompt, with the white space between them.
        max_length: rows with more tokens are left out, since a cut could take the question away from the answer.

    Attributes:
        left_out: rows that are too long, or whose answer has no token.

    Raises:
        UsageError: no row is left.
    """

    def __init__(self, model: Model, rows: Sequence[tuple[str, str]], *, max_length: int = 512) -> None:
        limit = min(max_length, model.max_length)
        self.rows: list[Row] = []
        for prompt, answer in rows:
            row = answer_row(model, prompt, answer)
            if row is not None and len(row["ids"]) <= limit:
                self.rows.append(row)
        self.left_out = len(rows) - len(self.rows)
        if not self.rows:
            raise UsageError(f"None of the {len(rows)} training questions can be used: each needs an answer, and at most {limit} tokens.")

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int, visit: int) -> Row:
        """``ids`` and ``labels`` of a row, the same at every visit."""
        del visit
        return self.rows[index % len(self.rows)]


def answer_row(model: Model, prompt: str, answer: str) -> Row | None:
    """A prompt and its answer as ids, the answer's as labels; None where the answer has no token that can be predicted."""
    before, after = model.join_ids(prompt, answer) if prompt else ([], model.token_ids(answer))
    if model.family == "causal":
        before = [*model.prefix, *before]
        return {"ids": [*before, *after], "labels": [IGNORED] * len(before) + after} if before and after else None
    start, end = model.enclosing_ids()
    assert model.mask_id is not None
    ids = [*start, *before, *([model.mask_id] * len(after)), *end]
    labels = [*([IGNORED] * (len(start) + len(before))), *after, *([IGNORED] * len(end))]
    return {"ids": ids, "labels": labels} if after else None


class PairStream:
    """Pairs of a stereotype and its counterpart: fields ``ids``, ``labels`` and, of the counterpart, ``other_ids``, ``other_labels``.

    With the scope ``answer`` the labels are the tokens in which the two differ. With ``sentence`` they are, for causal models, all
    tokens; for masked models a random share of the tokens that both have, at the same places in both, so that the difference of the two
    sums estimates the margin of the shared pseudo-log-likelihood (Nangia et al. 2020). Labelled places of masked models hold the mask.

    Args:
        model: whose tokenizer and family decide ids and labels.
        pairs: stereotype and counterpart.
        scope: what is labelled.
        max_length: pairs with a longer side are left out, since a cut could fall on the difference.
        masking_rate: masked models, scope ``sentence``: share of the shared tokens labelled at each visit; at least one.
        seed: masks are a function of (seed, row, visit) alone.

    Attributes:
        left_out: pairs that are too long, or have a side on which no token differs (scope ``answer``) or none is shared.

    Raises:
        UsageError: no pair is left.
    """

    def __init__(
        self,
        model: Model,
        pairs: Sequence[tuple[str, str]],
        *,
        scope: Literal["answer", "sentence"] = "answer",
        max_length: int = 128,
        masking_rate: float = 0.15,
        seed: int = 0,
    ) -> None:
        self.model, self.scope, self.masking_rate, self.seed = model, scope, masking_rate, seed
        limit = min(max_length, model.max_length)
        self.rows: list[tuple[list[int], list[int]]] = []
        self.chosen: list[tuple[list[int], list[int]]] = []
        for pair in pairs:
            first, second = (self._ids(text) for text in pair)
            choose = shared_positions if scope == "sentence" and model.family == "masked" else changed_positions
            places = choose(first, second)
            whole = scope == "sentence" and model.family == "causal"  # all tokens are labelled, so a mere insertion will do
            if max(len(first), len(second)) <= limit and (first != second if whole else all(places)):
                self.rows.append((first, second))
                self.chosen.append(places)
        self.left_out = len(pairs) - len(self.rows)
        if not self.rows:
            raise UsageError(f"None of the {len(pairs)} training pairs can be compared: each needs two texts that differ in some token, "
                             f"of at most {limit} tokens.")

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int, visit: int) -> Row:
        """Both sides of a pair at its n-th visit."""
        index %= len(self.rows)
        (first, second), (places, others) = self.rows[index], self.chosen[index]
        if self.model.family == "causal":
            start = len(self.model.prefix) or 1
            if self.scope == "sentence":
                places, others = list(range(start, len(first))), list(range(start, len(second)))
            sides = [_labelled(ids, chosen, start, None) for ids, chosen in ((first, places), (second, others))]
        else:
            if self.scope == "sentence":
                generator = np.random.default_rng([self.seed, index, visit])
                drawn = generator.choice(len(places), max(1, round(len(places) * self.masking_rate)), replace=False).tolist()
                places, others = [places[number] for number in drawn], [others[number] for number in drawn]
            sides = [_labelled(ids, chosen, 0, self.model.mask_id) for ids, chosen in ((first, places), (second, others))]
        return {"ids": sides[0][0], "labels": sides[0][1], "other_ids": sides[1][0], "other_labels": sides[1][1]}

    def _ids(self, text: str) -> list[int]:
        ids = self.model.sequence_ids(text)
        return [*self.model.prefix, *ids] if self.model.family == "causal" else ids


def _labelled(ids: list[int], places: Sequence[int], start: int, mask_id: int | None) -> tuple[list[int], list[int]]:
    """Ids with the mask at labelled places (where there is one), and labels; places before `start` cannot be predicted."""
    shown, labels = list(ids), [IGNORED] * len(ids)
    for place in places:
        if place >= start:
            labels[place] = ids[place]
            shown[place] = ids[place] if mask_id is None else mask_id
    return shown, labels


class StreamDataset(Dataset[dict[str, Row]]):
    """Rows of several streams side by side; its length is that of the first stream, shorter others start over.

    Args:
        streams: by name, the leading one first.
        visits: how often the leading stream is gone through; each visit has masks of its own.
    """

    def __init__(self, streams: Mapping[str, Stream], visits: int = 1) -> None:
        self.streams, self.visits = dict(streams), visits
        self.rows = len(next(iter(streams.values())))

    def __len__(self) -> int:
        return self.rows * self.visits

    def __getitem__(self, index: int) -> dict[str, Row]:
        visit, row = divmod(index, self.rows)
        return {name: stream.example(row, visit) for name, stream in self.streams.items()}


class Collator:
    """Pads each stream of a batch on the right.

    Args:
        pad_id: id of padding.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, examples: Sequence[Mapping[str, Row]]) -> dict[str, Batch]:
        """Fields of every stream, (batch, longest row), and a mask for each field of ids."""
        return {name: self.batch([example[name] for example in examples]) for name in examples[0]}

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Pad the rows of one stream."""
        batch: Batch = {}
        for field in rows[0]:
            values = [row[field] for row in rows]
            if field.endswith("ids"):
                batch[field] = _padded(values, self.pad_id)
                batch[field.removesuffix("ids") + "mask"] = _padded([[1] * len(row) for row in values], 0)
            else:
                batch[field] = _padded(values, IGNORED)
        return batch


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *([value] * (width - len(row)))] for row in rows], dtype=torch.long)
