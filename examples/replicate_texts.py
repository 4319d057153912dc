"""Constrained texts from a model on Replicate; all prompts share one prediction.

    REPLICATE_API_TOKEN=... REPLICATE_MODEL=replicate:OWNER/NAME python examples/replicate_texts.py

Without REPLICATE_MODEL, the same code runs on the embedded model.
"""

from __future__ import annotations

import os

from dcmodel import LLM

llm = LLM(os.environ.get("REPLICATE_MODEL", "embedded"))
prompts = ["3 + 4 =", "12 + 30 =", "8 + 1 ="]
for prompt, completion in zip(prompts, llm.generate(prompts, regex=" [0-9]{1,3}"), strict=True):
    print(prompt + completion.text)
