"""Train the embedded model: `python -m lmql_backends.tiny.train`. Generates its corpus, needs no network."""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from lmql_backends.tiny import MODEL_DIR
from lmql_backends.tiny.corpus import documents
from lmql_backends.tiny.corpus.vocabulary import word_texts
from lmql_backends.tiny.data import batches
from lmql_backends.tiny.evaluate import evaluate, store
from lmql_backends.tiny.tokenizer import save_tokenizer, special_ids, train_tokenizer

VOCAB_SIZE = 3072
MAX_LENGTH = 2048
_TOKENIZER_DOCUMENTS = 30_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and on what."""

    steps: int
    tokens_per_step: int
    seed: int
    device: torch.device
    # Most steps have short rows; some have long ones, so that later positions are known too.
    short_row: int = 256
    long_row: int = 1024
    long_every: int = 8
    save_every: int = 0
    muon_rate: float = 0.02
    adam_rate: float = 3e-3

    def row_length(self, step: int) -> int:
        return self.long_row if step % self.long_every == self.long_every - 1 else self.short_row

    def rate_factor(self, step: int) -> float:
        """Linear warm-up, then a cosine down to nearly nothing."""
        warm_up = max(1, min(100, self.steps // 20))
        if step < warm_up:
            return (step + 1) / warm_up
        progress = (step - warm_up) / max(1, self.steps - warm_up)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def corpus_tokenizer(seed: int) -> Tokenizer:
    """The tokenizer learned from the first documents of the corpus."""
    sample = (document.text for document in itertools.islice(documents(seed), _TOKENIZER_DOCUMENTS))
    return train_tokenizer(itertools.chain(sample, word_texts()), VOCAB_SIZE)


def build_model(bos: int, eos: int, pad: int) -> LlamaForCausalLM:
    """3.7 million parameters with random weights."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    model = LlamaForCausalLM(config)
    defaults = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    model.generation_config = GenerationConfig.from_dict(defaults)
    return model


def build_optimizers(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=plan.muon_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=plan.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def weighted_loss(model: nn.Module, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood in nats of tokens 1.. of every row, each by its weight."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    flat = weights[:, 1:].flatten()
    return (losses * flat).sum() / flat.sum()


def train(model: LlamaForCausalLM, plan: Plan, tokenizer: Tokenizer, checkpoint: Callable[[], None]) -> float:
    """Train in place; returns the mean loss of the last fifty steps."""
    nn.Module.to(model, plan.device).train()
    optimizers = build_optimizers(model, plan)
    base_rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    streams = {
        length: batches(tokenizer, plan.seed + length, length + 1, max(1, plan.tokens_per_step // length))
        for length in (plan.short_row, plan.long_row)
    }
    recent: list[float] = []
    bar = tqdm(range(plan.steps), mininterval=10)
    for step in bar:
        groups = itertools.chain.from_iterable(optimizer.param_groups for optimizer in optimizers)
        for group, rate in zip(groups, base_rates, strict=True):
            group["lr"] = rate * plan.rate_factor(step)
        ids, weights = next(streams[plan.row_length(step)])
        loss = weighted_loss(
            model, torch.from_numpy(ids).to(plan.device), torch.from_numpy(weights).to(plan.device)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        recent = [*recent[-49:], loss.item()]
        if plan.save_every and (step + 1) % plan.save_every == 0:
            checkpoint()
        bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}", refresh=False)
    return sum(recent) / len(recent)


def save_model(model: LlamaForCausalLM, directory: Path) -> None:
    """Write the weights in half precision; the configuration asks for them to be loaded in single."""
    half = copy.deepcopy(model)
    nn.Module.to(half, "cpu", torch.float16)
    half.save_pretrained(directory)
    # Hugging Face writes the weights readable by their owner only.
    (directory / "model.safetensors").chmod(0o644)
    path = directory / "config.json"
    configuration = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**configuration, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=MODEL_DIR, help="directory of the model (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--tokens-per-step", type=int, default=3072)
    parser.add_argument("--save-every", type=int, default=0, help="steps between checkpoints (default: none)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU threads of torch"
    )
    parser.add_argument(
        "--held-out", type=int, default=400, help="held-out items per figure; 0 measures nothing"
    )
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    plan = Plan(
        options.steps,
        options.tokens_per_step,
        options.seed,
        torch.device(options.device),
        save_every=options.save_every,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()

    tokenizer = corpus_tokenizer(options.seed)
    save_tokenizer(tokenizer, options.out, MAX_LENGTH)
    model = build_model(*special_ids(tokenizer))

    def save() -> None:
        save_model(model, options.out)

    loss = train(model, plan, tokenizer, save)
    save()

    store(
        options.out,
        training={
            "steps": plan.steps,
            "tokens": plan.steps * plan.tokens_per_step,
            "seed": options.seed,
            "loss_of_last_steps": round(loss, 4),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "minutes": round((time.perf_counter() - started) / 60, 1),
            "device": options.device,
            "threads": options.threads,
            "torch": torch.__version__,
        },
    )
    if options.held_out:
        evaluate(options.out, options.held_out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
