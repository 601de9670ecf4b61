"""How far two domains share a representation: whether targets of one side are represented alike across domains."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch.nn import functional

from fairforget.models.model import Model
from fairforget.organisms.language import Domain, Language


def shared_representation(model: Model, language: Language, domains: Sequence[Domain]) -> dict[tuple[str, str], float]:
    """Cosine of targets of the same side of two domains, less that of targets of opposite sides, for each two domains.

    A target is represented by the last layer's state at its place as the subject of a plain sentence ("a {target} from town waits
    often ."), averaged over verbs, the mean over the targets of its domain taken off: what is left is how targets of a domain differ. 0
    where the domains' differences have nothing to do with each other; 1 where the side is represented in one direction for both and nothing
    else is; −1 where in opposite ones.
    """
    states = {domain.name: _states(model, language, domain) for domain in domains}
    found: dict[tuple[str, str], float] = {}
    for one, other in combinations(domains, 2):
        (first, first_side), (second, second_side) = states[one.name], states[other.name]
        cosines = functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T
        same = first_side[:, None] == second_side[None, :]
        found[one.name, other.name] = float(cosines[same].mean() - cosines[~same].mean()) / 2
    return found


def _states(model: Model, language: Language, domain: Domain) -> tuple[torch.Tensor, torch.Tensor]:
    """States (targets, width) less their mean, and sides (targets,)."""
    targets = [(target, group.side) for group in domain.groups.values() for target in group.targets]
    frame = language.neutral_frames[-1][0].replace("{D}", language.adverbs[0])
    rows: list[torch.Tensor] = []
    for target, _ in targets:
        sentences = [frame.replace("{S}", target).replace("{s}", verb) for verb, _ in language.verbs]
        ids = torch.tensor([[*model.prefix, *model.sequence_ids(sentence)] for sentence in sentences], device=model.device)
        with torch.inference_mode():
            states = model.hf(ids, output_hidden_states=True).hidden_states[-1]
        rows.append(states[ids == model.token_ids(target)[-1]].float().mean(dim=0).cpu())
    states = torch.stack(rows)
    return states - states.mean(dim=0), torch.tensor([side for _, side in targets])
