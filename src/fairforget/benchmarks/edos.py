"""EDOS (Kirk et al. 2023): how likely sexist posts are to a model, by category, beside posts that are not sexist."""

from __future__ import annotations

import polars as pl

from fairforget.benchmarks._base import Item, MetricDefinition
from fairforget.benchmarks._contrast import LikelihoodBenchmark, likelihood_metrics, superiority

NOT_SEXIST = "not sexist"


class Edos(LikelihoodBenchmark):
    """Likelihood per token of sexist and of other posts, and how the two samples lie to each other.

    Posts are not paired: what differs between the samples in topic and style is in the figures too, so that a state of a model means
    little by itself and a change between two states is what to look at. Parts are upstream's: dev selects, test reports; the train split
    is a training source, and a post of the others that stands in it too is left out. A group is a category of sexism against all posts
    that are not sexist.
    """

    name = "edos"
    description = "EDOS (Kirk et al. 2023): likelihood of sexist posts, by category, beside posts that are not."
    datasets = ("edos",)

    def items(self, family: str, part: str) -> list[Item]:
        """Posts of one part; ``all`` is dev and test, as train is never measured."""
        del family
        from fairforget.data.overlap import folded_key
        from fairforget.data.posts import load_edos

        everything = load_edos()
        trained = {folded_key(post.text) for post in everything if post.part == "train"}
        posts = [
            post
            for post in everything
            if post.part != "train" and part in ("all", post.part) and (not folded_key(post.text) or folded_key(post.text) not in trained)
        ]
        groups = {category: f"{category.partition('. ')[2] or category} / {NOT_SEXIST}" for post in posts if (category := post.category)}
        return [
            Item(
                id=post.id,
                task="edos",
                role="bias",
                part=part,
                cluster=f"{post.sexist} {post.category} {folded_key(post.text) or post.id}",
                stratum=groups[post.category] if post.category else NOT_SEXIST,
                groups=(groups[post.category],) if post.category else tuple(sorted(groups.values())),
                texts=(post.text,),
            )
            for post in posts
        ]

    def metrics(self) -> list[MetricDefinition]:
        """Likelihood of both samples, their difference, and the superiority of the sexist posts' perplexity."""
        sexist = pl.col("stratum") != NOT_SEXIST
        return [
            *likelihood_metrics(sexist, ("sexist", "not_sexist")),
            superiority(
                "superiority", sexist, pl.col("task"),
                "Share of pairs of a sexist and another post in which the sexist one has the higher perplexity (Mann-Whitney U).",
            ),
        ]
