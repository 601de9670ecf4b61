"""What a tokenizer does that a score depends on, and where it is likely to surprise."""

from __future__ import annotations

from dataclasses import dataclass

from fairforget.models import Model

_SAMPLE = "The Nurse said “no” – naïve, 5 €."


@dataclass(frozen=True)
class Fact:
    """One line of the diagnosis.

    Attributes:
        section: what it belongs to.
        name: what is told.
        value: what was found.
        trap: what to watch out for, "" where there is nothing.
    """

    section: str
    name: str
    value: str
    trap: str = ""


def tokenizer_facts(model: Model, prefix: str = "auto") -> list[Fact]:
    """The tokenizer's choices and traps.

    Args:
        model: with its tokenizer.
        prefix: the prefix option that the model was loaded with.
    """
    section, tokenizer = "Tokenizer", model.tokenizer
    rows = int(next(model.hf.get_input_embeddings().parameters()).shape[0])
    limit = tokenizer.model_max_length
    facts = [
        Fact(section, "class", f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens"),
        Fact(
            section, "embeddings", f"{rows:,} rows",
            "the tokenizer has more tokens than the model has rows: the last ones cannot be scored" if len(tokenizer) > rows else "",
        ),
        Fact(
            section, "longest input", f"{limit:,} by the tokenizer" if limit < 10**9 else "no limit by the tokenizer",
            f"the model has {model.max_length} positions only" if model.max_length < limit < 10**9 else "",
        ),
    ]
    if model.family == "causal":
        facts.append(Fact(section, "prefix token", f"{model.prefix_policy}: {prefix_reason(model, prefix)}", _prefix_trap(model)))
    else:
        facts.append(Fact(section, "mask token", f"{tokenizer.mask_token} (id {model.mask_id})"))
    own_pad = tokenizer.pad_token_id is not None
    facts += [
        Fact(
            section, "pad token", f"{tokenizer.pad_token} (id {model.pad_id})" if own_pad else f"none; id {model.pad_id} is used",
            "" if own_pad else "padded places are masked out, so scores do not depend on it; batches of other libraries may",
        ),
        _special_tokens(model),
        *_spelling(model),
    ]
    return facts


def prefix_reason(model: Model, prefix: str = "auto") -> str:
    """Why this token stands before a causal sequence."""
    tokenizer = model.tokenizer
    if prefix != "auto":
        return "asked for with --prefix"
    if model.prefix_id is None:
        return "the tokenizer has neither BOS nor EOS"
    token = tokenizer.convert_ids_to_tokens(model.prefix_id)
    if model.prefix_id == tokenizer.bos_token_id:
        return f"{token}, the BOS token"
    if tokenizer.bos_token_id is None:
        return f"{token}, the EOS token, since there is no BOS token"
    return f"{token}, in place of the BOS token {tokenizer.bos_token}, which opens chat turns and not texts"


def _prefix_trap(model: Model) -> str:
    if model.prefix_id is None:
        return "the first token of a text has no distribution and is not scored"
    if model.tokenizer.bos_token_id is not None and model.prefix_id != model.tokenizer.bos_token_id:
        return "other tools may put BOS there: scores of single sentences then differ by many nats"
    return ""


def _special_tokens(model: Model) -> Fact:
    bare, whole = model.token_ids("a"), list(model.tokenizer("a", verbose=False)["input_ids"])
    added = model.tokenizer.convert_ids_to_tokens([token for token in whole if token not in bare])
    causal = model.family == "causal"
    return Fact(
        "Tokenizer", "added by itself", ", ".join(str(token) for token in added) or "nothing",
        "left out here: the prefix token above is the only one" if causal and added else
        "a masked model is used to [CLS] and [SEP] or their like" if not causal and not added else "",
    )


def _spelling(model: Model) -> list[Fact]:
    section = "Tokenizer"
    first, inside = model.token_ids("nurse"), model.token_ids(" nurse")
    ids = model.token_ids(_SAMPLE)
    back = str(model.tokenizer.decode(ids))
    unknown = model.tokenizer.unk_token_id is not None and model.tokenizer.unk_token_id in ids
    facts = [
        Fact(
            section, "leading space", "part of a word's token" if first != inside else "of no account",
            "" if first == inside else
            "a word has other ids at the start of a text than inside it; continuations are cut out of the joined text",
        ),
        Fact(section, "case", "lost" if "Nurse" not in back and "nurse" in back else "kept"),
    ]
    if unknown:
        trap = "some letters or signs become one unknown token, which hides differences"
        facts.append(Fact(section, "unknown token", f"{model.tokenizer.unk_token}", trap))
    return facts
