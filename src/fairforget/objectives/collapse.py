"""(U)NC3 as a term: the rows of chosen words in the output matrix should lie alike to the mean states that call for these words."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fairforget.errors import UsageError
from fairforget.geometry.sites import Site, output_matrix, paired_tokens, states_at, tokens_to_pair
from fairforget.models.hidden_sites import hidden_site, states_of
from fairforget.models.model import HeadInput, Model
from fairforget.training.objective import Batch, Objective, Role

Receiver = Literal["weights", "features", "both"]


def spread_of_duality(rows: Tensor, means: Tensor) -> Tensor:
    """std_c cos(w_c, μ_c - m), Bessel-corrected, m the mean of the μ_c: (K, d) and (K, d) to a scalar; 0 for fewer than two words."""
    centred = means - means.mean(dim=0)
    defined = (centred.norm(dim=1) > 0) & (rows.norm(dim=1) > 0)
    cosines = torch.nn.functional.cosine_similarity(rows[defined], centred[defined], dim=1)
    if len(cosines) < 2:
        return (rows * 0).sum() + (means * 0).sum()
    return cosines.var().clamp(min=1e-16).sqrt()  # the root has no slope at 0


class Collapse(Objective):
    """λ · std over words c of cos(w_c, μ_c - m): (U)NC3 (Xu et al. 2025, arXiv 2410.04472; released code).

    w_c is the word's row of the output matrix, μ_c the running mean of the states that call for it, m the unweighted mean of the μ_c of
    the words seen so far. Within a training step the states are those that the step's other terms computed on the same rows, and the
    means go on; outside of one nothing is remembered. Computed in float32 under autocast. Class sums are added up over processes.

    Args:
        words: token ids.
        weight: λ.
        stream: rows whose states are looked at; each of their fields of ids is.
        gradient: who is moved: `weights`, the rows w_c alone (released code, which detaches the means); `features`, the states of the batch
            alone; `both`.
        reset: when running means start anew: `never` (released code of MABEL, BEC and ASE), `epoch`, at each pass over the leading stream
            (that of ADEPT), or a number β: moving averages β μ + (1 - β) of a batch's mean, for the words in it.
        pairing: which word a state calls for: `next` (causal models), `masked`, the labelled tokens of a masked model, or `self`, the token
            at the place, which `auto` takes where a masked model's rows have no labels. The released code takes `next` for masked models.
        site: where the states are taken; the released code takes ``encoder_last``, before the masked model's transform.

    Raises:
        UsageError: fewer than two words, or β outside of 0 to 1.
    """

    role: ClassVar[Role] = "regularize"

    def __init__(
        self,
        words: Sequence[int],
        weight: float = 100.0,
        stream: str = "forget",
        *,
        gradient: Receiver = "weights",
        reset: Literal["never", "epoch"] | float = "never",
        pairing: str = "auto",
        site: Site = "pre_decoder",
    ) -> None:
        super().__init__(weight, stream)
        if len(set(words)) < 2:
            raise UsageError("(U)NC3 is a spread over words, and needs two at least.")
        if isinstance(reset, float | int) and not 0 <= reset < 1:
            raise UsageError(f"The moving average of (U)NC3 has the factor {reset}: it must be from 0 to below 1.")
        self.words = torch.tensor(sorted(set(words)))
        self.gradient: Receiver = gradient
        self.reset, self.pairing = reset, pairing
        self.site: Site = site
        self.class_of = self.counts = self.means = self.ever = torch.empty(0)
        self._shared: list[tuple[Tensor, Tensor]] | None = None

    @property
    def seen(self) -> int:
        """Words that a state of the training called for at least once; with fewer than two the term was 0 all along."""
        return int(self.ever.sum())

    def prepare(self, model: Model) -> None:
        """Make room for the means."""
        tokens_to_pair(model, self.pairing)
        matrix = output_matrix(model)
        self.words = self.words.to(matrix.device)
        self.class_of = torch.full((matrix.shape[0],), -1, device=matrix.device)
        self.class_of[self.words] = torch.arange(len(self.words), device=matrix.device)
        self.ever = torch.zeros(len(self.words), dtype=torch.bool, device=matrix.device)
        self._clear(matrix)

    def begin_pass(self, model: Model, number: int) -> None:
        """Forget the means, where they are those of one pass."""
        if number and self.reset == "epoch":
            self._clear(output_matrix(model))

    @contextlib.contextmanager
    def step(self, model: Model) -> Generator[None]:
        """While a step's terms are computed: hold the states that the others compute, and let the means go on."""
        shared = self._shared = []

        def hold(_: nn.Module, __: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            if torch.is_grad_enabled() and not isinstance(output, HeadInput) and "input_ids" in named:
                shared.append((named["input_ids"], states_of(output)))

        handle = hidden_site(model, "final").register_forward_hook(hold, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            self._shared = None

    def state(self) -> Mapping[str, Tensor]:
        """Counts, means and which words were ever seen."""
        return {"counts": self.counts, "means": self.means, "ever": self.ever}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take counts and means back."""
        if state:
            self.counts, self.means, self.ever = (state[name].to(self.words.device) for name in ("counts", "means", "ever"))

    def count(self, batch: Batch) -> int:
        """One: the batch is the unit."""
        del batch
        return 1

    def sum(self, model: Model, batch: Batch) -> Tensor:
        """The spread, with this batch's states in the means; 0 while fewer than two words were seen."""
        matrix = output_matrix(model)
        with torch.autocast(matrix.device.type, enabled=False):
            states, classes = self._states(model, batch)
            member = (torch.arange(len(self.words), device=classes.device).unsqueeze(1) == classes).to(self.means.dtype)
            own, sums = member.sum(dim=1), member @ states
            counts, sums = self._over_processes(own, sums) if self._shared is not None else (own, sums)
            means = self._moved(counts, sums)
            total = self.counts + counts
            if self._shared is not None:
                self.counts, self.means = total, means.detach()
                self.ever |= total > 0
            seen = total > 0
            rows = matrix[self.words[seen]].to(means.dtype)
            if self.gradient == "features":
                rows = rows.detach()
            # states * 0: a batch without a listed word has no path to the states, and must not look as if none could be had
            return spread_of_duality(rows, means[seen]) + (states * 0).sum()

    def _states(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """States (n, d) that call for a listed word, and which word (n,)."""
        found: list[Tensor] = []
        classes: list[Tensor] = []
        for field in [name for name in batch if name.endswith("ids")]:
            stem = field.removesuffix("ids")
            ids, mask, labels = batch[field], batch[f"{stem}mask"], batch.get(f"{stem}labels")
            unlabelled = self.pairing == "auto" and model.family == "masked" and labels is None
            pairing = tokens_to_pair(model, "self" if unlabelled else self.pairing)
            words = paired_tokens(ids, mask, labels, pairing)
            classes_here = torch.where(words >= 0, self.class_of[words.clamp(min=0)], -1)
            chosen = classes_here >= 0
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient != "weights"):
                hidden = self._hidden(model, ids, mask)[chosen].to(model.dtype)
                states = states_at(model, hidden, self.site) if len(hidden) else self._none(hidden)
                found.append(states.to(self.means.dtype))
            classes.append(classes_here[chosen])
        states = torch.cat(found)
        return states.detach() if self.gradient == "weights" else states, torch.cat(classes)

    def _hidden(self, model: Model, ids: Tensor, mask: Tensor) -> Tensor:
        for known, states in self._shared or ():
            if known is ids:
                return states
        return model.hidden(ids, mask)

    def _none(self, hidden: Tensor) -> Tensor:
        """No state, (0, width of the output matrix), still tied to the body."""
        return hidden.new_zeros((0, self.means.shape[1])) + hidden.sum()

    def _moved(self, counts: Tensor, sums: Tensor) -> Tensor:
        """The running means after a batch; words that are not in it keep theirs."""
        here = (counts > 0).unsqueeze(1)
        batch = sums / counts.clamp(min=1).unsqueeze(1)
        if isinstance(self.reset, str):
            before = self.counts.unsqueeze(1)
            new = (before * self.means + sums) / (before + counts.unsqueeze(1)).clamp(min=1)
        else:
            new = torch.where(self.counts.unsqueeze(1) > 0, self.reset * self.means + (1 - self.reset) * batch, batch)
        return torch.where(here, new, self.means)

    def _over_processes(self, counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Counts and sums over all processes; the slope goes to the own states, times their number, since gradients are averaged."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return counts, sums
        whole_counts, whole_sums = counts.clone(), sums.detach().clone()
        distributed.all_reduce(whole_counts)
        distributed.all_reduce(whole_sums)
        return whole_counts, whole_sums + distributed.get_world_size() * (sums - sums.detach())

    def _clear(self, matrix: Tensor) -> None:
        kind = torch.promote_types(matrix.dtype, torch.float32)
        self.counts = torch.zeros(len(self.words), dtype=kind, device=matrix.device)
        self.means = torch.zeros((len(self.words), matrix.shape[1]), dtype=kind, device=matrix.device)
