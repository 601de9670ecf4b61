"""Size of a change by parameter: norms by hand, of factors as of their product; which rows changed; layers and kinds of modules."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from tiny import tiny_model

from fairforget.edits import Dense, EditRecord, LowRank, WeightEdit
from fairforget.edits.change_sizes import change_sizes
from fairforget.report.edit_account import change_section
from fairforget.report.page import Figures

NAMES = {
    "llama": ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.1.input_layernorm.weight",
              "model.embed_tokens.weight", "model.norm.weight"),
    "bert": ("bert.encoder.layer.0.attention.self.query.weight", "bert.encoder.layer.1.output.dense.weight",
             "bert.encoder.layer.1.attention.output.LayerNorm.weight", "bert.embeddings.word_embeddings.weight",
             "bert.embeddings.LayerNorm.weight"),
}


def shaped(model, name: str) -> torch.Tensor:
    return torch.zeros_like(model.hf.get_parameter(name))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_norms_rows_layers_and_kinds(kind: str) -> None:
    model = tiny_model(kind)
    attention, mlp, norm, embedding, last = NAMES[kind]
    dense, rows, vector, words = (shaped(model, name) for name in (attention, mlp, norm, embedding))
    dense[0, 0], dense[2, 1] = 3.0, 4.0
    rows[1] = 1.0
    vector[0] = 2.0
    words[5, 0] = 1.0
    edit = WeightEdit(
        {last: Dense(shaped(model, last) + 1), embedding: Dense(words), norm: Dense(vector), mlp: Dense(rows), attention: Dense(dense)},
        EditRecord.for_model(model, "test"), strength=0.5,
    )
    table = change_sizes(edit, model)
    found = {row["parameter"]: row for row in table.iter_rows(named=True)}
    assert {name: (row["layer"], row["module"]) for name, row in found.items()} == {
        attention: (0, "attention"), mlp: (1, "mlp"), norm: (1, "norm"), embedding: (None, "embedding"), last: (None, "norm"),
    }
    assert found[attention]["change"] == pytest.approx(2.5)
    assert (found[attention]["changed"], found[attention]["vectors"]) == (2, dense.shape[0])
    assert found[mlp]["change"] == pytest.approx(0.5 * rows.shape[1] ** 0.5)
    assert (found[norm]["change"], found[norm]["changed"], found[norm]["vectors"]) == (1.0, 1, 1)
    assert found[embedding]["weight"] == pytest.approx(float(model.hf.get_parameter(embedding).norm()), rel=1e-5)
    order = [name for name, _ in model.hf.named_parameters()]
    assert table["parameter"].to_list() == sorted(found, key=order.index), "in the order of the model"
    assert change_sizes(edit.at(0), model).select(pl.col("change", "changed").sum()).row(0) == (0.0, 0)


@pytest.mark.parametrize(("kind", "name"), [
    ("llama", "model.layers.0.mlp.up_proj.weight"), ("gpt2", "transformer.h.0.attn.c_attn.weight"),
])
def test_factors_measure_as_their_product_whichever_way_a_matrix_is_stored(kind: str, name: str) -> None:
    model = tiny_model(kind)
    weight = shaped(model, name) if kind == "llama" else shaped(model, name).T
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, weight.shape[1], generator=generator), torch.randn(weight.shape[0], 2, generator=generator)
    b[3] = 0
    product = 0.25 * b @ a
    dense = WeightEdit({name: Dense(product if kind == "llama" else product.T)}, EditRecord.for_model(model, "test"), strength=-2.0)
    found = change_sizes(dense, model).row(0, named=True)
    assert (found["vectors"], found["changed"]) == (weight.shape[0], weight.shape[0] - 1)
    edit = WeightEdit({name: LowRank(a, b, 0.25)}, EditRecord.for_model(model, "test"), strength=-2.0)
    row = change_sizes(edit, model).row(0, named=True)
    assert row["change"] == pytest.approx(float((0.5 * b @ a).norm()), rel=1e-5)
    assert row["changed"] == weight.shape[0] - 1
    assert row["change"] == pytest.approx(found["change"], rel=1e-5)
    assert row["vectors"] == weight.shape[0]


def test_a_weight_that_is_kept_elsewhere_has_no_norm_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, name = tiny_model("gpt2"), "transformer.h.0.attn.c_attn.weight"
    a, b = torch.ones(1, 32), torch.ones(96, 1)
    assert model.hf.get_parameter(name).shape == (32, 96)
    edit = WeightEdit({name: LowRank(a, b, 0.5)}, EditRecord.for_model(model, "test"))
    monkeypatch.setattr(torch.nn.Parameter, "is_meta", True, raising=False)
    row = change_sizes(edit, model).row(0, named=True)
    assert row["weight"] is None
    assert row["change"] == pytest.approx(0.5 * (32 * 96) ** 0.5)


def test_a_quantised_weight_has_no_norm_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, name = tiny_model("llama"), "model.layers.0.mlp.up_proj.weight"
    weight = shaped(model, name)
    factors = LowRank(torch.ones(1, weight.shape[1]), torch.ones(weight.shape[0], 1))
    edit = WeightEdit({name: factors}, EditRecord.for_model(model, "test"))
    monkeypatch.setattr(torch.nn.Parameter, "is_floating_point", lambda parameter: False, raising=False)
    row = change_sizes(edit, model).row(0, named=True)
    assert (row["weight"], row["vectors"]) == (None, weight.shape[0])
    page = Figures({"base": "before", "edited": "after", "difference": "change"})
    section = change_section(change_sizes(edit, model), page)
    assert section is not None
    assert section["rows"][0]["relative"] is None
    assert section["said"] == ""
