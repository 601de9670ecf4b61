"""Associations, tracing and selectors on tiny models built so that the answer is known."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model

from fairforget.errors import UsageError
from fairforget.methods._associations import Association, find_associations, gather_sides
from fairforget.methods._blocks import find_blocks, mark, parse_layers
from fairforget.methods._importance import contrastive_gradients, fisher_ratio, largest, neuron_attributions
from fairforget.methods._mediation import head_effects
from fairforget.methods._selectors import find_selection, mark_head, mark_neurons
from fairforget.methods._tracing import Tracing, strongest_layers, summarise, trace
from fairforget.methods._values import second_moments
from fairforget.models import Model
from fairforget.scoring import ContinuationRequest, MaskedRequest, Scorer
from fairforget.training import TextStream

PAIR = ("the nurse said that she is good", "the nurse said that he is good")
PAIRS = [PAIR, ("the old doctor has a cat", "the young doctor has a cat"), ("a man is short", "a woman is short")]
FAMILIES = ("llama", "gpt2", "bert", "roberta")


def silence(model: Model, *, keep_attention: int | None = None, keep_mlp: int | None = None) -> None:
    """Make attention and MLP of all blocks add nothing, but for the kept ones."""
    with torch.no_grad():
        for block in find_blocks(model):
            for linear, kept in ((block.output(), keep_attention), (block.down(32), keep_mlp)):
                if block.index != kept:
                    linear.module.get_parameter("weight").zero_()


def test_a_causal_pair_is_read_at_the_token_before_the_difference_and_at_the_difference() -> None:
    model = tiny_model("llama")
    context, span = find_associations(model, [PAIR])
    she = model.token_ids("she")[0]
    assert (context.kind, span.kind, context.pair) == ("context", "span", 0)
    assert [side.site for side in context.sides] == [4, 4]  # <s> the nurse said [that] she
    assert context.sides[0].source == (1, 2, 3, 4)
    assert context.sides[0].labels == (-100,) * 5 + (she,)
    assert [side.site for side in span.sides] == [5, 5]
    assert span.sides[0].labels == (-100,) * 6 + tuple(model.token_ids("is good"))
    margins = [gather_sides(model, [one]).margins(model).item() for one in (context, span)]
    requests = [ContinuationRequest(model.prefix, tuple(model.token_ids(text))) for text in PAIR]
    stereotype, counterpart = (float(score.sum()) for score in Scorer(model, store=False).score(requests))
    assert sum(margins) == pytest.approx(stereotype - counterpart, abs=1e-4)


def test_a_masked_pair_is_read_at_the_mask_and_where_the_difference_tells_most() -> None:
    model = tiny_model("bert")
    context, span = find_associations(model, [PAIR], masked_places=1)
    ids = [model.sequence_ids(text) for text in PAIR]
    assert model.mask_id is not None

    def request(text: int, place: int) -> MaskedRequest:
        shown = tuple(model.mask_id if at == place else token for at, token in enumerate(ids[text]))
        return MaskedRequest(shown, (place,), (ids[text][place],))  # type: ignore[arg-type]

    def score(place: int) -> float:
        first, second = Scorer(model, store=False).score([request(0, place), request(1, place)])
        return float(first[0] - second[0])

    assert context.sides[0].site == 5
    assert context.sides[0].ids == context.sides[1].ids == request(0, 5).ids
    assert gather_sides(model, [context]).margins(model).item() == pytest.approx(score(5), abs=1e-4)
    differences = {place: score(place) for place in (1, 2, 3, 4, 6, 7)}
    strongest = max(differences, key=lambda place: abs(differences[place]))
    assert span.sides[0].ids == request(0, strongest).ids
    assert span.sides[0].site == 5
    assert gather_sides(model, [span]).margins(model).item() == pytest.approx(differences[strongest], abs=1e-4)


def test_what_a_pair_does_not_show_is_left_out() -> None:
    model = tiny_model("llama")
    found = find_associations(model, [("a man is short", "a woman is short"), ("the good he", "the good she")])
    # One token before the first difference, nothing after the second.
    assert [(one.pair, one.kind) for one in found] == [(0, "span"), (1, "context")]
    with pytest.raises(UsageError, match="None of the 2 pairs"):
        find_associations(model, [("the same", "the same"), ("more", "more words")])


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("layer", [0, 1])
def test_tracing_finds_the_one_layer_that_carries_the_association(kind: str, layer: int) -> None:
    model = tiny_model(kind)
    silence(model, keep_attention=layer)
    found = find_associations(model, PAIRS, kinds=("span",))
    before = gather_sides(model, found).margins(model)
    effects = summarise(trace(model, found, Tracing(samples=2), seed=1))
    by = {(row["part"], row["layer"], row["role"]): row for row in effects.iter_rows(named=True)}
    carried = {number: sum(abs(by["attention", number, role]["effect"]) for role in ("site", "predicting", "other")) for number in (0, 1)}
    assert carried[1 - layer] == 0
    assert carried[layer] > 1e-3
    assert all(by["mlp", number, role]["effect"] == 0 for number in (0, 1) for role in ("site", "predicting"))
    if layer == 1:  # nothing has mixed tokens yet: with the difference's states put back the run is clean
        assert by["hidden", 0, "site"]["share"] == pytest.approx(1, abs=1e-3)
    assert torch.equal(gather_sides(model, found).margins(model), before)  # no hook is left


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_layers_to_edit_are_those_whose_mlp_carries_the_association(kind: str, layer: int) -> None:
    model = tiny_model(kind)
    silence(model, keep_attention=0, keep_mlp=layer)
    traces = trace(model, find_associations(model, PAIRS), Tracing(samples=1, parts=("mlp",), roles=("site",)))
    assert strongest_layers(traces, 1) == [layer]
    assert strongest_layers(traces, 5) == [0, 1]


@pytest.mark.parametrize("head", [0, 3])
def test_mediation_finds_the_one_head_that_carries_the_association(head: int) -> None:
    model = tiny_model("bert")
    silence(model, keep_attention=1)
    output = find_blocks(model)[1].output().module.get_parameter("weight")
    with torch.no_grad():
        kept = output[:, head * 8 : head * 8 + 8].clone()
        output.zero_()
        output[:, head * 8 : head * 8 + 8] = kept
    found = find_associations(model, PAIRS, kinds=("span",))
    effects = head_effects(model, found)
    assert effects.shape == (2, 4)
    assert effects.abs().argmax().item() == 4 + head
    assert int((effects != 0).sum()) == 1
    # The masked places see the difference through this head alone, so that its effect is the whole margin.
    assert effects[1, head].item() == pytest.approx(gather_sides(model, found).margins(model).mean().item(), abs=1e-5)


def test_mediation_of_a_shared_context_compares_with_a_corrupted_one() -> None:
    model = tiny_model("llama")
    silence(model, keep_attention=0)
    effects = head_effects(model, find_associations(model, [PAIR], kinds=("context",)), seed=3)
    assert effects[1].tolist() == [0.0] * 4
    assert bool((effects[0] != 0).all())
    assert torch.equal(effects, head_effects(model, find_associations(model, [PAIR], kinds=("context",)), seed=3))


@pytest.mark.parametrize("kind", FAMILIES)
def test_integrated_gradients_find_the_one_neuron_and_add_up(kind: str) -> None:
    pytest.importorskip("captum")
    model = tiny_model(kind)
    silence(model, keep_attention=0, keep_mlp=1)
    down = find_blocks(model)[1].down(32)
    mask = torch.zeros_like(down.module.get_parameter("weight"), dtype=torch.bool)
    mark(mask, down.axes, inputs=[17])
    with torch.no_grad():
        down.module.get_parameter("weight").mul_(mask)
    found = find_associations(model, PAIRS)
    scores = neuron_attributions(model, found)
    assert [len(values) for values in scores] == [down.axes.inputs] * 2
    assert bool((scores[0] == 0).all())
    assert scores[1].nonzero().tolist() == [[17]]
    whole = gather_sides(model, found).margins(model).mean().item()
    silence(model, keep_attention=0)
    without = gather_sides(model, found).margins(model).mean().item()
    assert scores[1].sum().item() == pytest.approx(whole - without, abs=2e-2 * max(1, abs(whole - without)))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.hf.parameters())


def test_a_contrastive_gradient_is_the_margins_and_the_fisher_ratio_is_per_example() -> None:
    model = tiny_model("llama")
    found = find_associations(model, PAIRS)
    name = "model.layers.1.mlp.down_proj.weight"
    weight = model.hf.get_parameter(name)
    each = [torch.autograd.grad(gather_sides(model, [one]).margins(model).sum(), weight)[0] for one in found]
    torch.testing.assert_close(contrastive_gradients(model, found)[name], torch.stack(each).mean(dim=0).abs(), atol=1e-5, rtol=1e-4)
    retain = TextStream(model, ["the sun and the river", "a small house"])
    ratio = fisher_ratio(model, found, retain, rows=2)
    neutral: dict[str, torch.Tensor] = {}
    for text in ["the sun and the river", "a small house"]:
        (logp,) = Scorer(model, store=False).score([ContinuationRequest(model.prefix, tuple(model.token_ids(text)))])
        assert len(logp) > 2
        ids = torch.tensor([[*model.prefix, *model.token_ids(text)]])
        loss = torch.nn.functional.cross_entropy(model.hf(ids).logits[0, :-1], ids[0, 1:], reduction="sum")
        for key, gradient in zip(dict(model.hf.named_parameters()), torch.autograd.grad(loss, list(model.hf.parameters())), strict=True):
            neutral[key] = neutral.get(key, torch.zeros_like(gradient)) + gradient.square() / 2
    mean = sum(float(tensor.sum()) for tensor in neutral.values()) / sum(tensor.numel() for tensor in neutral.values())
    expected = torch.stack(each).square().mean(dim=0) / (neutral[name] + mean)
    torch.testing.assert_close(ratio[name], expected, atol=1e-5, rtol=1e-3)


def test_the_largest_scores_over_all_tensors_exactly_with_ties_and_never_zeros() -> None:
    scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[2.0, 2.0]])}
    assert {name: mask.tolist() for name, mask in largest(scores, 0.5).items()} == {"a": [True, False], "b": [[True, False]]}
    assert largest({"a": torch.tensor([0.0, 1e-30, 0.0])}, 1.0)["a"].tolist() == [False, True, False]
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(largest({"x": values}, 0.037)["x"].nonzero()[:, 0], values.topk(37).indices.sort().values)
    with pytest.raises(UsageError, match="all scores are zero"):
        largest({"a": torch.zeros(3)}, 0.5)


def test_a_head_takes_its_shared_key_and_value_along() -> None:
    model = tiny_model("llama")  # 4 query heads of width 8 over 2 key and value heads
    masks: dict[str, torch.Tensor] = {}
    mark_head(model, find_blocks(model)[0], 3, masks)
    place = "model.layers.0.self_attn"
    assert masks[f"{place}.q_proj.weight"].any(dim=1).nonzero()[:, 0].tolist() == list(range(24, 32))
    assert masks[f"{place}.k_proj.weight"].any(dim=1).nonzero()[:, 0].tolist() == list(range(8, 16))
    assert masks[f"{place}.v_proj.weight"].all(dim=1).nonzero()[:, 0].tolist() == list(range(8, 16))
    assert masks[f"{place}.o_proj.weight"].all(dim=0).nonzero()[:, 0].tolist() == list(range(24, 32))


def test_a_head_of_a_fused_conv1d_and_a_neuron_lie_along_the_stored_axes() -> None:
    model = tiny_model("gpt2")
    masks: dict[str, torch.Tensor] = {}
    mark_head(model, find_blocks(model)[1], 1, masks)
    rows = [start + index for start in (0, 32, 64) for index in range(8, 16)]
    assert masks["transformer.h.1.attn.c_attn.weight"].all(dim=0).nonzero()[:, 0].tolist() == rows  # stored (in, out)
    assert masks["transformer.h.1.attn.c_attn.bias"].nonzero()[:, 0].tolist() == rows
    assert masks["transformer.h.1.attn.c_proj.weight"].all(dim=1).nonzero()[:, 0].tolist() == list(range(8, 16))
    masks = {}
    mark_neurons(find_blocks(model)[0], [5, 60], 32, masks)
    assert masks["transformer.h.0.mlp.c_fc.weight"].all(dim=0).nonzero()[:, 0].tolist() == [5, 60]
    assert masks["transformer.h.0.mlp.c_fc.bias"].nonzero()[:, 0].tolist() == [5, 60]
    assert masks["transformer.h.0.mlp.c_proj.weight"].all(dim=1).nonzero()[:, 0].tolist() == [5, 60]
    assert "transformer.h.0.mlp.c_proj.bias" not in masks


@pytest.mark.parametrize("kind", FAMILIES)
def test_selectors_by_kind_and_by_layer_name_whole_parameters(kind: str) -> None:
    model = tiny_model(kind)
    attention, mlp = (set(find_selection(model, selector, []).names) for selector in ("attention", "mlp"))
    layer, everything = (set(find_selection(model, selector, []).names) for selector in ("layers:1", "all"))
    assert attention and mlp
    assert not attention & mlp
    assert attention | mlp < everything == {name for name, _ in model.hf.named_parameters()}
    assert layer == {name for name in everything if ".1." in name}
    assert not any("norm" in name.lower() or "ln_" in name for name in attention | mlp)
    assert set(find_selection(model, "layers:0-1", []).names) >= attention | mlp


@pytest.mark.parametrize("selector", ["heads", "neurons", "contrastive-gradient", "fisher-ratio"])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_selectors_that_look_at_pairs_select_a_share_and_leave_the_model_alone(kind: str, selector: str) -> None:
    if selector == "neurons":
        pytest.importorskip("captum")
    model = tiny_model(kind)
    before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    selection = find_selection(model, selector, PAIRS, share=0.25, seed=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.hf.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.hf.parameters())
    facts = selection.describe()
    assert (facts["selector"], facts["share"], selection.names) == (selector, 0.25, ())
    total = sum(parameter.numel() for parameter in model.hf.parameters())
    if selector in ("contrastive-gradient", "fisher-ratio"):
        assert selection.count(model.hf) == round(0.25 * total)
    elif selector == "heads":
        assert len(facts["heads"]) == 2  # of 2 x 4
    else:
        assert 0 < sum(facts["neurons"].values()) <= 32  # of 2 x 64
    again = find_selection(model, selector, PAIRS, share=0.25, seed=2)
    assert all(torch.equal(mask, again.masks[name]) for name, mask in selection.masks.items())


def test_second_moments_are_those_of_the_inputs_padding_left_out() -> None:
    model = tiny_model("gpt2")
    memory = find_blocks(model)[0].down(32)
    texts = ["the sun", "a small house by the river"]
    seen: list[torch.Tensor] = []
    handle = memory.module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    for text in texts:
        model.hf(torch.tensor([[*model.prefix, *model.token_ids(text)]]))
    handle.remove()
    keys = torch.cat(seen)
    (moment,), tokens = second_moments(model, TextStream(model, texts), [memory])
    assert tokens == len(keys)
    torch.testing.assert_close(moment, keys.T @ keys / len(keys), atol=1e-4, rtol=1e-3)


def test_wrong_selectors_layers_and_data_are_refused() -> None:
    model = tiny_model("llama")
    for selector, words in (("head", "did you mean heads"), ("layers:1-2", "layers 0 to 1"), ("layers:1-0", "layers 0 to 1")):
        with pytest.raises(UsageError, match=words):
            find_selection(model, selector, PAIRS)
    with pytest.raises(UsageError, match="counterparts"):
        find_selection(model, "heads", [])
    with pytest.raises(UsageError, match="share"):
        find_selection(model, "mlp", [], share=0)
    assert parse_layers("3", 4) == [3]
    assert parse_layers("1-3", 4) == [1, 2, 3]


def test_a_model_that_shares_one_block_between_layers_is_refused() -> None:
    from transformers import AlbertConfig, AlbertForMaskedLM

    model = tiny_model("bert")
    config = AlbertConfig(
        vocab_size=len(model.tokenizer), embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0,
    )
    shared = Model(AlbertForMaskedLM(config), model.tokenizer, family="masked", name="shared", source="shared")
    with pytest.raises(UsageError, match="no list of 3 blocks"):
        find_blocks(shared)


def test_associations_are_plain_values() -> None:
    first = find_associations(tiny_model("llama"), [PAIR])
    assert first == find_associations(tiny_model("llama"), [PAIR])
    assert all(isinstance(one, Association) for one in first)
