"""Held-out figures of the embedded model, constrained and free: `python -m lmql_backends.tiny.evaluate`.

On plain transformers and llguidance, so that the figures do not depend on the runtime that they serve.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, grammar_from
from tqdm import tqdm
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from lmql_backends.tiny import MODEL_DIR
from lmql_backends.tiny.corpus import heldout
from lmql_backends.tiny.corpus.document import JsonValue
from lmql_backends.tiny.corpus.heldout import ExtractionItem, ReviewItem, SumItem

BARS = {"sentiment_choice": 0.95, "extraction_schema": 0.85, "one_digit_sums_regex": 0.95}
"""What the figures have to reach."""

_MAX_TOKENS = 160

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Judge:
    """The model, and the few ways in which it is asked. Greedy throughout."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    grammar_tokenizer: LLTokenizer

    @classmethod
    def load(cls, directory: Path = MODEL_DIR) -> Judge:
        model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
        text = (directory / "tokenizer.json").read_text(encoding="utf-8")
        grammar_tokenizer = LLTokenizer(text, eos_token=model.config.eos_token_id)
        return cls(model, AutoTokenizer.from_pretrained(directory), grammar_tokenizer)

    def choose(self, prompt: str, options: Sequence[str]) -> str:
        """The option of the largest log-probability."""
        return max(options, key=lambda option: self._logprob(prompt, option))

    @torch.inference_mode()
    def _logprob(self, prompt: str, continuation: str) -> float:
        head: list[int] = self.tokenizer.encode(prompt)
        tail: list[int] = self.tokenizer.encode(continuation, add_special_tokens=False)
        logits = self.model(torch.tensor([head + tail])).logits[0]
        logprobs = logits[len(head) - 1 : -1].log_softmax(-1)
        return float(logprobs[range(len(tail)), tail].sum())

    @torch.inference_mode()
    def generate(self, prompt: str, grammar: str | None = None) -> str:
        """The greedy continuation up to <|eos|>, under a grammar if one is given."""
        matcher = LLMatcher(self.grammar_tokenizer, grammar) if grammar else None
        ids: list[int] = self.tokenizer.encode(prompt)
        output: list[int] = []
        state = self.model(torch.tensor([ids]), use_cache=True)
        while len(output) < _MAX_TOKENS:
            logits = state.logits[0, -1]
            if matcher:
                bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
                allowed = torch.from_numpy(np.unpackbits(bits, bitorder="little")[: logits.numel()]).bool()
                logits = logits.masked_fill(~allowed, -torch.inf)
            token = int(logits.argmax())
            if token == self.model.config.eos_token_id:
                break
            output.append(token)
            if matcher and not matcher.consume_token(token):
                raise RuntimeError(f"The matcher refused token {token}: {matcher.get_error()}")
            state = self.model(torch.tensor([[token]]), past_key_values=state.past_key_values, use_cache=True)
        return str(self.tokenizer.decode(output))

    def extract(self, item: ExtractionItem, *, constrained: bool) -> JsonValue:
        """The value that the answer holds; None when it is no JSON."""
        grammar = LLMatcher.grammar_from_json_schema(
            json.dumps(item.schema),
            overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
        )
        return parsed(self.generate(item.prompt, grammar if constrained else None))

    def label(self, item: ReviewItem, *, constrained: bool) -> str:
        return (
            self.choose(item.prompt, item.options).strip()
            if constrained
            else self.generate(item.prompt).strip()
        )

    def calculate(self, item: SumItem, *, constrained: bool) -> str:
        grammar = grammar_from("regex", " ?[0-9]+")
        return self.generate(item.prompt, grammar if constrained else None).strip()


def parsed(text: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value


def same_record(value: JsonValue, expected: dict[str, JsonValue]) -> bool:
    """Same keys in the same order, same values."""
    return isinstance(value, dict) and list(value.items()) == list(expected.items())


def _share(name: str, items: Sequence[T], right: Callable[[T], bool]) -> float:
    return round(sum(right(item) for item in tqdm(items, name, leave=False, mininterval=5)) / len(items), 4)


def sentiment_figures(judge: Judge, items: Sequence[ReviewItem]) -> dict[str, float]:
    def right(constrained: bool) -> Callable[[ReviewItem], bool]:
        return lambda item: judge.label(item, constrained=constrained) == item.label.strip()

    return {
        "sentiment_choice": _share("sentiment, choice", items, right(True)),
        "sentiment_free": _share("sentiment, free", items, right(False)),
    }


def extraction_figures(judge: Judge, items: Sequence[ExtractionItem], suffix: str = "") -> dict[str, float]:
    def right(constrained: bool) -> Callable[[ExtractionItem], bool]:
        return lambda item: same_record(judge.extract(item, constrained=constrained), item.expected)

    return {
        f"extraction_schema{suffix}": _share("extraction, schema", items, right(True)),
        f"extraction_free{suffix}": _share("extraction, free", items, right(False)),
    }


def sum_figures(judge: Judge, name: str, items: Sequence[SumItem]) -> dict[str, float]:
    def right(constrained: bool) -> Callable[[SumItem], bool]:
        return lambda item: judge.calculate(item, constrained=constrained) == item.answer

    return {
        f"{name}_regex": _share(f"{name}, regex", items, right(True)),
        f"{name}_free": _share(f"{name}, free", items, right(False)),
    }


def measure(judge: Judge, count: int) -> dict[str, float]:
    """All figures, each the share of exact answers."""
    return {
        **sentiment_figures(judge, heldout.reviews(count)),
        **extraction_figures(judge, heldout.extractions(count)),
        **extraction_figures(judge, heldout.extractions(count, keys_listed=False), "_keys_unlisted"),
        **sum_figures(judge, "one_digit_sums", heldout.one_digit_sums()),
        **sum_figures(judge, "two_digit_sums", heldout.two_digit_sums(min(count, 200))),
    }


def store(directory: Path, **sections: object) -> None:
    """Replace sections of metrics.json."""
    path = directory / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**metrics, **sections}, indent=2) + "\n", encoding="utf-8")


def evaluate(directory: Path, count: int) -> dict[str, float]:
    """Measure, store beside the weights and print."""
    figures = measure(Judge.load(directory), count)
    store(directory, held_out=figures, items_per_figure=count)
    for name, figure in figures.items():
        bar = f"  (to reach: {BARS[name]:.0%})" if name in BARS else ""
        sys.stdout.write(f"{name:36} {figure:7.1%}{bar}\n")
    return figures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=MODEL_DIR, help="directory of the model (default: %(default)s)"
    )
    parser.add_argument(
        "--count", type=int, default=400, help="held-out items per figure (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    figures = evaluate(options.model, options.count)
    return 0 if all(figures[name] >= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
