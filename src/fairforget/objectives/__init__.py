"""Differentiable terms of a training loss, one file per family; methods are compositions of them."""

from fairforget.objectives.likelihood import CrossEntropy, token_log_probabilities

__all__ = ["CrossEntropy", "token_log_probabilities"]
