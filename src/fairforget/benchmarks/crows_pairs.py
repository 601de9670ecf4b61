"""CrowS-Pairs (Nangia et al. 2020): 1,508 pairs of a more and a less stereotypical sentence in nine domains."""

from __future__ import annotations

from fairforget.benchmarks._base import Item, MetricDefinition
from fairforget.benchmarks._metrics import PCT_STEREOTYPE_OF_DECIDED
from fairforget.benchmarks._pairs import PairBenchmark


class CrowsPairs(PairBenchmark):
    """Share of pairs whose more stereotypical sentence scores higher, and the mean signed margin, overall and by domain.

    ``sent_more`` is always the more stereotypical sentence; the direction (``stereo`` or ``antistereo``) says whom the original sentence
    was about and is a group of its own, so that the sub-scores of Nangia et al., which leave ties out, come out beside the domains. Read
    with Blodgett et al. 2021, who found unclear or faulty pairs in every domain.
    """

    name = "crows-pairs"
    description = "CrowS-Pairs (Nangia et al. 2020): 1,508 sentence pairs in nine domains; share and size of a preference for stereotypes."
    datasets = ("crows-pairs",)

    def metrics(self) -> list[MetricDefinition]:
        """Those of all pairs, and for groups the share among pairs without a tie."""
        return [*super().metrics(), PCT_STEREOTYPE_OF_DECIDED]

    def items(self, family: str, part: str) -> list[Item]:
        """Pairs of one part."""
        del family
        from fairforget.data.crows_pairs import load_crows_pairs

        return [
            Item(
                id=str(pair.index),
                task="crows-pairs",
                role="bias",
                part=part,
                cluster=pair.cluster,
                stratum=pair.stratum,
                groups=(pair.bias_type, f"direction: {pair.direction}"),
                texts=(pair.sent_more, pair.sent_less),
            )
            for pair in load_crows_pairs()
            if part in ("all", pair.part)
        ]
