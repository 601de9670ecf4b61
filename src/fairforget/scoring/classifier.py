"""A text classifier that the user names: texts in, the probability of one label out, each paid for once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fairforget.errors import UsageError, nearest_names
from fairforget.models.hashing import content_hash
from fairforget.progress import task
from fairforget.scoring.planning import batches_by_length, pad
from fairforget.scoring.scorer import CPU_BUDGET, CPU_FORWARD_COST, GPU_BUDGET, GPU_FORWARD_COST
from fairforget.scoring.store import ScoreStore


class TextClassifier:
    """A sequence-classification model of transformers and one of its labels.

    Probabilities are a softmax over labels, or a sigmoid of each where the configuration says ``multi_label_classification`` or there is
    one label (Jigsaw's toxicity labels). Texts longer than the model's positions are cut at their end.

    Args:
        reference: local folder or hub id.
        label: name of the label, in any case; a number serves where names are ``LABEL_0`` and so on.
        setting: what the user wrote the reference in, for messages.
        device: where it runs.

    Raises:
        UsageError: it cannot be loaded, its head was never trained, or it has no such label.
    """

    def __init__(self, reference: str, label: str, setting: str, device: torch.device) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(reference)
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(reference, output_loading_info=True, use_safetensors=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"{setting} = '{reference}' cannot be loaded as a text classifier ({reason}): name a hub id or the folder of a "
                "sequence-classification model of transformers with safetensors."
            ) from error
        model, info = loaded
        if info["missing_keys"]:
            raise UsageError(
                f"{setting} = '{reference}' lacks {', '.join(sorted(info['missing_keys'])[:3])}: its classifier was never trained; name a "
                "model that was trained to classify."
            )
        self._model: Any = model.eval().to(device)
        self._device = device
        names = {str(name).lower(): int(number) for number, name in model.config.id2label.items()}
        wanted = f"label_{label}" if label.isdecimal() and label not in names else label.lower()
        if wanted not in names:
            raise UsageError(f"{setting} = '{reference}' has no label '{label}': {nearest_names(label, names)}")
        self._label = names[wanted]
        self._independent = model.config.problem_type == "multi_label_classification" or len(names) == 1
        self._pad: int = next((one for one in (self._tokenizer.pad_token_id, model.config.pad_token_id) if one is not None), 0)
        self._longest = min(getattr(model.config, "max_position_embeddings", 512), self._tokenizer.model_max_length)
        self._hash = content_hash(model)

    def probabilities(self, texts: Sequence[str], description: str = "classifying", *, store: bool = True) -> NDArray[np.float64]:
        """Probability of the label for each text, (texts,).

        Args:
            texts: what to classify.
            description: what the progress display says.
            store: take probabilities from, and keep them in, the score store.
        """
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        facts = {"kind": "classifier", "weights": self._hash, "device": self._device.type, "independent": str(self._independent)}
        kept = ScoreStore(facts) if store else None
        try:
            found = kept.get(distinct) if kept else {}
            missing = [key for key in distinct if key not in found]
            ids = {key: self._tokenizer(distinct[key], truncation=True, max_length=self._longest)["input_ids"] for key in missing}
            on_cpu = self._device.type == "cpu"
            batches = batches_by_length(
                missing, [len(ids[key]) for key in missing], CPU_BUDGET if on_cpu else GPU_BUDGET,
                CPU_FORWARD_COST if on_cpu else GPU_FORWARD_COST,
            )
            with task(description, len(missing)) as advance, torch.inference_mode():
                for batch in batches:
                    inputs, mask = pad([ids[key] for key in batch], self._pad, self._device)
                    logits = self._model(input_ids=inputs, attention_mask=mask).logits.float()
                    values = torch.sigmoid(logits) if self._independent else torch.softmax(logits, dim=-1)
                    fresh = dict(zip(batch, values.double().cpu().numpy(), strict=True))
                    found.update(fresh)
                    if kept is not None:
                        kept.put(fresh)
                    advance(len(batch))
        finally:
            if kept is not None:
                kept.close()
        return np.array([found[key][self._label] for key in keys], dtype=np.float64)
