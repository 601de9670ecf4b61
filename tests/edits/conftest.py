"""Tiny random models of three architectures, as the package's own Model, and edits of them."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from fairforget.edits import Dense, EditRecord, LowRank, WeightEdit
from fairforget.models.model import Model

VOCABULARY = 200


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]", "<s>", "</s>"]
    words = special + [f"word{number}" for number in range(VOCABULARY - len(special))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]", cls_token="[CLS]", sep_token="[SEP]",
        bos_token="<s>", eos_token="</s>",
    )


def _network(architecture: str):
    torch.manual_seed(7)
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=5, eos_token_id=6, initializer_range=0.2,
        ))
    if architecture == "gpt2":
        return GPT2LMHeadModel(GPT2Config(
            vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=5, eos_token_id=6, initializer_range=0.2,
        ))
    return BertForMaskedLM(BertConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
        pad_token_id=0, initializer_range=0.2,
    ))


LOW_RANK_NAMES = {
    "llama": ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight"),
    "gpt2": ("transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_proj.weight"),
    "bert": ("bert.encoder.layer.0.attention.self.query.weight", "bert.encoder.layer.1.output.dense.weight"),
}
EMBEDDING = {
    "llama": "model.embed_tokens.weight",
    "gpt2": "transformer.wte.weight",
    "bert": "bert.embeddings.word_embeddings.weight",
}


@pytest.fixture
def make_model() -> Callable[..., Model]:
    def make(architecture: str = "llama", dtype: torch.dtype = torch.float32, source: str = "somewhere") -> Model:
        family = "masked" if architecture == "bert" else "causal"
        return Model(
            _network(architecture).to(dtype), _tokenizer(), family=family, name=f"tiny-{architecture}", source=source,
            prefix_id=5 if family == "causal" else None,
        )

    return make


@pytest.fixture(params=["llama", "gpt2", "bert"])
def architecture(request) -> str:
    return request.param


@pytest.fixture
def model(architecture, make_model) -> Model:
    return make_model(architecture)


@pytest.fixture
def make_low_rank():
    """A low-rank edit of a tiny model with factors of a given seed; linear orientation whatever the module's."""

    def make(model: Model, seed: int = 0, rank: int = 3) -> WeightEdit:
        generator = torch.Generator().manual_seed(seed)
        deltas = {}
        for name in LOW_RANK_NAMES[model.name.removeprefix("tiny-")]:
            rows, columns = model.hf.get_parameter(name).shape
            outputs, inputs = (columns, rows) if "gpt2" in model.name else (rows, columns)
            a, b = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
            deltas[name] = LowRank(a * 0.2, b * 0.2, scale=2.0)
        return WeightEdit(deltas, EditRecord.for_model(model, "test", settings={"rank": rank}, seed=seed))

    return make


@pytest.fixture
def make_dense():
    """A dense edit of a tiny model: its (tied) embedding, a matrix and a vector."""

    def make(model: Model, seed: int = 0) -> WeightEdit:
        generator = torch.Generator().manual_seed(seed)
        kind = model.name.removeprefix("tiny-")
        matrix = LOW_RANK_NAMES[kind][0]
        vector = {"llama": "model.norm.weight", "gpt2": "transformer.ln_f.bias", "bert": "cls.predictions.bias"}[kind]
        deltas = {
            name: Dense(torch.randn(model.hf.get_parameter(name).shape, generator=generator) * 0.1)
            for name in (EMBEDDING[kind], matrix, vector)
        }
        return WeightEdit(deltas, EditRecord.for_model(model, "test", seed=seed))

    return make


@pytest.fixture
def logits():
    """Logits of one fixed input, in float32."""

    @torch.no_grad()
    def compute(model) -> torch.Tensor:
        network = getattr(model, "hf", model)
        ids = torch.arange(7, 31).view(2, 12) * 5 % VOCABULARY
        return network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()

    return compute


@pytest.fixture
def bits():
    """Every tensor of a model as raw bytes, buffers included."""

    def take(model: Model) -> dict[str, bytes]:
        return {
            name: tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            for name, tensor in [*model.hf.named_parameters(remove_duplicate=False), *model.hf.named_buffers()]
        }

    return take
