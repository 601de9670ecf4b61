"""Self-Debias: the formula by hand, the edit's file, and text generated with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_model

from fairforget.edits import EditRecord, SelfDebiasEdit, load_edit, merged
from fairforget.edits.self_debias import prefixed, self_debiased
from fairforget.edits.self_debias_processor import SelfDebiasProcessor
from fairforget.errors import DataError, UsageError
from fairforget.models import Model

PREFIXES = ((40, 41, 42, 43), (50, 51))


def edit_of(model: Model, prefixes: tuple[tuple[int, ...], ...] = PREFIXES, **options: float) -> SelfDebiasEdit:
    return SelfDebiasEdit(prefixes, EditRecord.for_model(model, "self-debias"), **options)


@torch.no_grad()
def reference(model: Model, edit: SelfDebiasEdit, ids: list[int], place: int = -1) -> torch.Tensor:
    """The whole distribution, in float64, one plain forward for each text."""

    def predicted(tokens: list[int], at: int) -> torch.Tensor:
        return torch.softmax(model.hf(input_ids=torch.tensor([tokens])).logits[0, at].double(), dim=-1)

    plain = predicted(ids, place)
    biased = torch.stack([predicted([ids[0], *prefix, *ids[1:]], place if place < 0 else place + len(prefix)) for prefix in edit.prefixes])
    factor = torch.exp(-edit.strength * edit.decay * (biased.amax(dim=0) - plain).clamp(min=0)).clamp(min=edit.floor)
    return plain * factor / (plain * factor).sum()


def test_the_known_answer() -> None:
    plain, biased = (torch.tensor(values, dtype=torch.float64).log() for values in ((0.5, 0.3, 0.2), (0.5, 0.5, 0.0)))
    found = torch.softmax(self_debiased(plain, [biased], 50, 0.01), dim=-1)
    assert np.allclose(found.numpy(), (0.7112376, 0.0042674, 0.2844950), atol=1e-7)
    # Of several prefixes the largest probability counts: one that prefers nothing changes nothing.
    assert torch.equal(self_debiased(plain, [biased, plain], 50, 0.01), self_debiased(plain, [biased], 50, 0.01))
    both = self_debiased(plain, [biased, torch.tensor((0.2, 0.2, 0.6), dtype=torch.float64).log()], 1.0, 0.01)
    assert np.allclose((both - plain).numpy(), (0, -0.2, -0.4), atol=1e-12)


def test_no_preference_and_no_decay_are_the_plain_distribution() -> None:
    plain = torch.randn((3, 7), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = torch.randn((3, 7), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for logits, decay in (([plain], 50.0), ([other], 0.0)):
        assert torch.allclose(torch.softmax(self_debiased(plain, logits, decay, 0.01), -1), torch.softmax(plain, -1), atol=1e-12)
    floor = self_debiased(plain, [other], 1e9, 0.01) - torch.log_softmax(plain, -1)
    assert floor.min() == pytest.approx(np.log(0.01))
    # A negative strength turns it round: what the biased model prefers becomes likelier.
    turned = torch.softmax(self_debiased(plain, [other], -5.0, 0.01), -1) - torch.softmax(plain, -1)
    favoured = (torch.softmax(other, -1) - torch.softmax(plain, -1)).argmax(dim=-1)
    assert bool((turned[range(3), favoured] > 0).all())


def test_the_prefix_goes_behind_the_first_token() -> None:
    causal, masked = tiny_model("llama"), tiny_model("bert")
    assert prefixed(causal, (5, 9, 8), (1, 2)) == ((5, 1, 2, 9, 8), 1)
    assert prefixed(causal, (9, 8), (1, 2)) == ((1, 2, 9, 8), 0)
    assert prefixed(masked, (2, 9, 3), (1, 7)) == ((2, 1, 7, 9, 3), 1)


def test_a_saved_edit_is_the_same_edit_and_its_hash_tells_all_that_matters(tmp_path) -> None:
    model = tiny_model("bert")
    edit = edit_of(model, decay=20.0, floor=0.1).at(0.5)
    edit.save(tmp_path)
    found = load_edit(tmp_path)
    assert isinstance(found, SelfDebiasEdit)
    assert (found.prefixes, found.decay, found.floor, found.strength) == (PREFIXES, 20.0, 0.1, 0.5)
    assert found.content_hash == edit.content_hash
    others = [edit_of(model), edit_of(model, decay=20.0), edit_of(model, PREFIXES[:1], decay=20.0, floor=0.1)]
    assert len({one.content_hash for one in (edit, *others)}) == 4
    text = (tmp_path / "edit.safetensors").read_bytes().replace(b'\\"decay\\": 20.0', b'\\"decay\\": 21.0')
    (tmp_path / "edit.safetensors").write_bytes(text)
    with pytest.raises(DataError, match="changed after it was written"):
        load_edit(tmp_path)


def test_what_does_not_apply_is_refused(tmp_path) -> None:
    model = tiny_model("llama")
    edit = edit_of(model)
    with pytest.raises(UsageError, match="it changes predictions"):
        merged(model, edit, tmp_path / "model")
    with pytest.raises(UsageError, match="at least one biasing prefix"):
        edit_of(model, ())
    with pytest.raises(UsageError, match="epsilon above 0"):
        edit_of(model, floor=0.0)
    with pytest.raises(UsageError, match="outside the vocabulary"):
        edit_of(model, ((10_000,),)).attach(model)
    with pytest.raises(UsageError, match="leaves no room"):
        edit_of(model, (tuple([9] * 300),)).attach(model)
    with pytest.raises(UsageError, match="masked model and generates no text"):
        SelfDebiasProcessor(tiny_model("bert"), edit)
    edit.attach(model)
    with pytest.raises(UsageError, match="has a Self-Debias edit on already"):
        edit_of(model, decay=1.0).attach(model)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_generated_text_follows_the_debiased_distribution(kind: str) -> None:
    model = tiny_model(kind)
    edit = edit_of(model, decay=400.0, floor=1e-4)
    ids = [5, 30, 31, 32]
    wanted = list(ids)
    for _ in range(8):
        wanted.append(int(reference(model, edit, wanted).argmax()))
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain = model.hf.generate(torch.tensor([ids]), attention_mask=torch.ones(1, 4), **options)[0].tolist()
    found = model.hf.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, 4), logits_processor=[SelfDebiasProcessor(model, edit)], **options
    )[0].tolist()
    assert found == wanted != plain
    unchanged = model.hf.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, 4), logits_processor=[SelfDebiasProcessor(model, edit.at(0))], **options
    )[0].tolist()
    assert unchanged == plain


def test_a_batch_padded_on_the_left_and_beams_are_right() -> None:
    model = tiny_model("llama")
    edit = edit_of(model, decay=400.0, floor=1e-4)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    rows = torch.tensor([[0, 0, 5, 30], [5, 20, 21, 22]])
    processor = SelfDebiasProcessor(model, edit, mask)
    for step in range(3):
        texts = [[5, 30, *rows[0, 4:].tolist()], rows[1].tolist()]
        with torch.no_grad():
            plain = torch.stack([model.hf(input_ids=torch.tensor([text])).logits[0, -1] for text in texts])
            found = torch.softmax(processor(rows, plain), dim=-1)
        for row, text in zip(found, texts, strict=True):
            assert torch.allclose(row.double(), reference(model, edit, text), atol=1e-5)
        rows = torch.cat([rows, torch.tensor([[60 + step], [70 + step]])], dim=1)
    swapped = rows[[1, 0]]  # as a beam search reorders its rows; without padding now
    both = SelfDebiasProcessor(model, edit)
    with torch.no_grad():
        both(rows[1:].repeat(2, 1), plain)
        other = torch.softmax(both(swapped[:1].repeat(2, 1), plain), dim=-1)
        fresh = torch.softmax(SelfDebiasProcessor(model, edit)(swapped[:1].repeat(2, 1), plain), dim=-1)
    assert torch.equal(other, fresh)
