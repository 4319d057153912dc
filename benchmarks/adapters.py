"""What adapters (LoRA) cost a step of decoding: one, four and eight of them mixed, beside peft."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.clock import Spread, cpu_seconds, use_one_thread

use_one_thread()

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402
from transformers import DynamicCache  # noqa: E402

from benchmarks.contenders import load_engine, plain_model  # noqa: E402
from benchmarks.random_models import SHAPES, checkpoint  # noqa: E402
from benchmarks.tables import Table, write_json  # noqa: E402
from dcmodel.engine import Engine, GenerateBatch, Span  # noqa: E402

COUNTS = (1, 4, 8)
CONTEXT = 64
RANK = 8
STEPS = 4
"""Steps per reading: a single one is short of the clock's noise."""
TARGET = 1.4
Run = Callable[[], object]


def make_adapters(model: nn.Module, folder: Path, count: int) -> list[str]:
    """Folders in PEFT's format, over all linear layers of the blocks."""
    found: list[str] = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and name != "lm_head":
                shape = layer.weight.shape
                down = torch.randn(RANK, shape[1], generator=generator) / math.sqrt(shape[1])
                tensors[f"base_model.model.{name}.lora_A.weight"] = down
                up = torch.randn(shape[0], RANK, generator=generator) * 0.01
                tensors[f"base_model.model.{name}.lora_B.weight"] = up
        own = folder / f"adapter-{seed}"
        own.mkdir()
        save_file(tensors, own / "adapter_model.safetensors")
        targets = sorted({name.split(".")[-3] for name in tensors})
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK}
        (own / "adapter_config.json").write_text(json.dumps({**config, "target_modules": targets}))
        found.append(str(own))
    return found


def ours(engine: Engine, sources: list[str], batch: int, vocab_size: int) -> Iterator[tuple[str, Run]]:
    """Steps of one engine on which all adapters are mounted."""
    for handle, source in enumerate(sources, start=1):
        engine.mount_adapter(handle, engine.read_adapter(source))
    for count in (0, *COUNTS):
        adapters = [1 + place % count if count else 0 for place in range(batch)]
        yield (f"dcmodel, {count} mixed" if count else "dcmodel"), _our_steps(engine, adapters, vocab_size)


def _our_steps(engine: Engine, adapters: list[int], vocab_size: int) -> Run:
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(vocab_size, (CONTEXT,), generator=generator).tolist() for _ in adapters]
    handles = [engine.allocate(CONTEXT + 8) for _ in adapters]
    spans = [
        Span(handle, 0, prompt, [], adapter=adapter)
        for handle, prompt, adapter in zip(handles, prompts, adapters, strict=True)
        if handle is not None
    ]
    for span in spans:
        engine.forward(GenerateBatch([span]))

    def run() -> None:
        for _ in range(STEPS):
            engine.forward(
                GenerateBatch([Span(s.sequence, CONTEXT, [7], [0], adapter=s.adapter) for s in spans])
            )
            for span in spans:
                engine.truncate(span.sequence, CONTEXT)

    return run


def theirs(model: Any, sources: list[str], batch: int, vocab_size: int) -> Iterator[tuple[str, Run]]:
    """The model's own step with its cache, and peft's with a name for each row."""
    yield "transformers", _their_steps(model, batch, vocab_size, {})
    if importlib.util.find_spec("peft") is None:
        return
    import copy

    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = PeftModel.from_pretrained(copy.deepcopy(model), sources[0], adapter_name="0").eval()
        for place, source in enumerate(sources[1:], start=1):
            wrapped.load_adapter(source, adapter_name=str(place))
    for count in COUNTS:
        names = [str(place % count) for place in range(batch)]
        yield f"peft, {count} mixed", _their_steps(wrapped, batch, vocab_size, {"adapter_names": names})


def _their_steps(model: Any, batch: int, vocab_size: int, options: dict[str, Any]) -> Run:
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(vocab_size, (batch, CONTEXT), generator=generator)
    cache = DynamicCache()
    with torch.inference_mode():
        model(input_ids=prompts, past_key_values=cache, use_cache=True, logits_to_keep=1, **options)
    token = torch.full((batch, 1), 7)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(STEPS):
                model(input_ids=token, past_key_values=cache, use_cache=True, **options)
                cache.crop(-1)

    return run


def measure(shape: str, dtype: str, batch: int, repeats: int) -> Table:
    """All variants take turns; ratios are of neighbours in the same turn."""
    folder = checkpoint(shape)
    vocab_size = SHAPES[shape].vocab_size
    model = plain_model(folder, dtype)
    with tempfile.TemporaryDirectory() as scratch:
        sources = make_adapters(model, Path(scratch), max(COUNTS))
        engine = load_engine(folder, dtype).engine
        variants = dict(
            [*ours(engine, sources, batch, vocab_size), *theirs(model, sources, batch, vocab_size)]
        )
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats + 1):
        for name, run in variants.items():
            seconds, _ = cpu_seconds(run)
            if turn:
                times[name].append(seconds * 1000 / STEPS)
    table = Table(f"{shape}, {dtype}, {batch} sequences, rank {RANK}", ("step", "ms", "x its plain step"))
    for name, values in times.items():
        plain = times["dcmodel" if name.startswith("dcmodel") else "transformers"]
        ratio = Spread.of(value / base for value, base in zip(values, plain, strict=True))
        spread = Spread.of(values)
        table.add((name, spread.text(1), ratio.text()), step=name, ms=spread.median, ratio=ratio.median)
    table.notes.append(f"target: at most {TARGET} times a plain step with adapters mixed")
    engine.close()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-shape", nargs="+", default=["15m", "135m"], choices=SHAPES)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tables: list[Table] = []
    for shape in arguments.model_shape:
        for dtype in arguments.dtype:
            for batch in arguments.batch:
                tables.append(measure(shape, dtype, batch, arguments.repeats))
                print(tables[-1].text(), flush=True)
    if arguments.json:
        write_json(arguments.json, tables)


if __name__ == "__main__":
    main()
