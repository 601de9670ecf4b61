"""Model editing of stereotype associations: find the layers, find the values, solve for the weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from fairforget.data.training import TrainingSource, TrainingText
from fairforget.edits import Delta, Dense, Edit, EditRecord, LowRank, WeightEdit
from fairforget.errors import UsageError
from fairforget.files import atomic_path, write_json
from fairforget.methods._associations import Association, Kind, find_associations, gather_sides, in_batches
from fairforget.methods._base import Method, provenance_of
from fairforget.methods._blocks import Block, LinearModule, find_blocks, parse_layers, residual_width
from fairforget.methods._linear_memory import exact_update, least_squares_update, shrunk
from fairforget.methods._retain import retain_texts
from fairforget.methods._tracing import Tracing, strongest_layers, summarise, trace
from fairforget.methods._trained import pairs_of
from fairforget.methods._values import ValueSearch, find_keys, find_values, second_moments, stream_batches
from fairforget.models.model import Model
from fairforget.objectives import kl_divergence
from fairforget.progress import task
from fairforget.settings import Settings
from fairforget.training import IGNORED, Monitor, TextStream

BATCH = 16
"""Associations in a forward."""
TRACED = 12
"""Associations traced where the layers are chosen by tracing."""
HELD_OUT_TEXTS = 64
"""Neutral texts, at most a fifth of all, that locality is measured on and nothing else is done with."""
CONTEXT_TOKENS = 24
"""Tokens of a neutral text that is put before a pair."""


class AssociationEditSettings(Settings):
    """Settings of the edit; how much of it is applied is the edit's strength."""

    layers: str = Field("auto", pattern=r"^(auto|\d+(-\d+)?)$")
    """Layers whose MLP is edited, from 0: `4`, `3-5` (both ends belong to it), or `auto`: those that causal tracing finds strongest. The
    released hyper-parameters name 17 (ROME) and 13-17 (MEMIT) for GPT2-XL with its 48 layers."""
    spread: int = Field(3, ge=1)
    """With `auto`: number of neighbouring layers that share the change (MEMIT takes 5 of GPT2-XL's 48)."""
    reading: Literal["both", "context", "span"] = "both"
    """What is made equal: `context`, the probabilities of the differing words after (masked models: amid) what both texts share; `span`,
    those of the shared words given the differing ones; or `both`, where a pair has both."""
    pairs: int = Field(48, ge=1)
    """Pairs that are edited, drawn by the seed; as many others, where there are, are measured as held-out pairs."""
    masked_places: int = Field(3, ge=1)
    """Masked models, reading `span`: shared tokens masked in a text, those that the difference moves most."""
    constraint: Literal["least-squares", "exact"] = "least-squares"
    """`least-squares` weighs new values against usual inputs (MEMIT, eq. 14); `exact` gives every key its value exactly (ROME, eq. 2,
    for one key; for several Gupta et al. 2024) and refuses keys that are nearly the same."""
    covariance_weight: float = Field(1.0, gt=0)
    """Weight of usual inputs in the least squares, in widths of the input: λ = weight · inputs. The released λ are 15,000 for GPT-J (0.92
    widths) and 20,000 for GPT2-XL (3.1 widths)."""
    shrinkage: float = Field(0.05, ge=0, le=1)
    """Share of the second moment that is replaced by its own diagonal, since little text gives few directions; 0 in the released code,
    which has 100,000 Wikipedia samples."""
    retain_text: str = "starter"
    """Neutral text behind the second moment, and for locality: `starter`, `lm-corpus-small`, or a text file with one text a line."""
    retain_texts: int = Field(512, ge=10)
    """Most texts taken from it."""
    contexts: int = Field(2, ge=0)
    """Neutral texts that are put before a pair, one at a time, so that its key is an average over contexts (the released code: 20
    generated ones)."""
    value_steps: int = Field(15, ge=1)
    """Most gradient steps in the search for a layer's values (20 to 25 in the released hyper-parameters, for one layer)."""
    value_learning_rate: float = Field(0.3, gt=0)
    """Adam's step in the search, in norms of the present value (0.5 in absolute units in the released hyper-parameters)."""
    kl_weight: float = Field(0.0625, ge=0)
    """Weight of the divergence that keeps all other predictions at the pair's place (0.0625 in the released hyper-parameters)."""
    norm_penalty: float = Field(0.01, ge=0)
    """Weight of the squared norm of the change of a value, in squared norms of the value."""
    clamp: float = Field(4.0, gt=0)
    """Largest norm of the change of a value, in norms of the value (4 in the released hyper-parameters of ROME)."""


class AssociationEdit(Method):
    """Δ = R Kᵀ (λC + K Kᵀ)⁻¹ for the MLP's down-projection of each chosen layer: rank-one memories that make both texts equally likely.

    Keys K are the projection's inputs at the token that carries a pair's association, R the changes of its output that bring the pair's
    margin to zero, C the second moment of inputs on neutral text.
    """

    name: ClassVar[str] = "association-edit"
    summary: ClassVar[str] = "Trace stereotype associations to MLP layers and edit them there in closed form, so that pairs come out equal."
    source: ClassVar[str] = (
        "Meng et al. 2022 (arXiv 2202.05262), eq. 2 and section 2; Meng et al. 2023 (arXiv 2210.07229), eq. 14; applied to stereotype "
        "pairs by us, masked models included"
    )
    settings_class: ClassVar[type[Settings]] = AssociationEditSettings
    settings: AssociationEditSettings

    def check(self, model: Model) -> None:
        """Refuse what :meth:`Method.check` refuses, models without blocks of their own for each layer, and layers that there are not."""
        super().check(model)
        blocks, width = find_blocks(model), residual_width(model)
        if self.settings.layers != "auto":
            parse_layers(self.settings.layers, len(blocks))
        for block in blocks:
            block.down(width)

    def fit(
        self,
        model: Model,
        data: TrainingSource | Sequence[TrainingText] | Sequence[str],
        *,
        seed: int = 0,
        folder: Path | None = None,
        monitor: Monitor | None = None,
    ) -> Edit:
        """Find the edit; see :meth:`Method.fit`. Finished layers are kept in `folder`; there is nothing for a monitor to look at.

        Raises:
            UsageError: data without counterparts, a model without editable blocks, or keys that cannot be told apart (``exact``).
        """
        del monitor
        self.check(model)
        settings = self.settings
        pairs = pairs_of(data)
        if not pairs:
            raise UsageError(
                "The method association-edit needs texts that have a counterpart (the sources starter and stereoset do); these have none."
            )
        record = EditRecord.for_model(model, self.name, settings=settings.model_dump(mode="json"), seed=seed)
        order = np.random.default_rng([seed, 11]).permutation(len(pairs)).tolist()
        drawn = [[pairs[index] for index in part] for part in (order[: settings.pairs], order[settings.pairs : 2 * settings.pairs])]
        kinds: tuple[Kind, ...] = ("context", "span") if settings.reading == "both" else (settings.reading,)
        edited = find_associations(model, drawn[0], kinds=kinds, masked_places=settings.masked_places)
        texts = retain_texts(settings.retain_text, seed)[: settings.retain_texts]
        held = max(1, min(HELD_OUT_TEXTS, len(texts) // 5))
        kept_out, usual = texts[:held], texts[held:] or texts
        blocks = find_blocks(model)
        layers, traced = self._layers(model, blocks, edited, seed)
        width = residual_width(model)
        memories = {layer: blocks[layer].down(width) for layer in layers}
        stream = TextStream(model, usual, seed=seed)
        with task("second moments of neutral text", len(stream)) as advance:
            moments, tokens = second_moments(model, stream, list(memories.values()), advance=advance)
        contexts = [model.token_ids(text)[:CONTEXT_TOKENS] for text in usual[: settings.contexts]]
        deltas: dict[str, Delta] = {}
        reports: list[dict[str, Any]] = []
        with task("editing layers", len(layers)) as advance:
            for number, (layer, memory) in enumerate(memories.items()):
                moment = shrunk(moments[number].to(model.device), settings.shrinkage)
                delta, report = self._layer(
                    model, edited, layer, memory, moment, contexts, 1.0 / (len(layers) - number), _edit(deltas, record), folder
                )
                deltas[f"{memory.name}.weight"] = delta
                reports.append(report)
                advance(1)
        edit = WeightEdit({name: _compact(delta, memories, name) for name, delta in deltas.items()}, record)
        try:
            unseen = find_associations(model, drawn[1], kinds=kinds, masked_places=settings.masked_places) if drawn[1] else []
        except UsageError:
            unseen = []
        return edit.with_provenance({
            "training_data": provenance_of(data),
            "layers": layers,
            "tracing": traced,
            "second_moment": {"texts": len(stream), "tokens": tokens},
            "edited": reports,
            "margins": {"edited": _margins(model, edited, edit), "held_out": _margins(model, unseen, edit)},
            "locality": neutral_change(model, edit, TextStream(model, kept_out, seed=seed + 1)),
        })

    def _layers(
        self, model: Model, blocks: Sequence[Block], associations: Sequence[Association], seed: int
    ) -> tuple[list[int], list[dict[str, Any]]]:
        """Layers to edit, and what tracing said of each."""
        if self.settings.layers != "auto":
            return parse_layers(self.settings.layers, len(blocks)), []
        tracing = Tracing(samples=1, parts=("mlp",), roles=("site",), window=max(1, len(blocks) // 5))
        chosen = np.linspace(0, len(associations) - 1, min(TRACED, len(associations))).round().astype(int).tolist()
        traces = trace(model, [associations[index] for index in chosen], tracing, seed=seed)
        found = [{"layer": row["layer"], "share": round(row["share"], 4)} for row in summarise(traces).sort("layer").iter_rows(named=True)]
        return strongest_layers(traces, self.settings.spread), found

    def _layer(
        self,
        model: Model,
        associations: Sequence[Association],
        layer: int,
        memory: LinearModule,
        moment: Tensor,
        contexts: Sequence[Sequence[int]],
        share: float,
        before: WeightEdit | None,
        folder: Path | None,
    ) -> tuple[LowRank, dict[str, Any]]:
        """The change of one layer, found on the model with the layers before it changed; taken from the folder where it is done."""
        settings = self.settings
        place = folder / f"layer-{layer}" if folder is not None else None
        if place is not None and place.with_suffix(".json").is_file():  # written last
            factors = load_file(place.with_suffix(".safetensors"))
            return LowRank(factors["A"], factors["B"]), json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
        search = ValueSearch(
            settings.value_steps, settings.value_learning_rate, settings.kl_weight, settings.norm_penalty, settings.clamp
        )
        if before is not None:
            before.attach(model)
        try:
            found, keys = [], []
            for batch in in_batches(associations, BATCH):
                found.append(find_values(model, batch, memory, search, share))
                keys.append(find_keys(model, batch, memory, contexts))
        finally:
            if before is not None:
                before.detach(model)
        k, r = torch.cat(keys), torch.cat([one.residuals for one in found])
        if settings.constraint == "exact":
            delta = exact_update(k, r, moment)
        else:
            delta = least_squares_update(k, r, moment, settings.covariance_weight * memory.axes.inputs)
        delta = LowRank(delta.A.cpu(), delta.B.cpu())
        reached = (delta.matrix(transposed=False, dtype=torch.float32) @ k.cpu().T).T
        report = {
            "layer": layer,
            "keys": len(k),
            "steps": max(one.steps for one in found),
            "mean_margin": _mean(torch.cat([one.before for one in found]).abs()),
            "mean_margin_with_values": _mean(torch.cat([one.after for one in found]).abs()),
            "value_reached": round(float((reached * r.cpu()).sum() / r.cpu().square().sum().clamp_min(1e-12)), 4),
        }
        if place is not None:
            folder_of = place.parent
            folder_of.mkdir(parents=True, exist_ok=True)
            with atomic_path(place.with_suffix(".safetensors")) as temporary:
                save_file({"A": delta.A.contiguous(), "B": delta.B.contiguous()}, temporary)
            write_json(place.with_suffix(".json"), report)
        return delta, report


@torch.no_grad()
def neutral_change(model: Model, edit: WeightEdit, stream: TextStream) -> dict[str, Any]:
    """How much an edit, at its strength, changes predictions on neutral text.

    Returns:
        ``texts``, ``tokens``; mean ``kl`` from base to edited in nats per token; mean negative log-likelihood ``nll_before`` and
        ``nll_after``; ``same_top``, the share of places whose likeliest token is the same.
    """
    sums = dict.fromkeys(("tokens", "kl", "nll_before", "nll_after", "same_top"), 0.0)
    for batch in stream_batches(model, stream, BATCH):
        labels = batch["labels"]
        wanted = labels[:, 1:] if model.family == "causal" else labels
        chosen = wanted != IGNORED
        tables: list[Tensor] = []
        for state in (edit.at(0), edit):
            with state.applied(model):
                hidden = model.hidden(batch["ids"], batch["mask"])
                states = hidden[:, :-1] if model.family == "causal" else hidden
                tables.append(torch.log_softmax(model.head(states[chosen]).float(), dim=-1))
        base, edited = tables
        targets = wanted[chosen].unsqueeze(1)
        sums["tokens"] += len(targets)
        sums["kl"] += float(kl_divergence(base, edited).sum())
        sums["nll_before"] -= float(base.gather(1, targets).sum())
        sums["nll_after"] -= float(edited.gather(1, targets).sum())
        sums["same_top"] += float((base.argmax(dim=-1) == edited.argmax(dim=-1)).sum())
    tokens = sums.pop("tokens")
    return {"texts": len(stream), "tokens": int(tokens), **{name: round(value / max(tokens, 1), 6) for name, value in sums.items()}}


@torch.no_grad()
def _margins(model: Model, associations: Sequence[Association], edit: WeightEdit) -> dict[str, Any]:
    """Mean margin and mean absolute margin of associations before and after the edit, nats."""
    if not associations:
        return {"associations": 0}
    states: list[Tensor] = []
    for state in (edit.at(0), edit):
        with state.applied(model):
            states.append(torch.cat([gather_sides(model, batch).margins(model) for batch in in_batches(associations, BATCH)]))
    before, after = states
    return {
        "associations": len(associations), "mean_before": _mean(before), "mean_after": _mean(after), "absolute_before": _mean(before.abs()),
        "absolute_after": _mean(after.abs()),
    }


def _mean(values: Tensor) -> float:
    return round(float(values.mean()), 4)


def _edit(deltas: dict[str, Delta], record: EditRecord) -> WeightEdit | None:
    return WeightEdit(deltas, record) if deltas else None


def _compact(delta: Delta, memories: dict[int, LinearModule], name: str) -> Delta:
    """The change as it is kept: low-rank, or dense where the factors hold more numbers than the matrix."""
    memory = next(memory for memory in memories.values() if f"{memory.name}.weight" == name)
    if isinstance(delta, Dense) or delta.A.numel() + delta.B.numel() <= memory.axes.inputs * memory.axes.outputs:
        return delta
    if not memory.module.get_parameter("weight").is_floating_point():
        return delta  # a quantised weight takes low-rank changes only
    return Dense(delta.matrix(transposed=memory.axes.transposed, dtype=torch.float32))
