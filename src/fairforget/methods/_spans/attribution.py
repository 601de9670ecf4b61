"""Harmful words by integrated gradients of a classifier's logit: one that the user names, or a probe on the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairforget.errors import FairforgetError, UsageError
from fairforget.methods._spans.base import Span
from fairforget.methods._spans.ranking import top_words
from fairforget.models.model import Model
from fairforget.progress import task
from fairforget.training.streams import Collator

STEPS = 16
"""Points on the path from the empty to the whole input (Sundararajan et al. 2017 take 20 to 300)."""
PROBE_TEXTS = 1000
MAX_LENGTH = 128


class AttributionFinder:
    """Words by integrated gradients of log-odds of harm over the input embeddings (Sundararajan, Taly, Yan 2017), with captum.

    Args:
        tokenizer: with offsets.
        embeddings: the layer whose outputs are attributed to.
        forward: input ids and mask (batch, length) to the logit of harm (batch,).
        baseline_id: token that stands for nothing: the padding or mask.
        share: of a text's words.
        identity: name for the cache.
        device: where the classifier is.
    """

    def __init__(
        self,
        tokenizer: Any,
        embeddings: nn.Module,
        forward: Callable[[Tensor, Tensor], Tensor],
        *,
        baseline_id: int,
        share: float,
        identity: str,
        device: torch.device,
    ) -> None:
        self.tokenizer, self.embeddings, self.forward, self.baseline_id = tokenizer, embeddings, forward, baseline_id
        self.share, self.identity, self.device = share, f"attribution {identity} {share} {STEPS}", device

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """The words of each text that raise the logit most."""
        try:
            from captum.attr import LayerIntegratedGradients
        except ImportError as error:
            raise UsageError("The finder `attribution` needs captum: pip install captum.") from error
        method = LayerIntegratedGradients(self.forward, self.embeddings)
        spans: list[list[Span]] = []
        with task("attributing harm to words", len(texts)) as advance:
            for text in texts:
                entry = self.tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=MAX_LENGTH, verbose=False)
                ids = torch.tensor([entry["input_ids"]], device=self.device)
                offsets = [(int(start), int(end)) for start, end in entry["offset_mapping"]]
                spans.append([])
                if any(end > start for start, end in offsets):
                    special = torch.tensor([[end <= start for start, end in offsets]], device=self.device)
                    baseline = torch.where(special, ids, torch.full_like(ids, self.baseline_id))
                    masks = (torch.ones_like(ids),)
                    with torch.enable_grad():
                        found: Any = method.attribute(
                            ids, baselines=baseline, additional_forward_args=masks, n_steps=STEPS, internal_batch_size=STEPS
                        )
                    scores = found.sum(dim=-1)[0].detach().float().cpu().tolist()
                    spans[-1] = top_words(text, offsets, scores, self.share)
                advance(1)
        return spans


def classifier_finder(ref: str, *, label: str | None, share: float, device: torch.device) -> AttributionFinder:
    """A finder over a sequence classifier, from a folder or the hub.

    Args:
        ref: folder or hub id.
        label: name or number of the harmful class; by default the last one.
        share: of a text's words.
        device: where it runs.

    Raises:
        FairforgetError: it cannot be loaded.
        UsageError: it has no such label.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(ref)
        network: Any = AutoModelForSequenceClassification.from_pretrained(ref, use_safetensors=True).to(device).eval()
    except (OSError, ValueError) as error:
        raise FairforgetError(f"The classifier {ref} cannot be loaded ({str(error).splitlines()[0]}).") from error
    names = {str(name).lower(): int(number) for number, name in network.config.id2label.items()}
    wanted = str(label).lower() if label is not None else None
    if wanted is not None and wanted not in names and wanted not in {str(number) for number in names.values()}:
        raise UsageError(f"The classifier {ref} has no label '{label}'; it has {', '.join(names)}.")
    index = len(names) - 1 if wanted is None else names.get(wanted, int(wanted) if wanted.isdigit() else 0)

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        logits = network(input_ids=ids, attention_mask=mask.expand_as(ids)).logits
        others = [number for number in range(logits.shape[-1]) if number != index]
        return logits[:, index] - torch.logsumexp(logits[:, others], dim=-1) if others else logits[:, 0]

    blank = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else tokenizer.pad_token_id or 0
    return AttributionFinder(
        tokenizer, network.get_input_embeddings(), forward, baseline_id=blank, share=share, identity=f"{ref} {index}", device=device
    )


def probe_finder(model: Model, harmful: Sequence[str], others: Sequence[str], *, share: float, seed: int = 0) -> AttributionFinder:
    """A finder over a logistic probe on the mean of the model's own last hidden states, where no classifier is named.

    Args:
        model: the base.
        harmful: texts labelled so.
        others: texts labelled otherwise; at most ``PROBE_TEXTS`` of each are used.
        share: of a text's words.
        seed: of the draw.
    """
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(seed)
    drawn = [[rows[int(index)] for index in generator.permutation(len(rows))[:PROBE_TEXTS]] for rows in (harmful, others)]
    texts: list[str] = drawn[0] + drawn[1]
    states: list[Tensor] = []
    collator = Collator(model.pad_id)
    with torch.inference_mode(), task("states for a probe", len(texts)) as advance:
        for start in range(0, len(texts), 16):
            batch = collator.batch([{"ids": model.sequence_ids(text)[:MAX_LENGTH] or [model.pad_id]} for text in texts[start : start + 16]])
            states.append(_mean_state(model, batch["ids"].to(model.device), batch["mask"].to(model.device)).float().cpu())
            advance(len(batch["ids"]))
    features = torch.cat(states).numpy()
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    fitted = LogisticRegression(C=0.1, max_iter=1000).fit((features - centre) / spread, [1] * len(drawn[0]) + [0] * len(drawn[1]))
    weight = torch.tensor(fitted.coef_[0] / spread, dtype=torch.float32, device=model.device)

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        return _mean_state(model, ids, mask.expand_as(ids)).float() @ weight  # the intercept has no gradient

    blank = model.mask_id if model.mask_id is not None else model.pad_id
    embeddings = model.hf.get_input_embeddings()
    assert isinstance(embeddings, nn.Module)
    identity = f"probe {model.base_hash} {len(drawn[0])} {len(drawn[1])} {seed}"
    return AttributionFinder(model.tokenizer, embeddings, forward, baseline_id=blank, share=share, identity=identity, device=model.device)


def _mean_state(model: Model, ids: Tensor, mask: Tensor) -> Tensor:
    hidden = model.hidden(ids, mask)
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
