"""Auto-Debias: search the prompts after which two groups' words are continued most differently, and even these out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from fairforget.data.words import find_word_list, stereotype_words
from fairforget.errors import UsageError
from fairforget.files import write_json
from fairforget.methods._retain import CORPUS, retain_texts
from fairforget.methods._spans.lexicon import read_lexicon
from fairforget.methods._trained import Job, TrainedMethod, TrainedSettings
from fairforget.models.model import Model
from fairforget.objectives.drift import Reference
from fairforget.objectives.fairness import jensen_shannon
from fairforget.objectives.likelihood import label_logits, other_side
from fairforget.objectives.prompts import PromptDivergence, PromptStream
from fairforget.progress import task
from fairforget.settings import Settings
from fairforget.training import Objective, Stream
from fairforget.training.streams import Collator

SEARCH_ROWS = 128
"""Prompts in one forward of the search."""


class AutoDebiasSettings(TrainedSettings):
    """Settings of Auto-Debias."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW, for LoRA (ours); the released code tunes all weights with 5e-6."""
    batch_size: int = Field(32, ge=1)
    """Prompts in an optimiser step (released code)."""
    words: str = "gender"
    """Words of the groups: a list of this package (gender, race, religion, nationality) or a file; its first two groups are compared."""
    stereotypes: str = "package"
    """Words whose probabilities the search compares: `package`, our list, or a text file, one a line; those of one token are used."""
    prompts: str | None = None
    """Text file of prompts, one a line, in place of a search."""
    vocabulary: int = Field(100, ge=1)
    """Words that prompts are made of: the most frequent of the neutral corpus (released code: 5,000, for a GPU)."""
    beam: int = Field(5, ge=1)
    """Prompts kept of each length (released code: 100)."""
    longest: int = Field(2, ge=1, le=10)
    """Words of the longest prompt (released code: 5)."""
    search_pairs: int = Field(4, ge=1)
    """Pairs of group words that the search averages over (released code: 30 for gender, 10 for race)."""
    reverse_kl: bool = False
    """The released code's loss, ½ Σ KL(m ‖ p_i), in place of the Jensen-Shannon divergence."""


class AutoDebias(TrainedMethod):
    """L = mean over prompts and word pairs of JS(p(· | w₁ prompt) ‖ p(· | w₂ prompt)) over the whole vocabulary."""

    name: ClassVar[str] = "auto-debias"
    summary: ClassVar[str] = "Search prompts that two groups' words are continued most differently after, and even these out."
    source: ClassVar[str] = "Guo, Yang, Abbasi 2022 (ACL, Auto-Debias), eq. 1 and 2, algorithm 1; code Irenehere/Auto-Debias"
    settings_class: ClassVar[type[Settings]] = AutoDebiasSettings
    settings: AutoDebiasSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """Every prompt after every pair of words."""
        pairs = self._pairs()
        prompts = self._prompts(job, pairs[: self.settings.search_pairs])
        job.notes["prompts"] = {"number": len(prompts), "pairs": len(pairs)}
        return {"forget": PromptStream(job.model, [(first, second, prompt) for prompt in prompts for first, second in pairs])}

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """The divergence."""
        del job, reference
        return [PromptDivergence(stream="forget", reverse_kl=self.settings.reverse_kl)]

    def _pairs(self) -> list[tuple[str, str]]:
        words = find_word_list(self.settings.words)
        pronouns = [("he", "she")] if words.pronouns else []
        return [*pronouns, *dict.fromkeys((row[0], row[1]) for row in words.rows)]

    def _prompts(self, job: Job, pairs: Sequence[tuple[str, str]]) -> list[str]:
        settings = self.settings
        if settings.prompts is not None:
            return [line.strip() for line in read_lexicon(Path(settings.prompts)) if line.strip()]
        kept = job.folder / "prompts.json"
        if kept.is_file():
            return json.loads(kept.read_text(encoding="utf-8"))
        listed = stereotype_words() if settings.stereotypes == "package" else read_lexicon(Path(settings.stereotypes))
        targets = single_tokens(job.model, listed)
        words = frequent_words(retain_texts(CORPUS, job.seed), {*listed, *(word for pair in pairs for word in pair)}, settings.vocabulary)
        found: list[str] = []
        beam = [""]
        for _ in range(settings.longest):
            candidates = [f"{start} {word}".strip() for start in beam for word in words]
            scores = prompt_scores(job.model, candidates, pairs, targets)
            best = sorted(range(len(candidates)), key=lambda index: -scores[index])[: settings.beam]
            beam = [candidates[index] for index in best]
            found += beam
        job.folder.mkdir(parents=True, exist_ok=True)
        write_json(kept, found)
        return found


def prompt_scores(model: Model, prompts: Sequence[str], pairs: Sequence[tuple[str, str]], targets: Sequence[int]) -> list[float]:
    """Mean over word pairs of the Jensen-Shannon divergence of the two continuations, restricted to some tokens and renormalised.

    Args:
        model: the base.
        prompts: to be scored.
        pairs: words put before them.
        targets: token ids that are compared.
    """
    stream = PromptStream(model, [(first, second, prompt) for prompt in prompts for first, second in pairs])
    collator, found, chosen = Collator(model.pad_id), list[float](), torch.tensor(targets, device=model.device)
    with torch.inference_mode(), task("searching prompts", len(stream)) as advance:
        for start in range(0, len(stream), SEARCH_ROWS):
            rows = [stream.example(row, 0) for row in range(start, min(start + SEARCH_ROWS, len(stream)))]
            batch = {name: tensor.to(model.device) for name, tensor in collator.batch(rows).items()}
            sides = [torch.log_softmax(label_logits(model, side)[0][:, chosen], dim=-1) for side in (batch, other_side(batch))]
            found += jensen_shannon(sides[0], sides[1]).tolist()
            advance(len(rows))
    return [sum(found[start : start + len(pairs)]) / len(pairs) for start in range(0, len(found), len(pairs))]


def single_tokens(model: Model, words: Sequence[str]) -> list[int]:
    """Ids of the words that are one token within a text.

    Raises:
        UsageError: there are fewer than two.
    """
    found: list[int] = []
    for word in words:
        ids = model.join_ids("the", f" {word}")[1]
        if len(ids) == 1:
            found.append(ids[0])
    found = list(dict.fromkeys(found))
    if len(found) < 2:
        raise UsageError(f"stereotypes: {len(found)} of {len(words)} words are single tokens of {model.name}; two or more are needed.")
    return found


def frequent_words(texts: Sequence[str], without: set[str], most: int) -> list[str]:
    """The most frequent words of some texts, small letters only, most frequent first."""
    counts = Counter(word for text in texts for word in re.findall(r"(?<!\w)[a-z]{2,}(?!\w)", text))
    return [word for word, _ in counts.most_common(most + len(without)) if word not in without][:most]
