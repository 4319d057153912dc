"""A long word, when the model wants a short one: token by token, or given that it is long.

Masks alone let the model begin with its favourite, "Oslo", and then make it go on. Exact sampling asks which
long words are likely.

python examples/decoding_exact.py
"""

import asyncio
from collections import Counter

from dcmodel import LLM, Regex
from dcmodel.decoding import sample, sample_by_rejection
from dcmodel.types import GenerateRequest, SamplingParams

PROMPT = "Text: Jonas travels to Oslo on 2026-03-14.\nQ: Where does Jonas travel to?\nA:"
LONG_NAME = Regex(" [A-Z][a-z]{5,8}")


async def main() -> None:
    async with LLM() as llm:
        tokenizer = await asyncio.to_thread(lambda: llm.tokenizer)
        request = GenerateRequest(
            prompt_ids=tuple(tokenizer.encode_prompt(PROMPT)),
            constraint=LONG_NAME,
            sampling=SamplingParams(temperature=1.0, seed=1),
            max_tokens=10,
        )
        session = await llm.model.session(request)
        masked = await sample(session, 50)
        exact = await sample_by_rejection(session, 50, seed=1)
    for name, completion in {"masked": masked, "exact": exact}.items():
        counts = Counter(item.text for item in (completion, *completion.alternatives))
        print(name, *(f"{count} x{text}" for text, count in counts.most_common(5)), sep=", ")
    print(f"The model itself would have satisfied the rule with a probability of e^{exact.log_z:.1f}.")


if __name__ == "__main__":
    asyncio.run(main())
