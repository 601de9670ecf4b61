"""Load and wrap Hugging Face language models."""

from fairforget.models.builtin import builtin_models, builtin_names
from fairforget.models.load import load
from fairforget.models.model import Family, Model

__all__ = ["Family", "Model", "builtin_models", "builtin_names", "load"]
