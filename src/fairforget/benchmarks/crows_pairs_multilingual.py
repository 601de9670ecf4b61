"""CrowS-Pairs on gender in Japanese and Russian (Kaneko et al. 2022): 262 pairs in each, translated by hand."""

from __future__ import annotations

from typing import ClassVar, Literal

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._pairs import PairBenchmark, PairSettings
from fairforget.settings import Settings


class MultilingualPairSettings(PairSettings):
    """Which language is measured, and how pairs are scored and compared."""

    language: Literal["both", "japanese", "russian"] = "both"
    """`both` gives a task for each language."""


class CrowsPairsMultilingual(PairBenchmark):
    """Share of pairs whose more stereotypical sentence scores higher, and the mean signed margin, by language and direction.

    Scored as ``crows-pairs`` is. The authors' own figures come from all tokens unmasked, weighted by attention (AULA), and are of another
    protocol. A model that was not trained on a language has nothing to say about it.
    """

    name = "crows-pairs-multilingual"
    description = "CrowS-Pairs on gender in Japanese and Russian (Kaneko et al. 2022): 262 pairs in each."
    Settings: ClassVar[type[Settings]] = MultilingualPairSettings
    datasets = ("crows-pairs-multilingual",)

    def items(self, family: str, part: str) -> list[Item]:
        """Pairs of one part."""
        del family
        from fairforget.data.crows_pairs_multilingual import load_crows_pairs_multilingual

        return [
            Item(
                id=str(pair.index),
                task=f"crows-pairs-{pair.language}",
                role="bias",
                part=part,
                cluster=pair.cluster,
                stratum=pair.stratum,
                groups=(f"direction: {pair.direction}",),
                texts=(pair.stereotype, pair.anti_stereotype),
            )
            for pair in load_crows_pairs_multilingual()
            if part in ("all", pair.part) and self.settings.language in ("both", pair.language)
        ]
