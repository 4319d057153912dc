"""Constrained texts from a model on Replicate; all prompts share one prediction.

Run: REPLICATE_API_TOKEN=... python examples/replicate_texts.py replicate:OWNER/NAME
"""

from __future__ import annotations

import sys

from dcmodel import LLM


def main(model: str) -> None:
    llm = LLM(model)
    prompts = ["3 + 4 =", "12 + 30 =", "100 - 1 ="]
    for prompt, completion in zip(prompts, llm.generate(prompts, regex=" [0-9]{1,3}"), strict=True):
        print(prompt + completion.text)
    print(llm.choose("The capital of France is", [" Paris", " Rome"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
