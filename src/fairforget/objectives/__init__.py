"""Differentiable terms of a training loss, one file per family; methods are compositions of them."""

from fairforget.objectives.drift import KLToBase, kl_divergence
from fairforget.objectives.likelihood import CrossEntropy, token_log_probabilities

__all__ = ["CrossEntropy", "KLToBase", "kl_divergence", "token_log_probabilities"]
