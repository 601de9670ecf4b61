"""Harmful words without any list: those that a model tuned on harmful text has learnt to expect more than its base does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairforget.edits import EditRecord
from fairforget.methods._spans.base import Span
from fairforget.methods._spans.ranking import top_words
from fairforget.methods._tuning import tune_lora
from fairforget.models.model import Model
from fairforget.objectives import CrossEntropy
from fairforget.objectives.drift import Reference
from fairforget.scoring import ContinuationRequest, MaskedRequest, Request, Scorer
from fairforget.training import StreamDataset, TextStream, train


class ContrastFinder:
    """Words by r_t = log p_tuned(x_t | context) - log p_base(x_t | context), where the tuned model is a LoRA on the harmful texts.

    Masked models: each token masked by itself. A word's r is the sum over its tokens; the top share of a text's words is taken, or those
    whose r is above a threshold.

    Args:
        model: the base.
        texts: harmful texts to tune on.
        share: of a text's words.
        threshold: of r, nats, in place of the share.
        folder: for checkpoints of the tuning and its factors.
        steps: of the tuning.
        seed: of the tuning.
    """

    def __init__(
        self, model: Model, texts: Sequence[str], *, share: float, folder: Path, threshold: float | None = None, steps: int = 100,
        seed: int = 0,
    ) -> None:
        self.model, self.texts, self.share, self.folder, self.steps, self.seed = model, texts, share, folder, steps, seed
        self.threshold = threshold
        taken = f"{share}" if threshold is None else f"r > {threshold}"
        self.identity = f"contrast {model.base_hash} {taken} {steps} {seed} {len(texts)}"

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """The words of each text that the tuned model expects most beyond the base."""
        encoded = [self.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False) for text in texts]
        rows: list[list[int]] = [list(entry["input_ids"])[: self.model.max_length - 2] for entry in encoded]
        asked = [self._requests(ids) for ids in rows]
        flat = [request for requests in asked for request in requests]
        base = Scorer(self.model).score(flat, "scoring words, base")
        edit = self._tuned()
        with edit.applied(self.model):
            tuned = Scorer(self.model).score(flat, "scoring words, tuned")
        gains = iter([float(gain) for after, before in zip(tuned, base, strict=True) for gain in after - before])
        spans: list[list[Span]] = []
        for text, entry, ids in zip(texts, encoded, rows, strict=True):
            offsets = [(int(start), int(end)) for start, end in entry["offset_mapping"][: len(ids)]]
            spans.append(top_words(text, offsets, [next(gains) for _ in ids], self.share, threshold=self.threshold))
        return spans

    def _requests(self, ids: list[int]) -> list[Request]:
        if not ids:
            return []
        if self.model.family == "causal":
            return [ContinuationRequest(self.model.prefix, tuple(ids))]
        whole = [*self._special[0], *ids, *self._special[1]]
        first = len(self._special[0])
        assert self.model.mask_id is not None
        return [
            MaskedRequest((*whole[:place], self.model.mask_id, *whole[place + 1 :]), (place,), (whole[place],))
            for place in range(first, first + len(ids))
        ]

    @property
    def _special(self) -> tuple[list[int], list[int]]:
        probe = self.model.token_ids("a")
        whole = self.model.sequence_ids("a")
        start = whole.index(probe[0])
        return whole[:start], whole[start + len(probe) :]

    def _tuned(self) -> Any:
        from fairforget.edits import WeightEdit

        kept = self.folder / "edit"
        if (kept / "edit.json").exists():
            return WeightEdit.load(kept)
        stream = TextStream(self.model, self.texts, seed=self.seed)

        def run(reference: Reference) -> dict[str, Any]:
            del reference
            dataset = StreamDataset({"forget": stream}, visits=-(-self.steps * 16 // len(stream)))
            return train(
                self.model, [CrossEntropy(stream="forget")], dataset, steps=self.steps, batch_size=16, learning_rate=5e-4,
                folder=self.folder, seed=self.seed, description="tuning on harmful text, to see what it teaches",
            )

        record = EditRecord.for_model(self.model, "contrast-finder", seed=self.seed)
        edit = tune_lora(self.model, record, run, rank=8, alpha=8.0, dropout=0.0, targets="all-linear")
        edit.save(kept)
        return edit
