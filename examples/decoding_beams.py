"""Decode in your own code: beams and samples over one session, each under the same constraint.

python examples/decoding_beams.py
"""

import asyncio

from dcmodel import LLM, Regex
from dcmodel.decoding import beam_search, best_of, diverse_beam_search, greedy
from dcmodel.types import GenerateRequest, SamplingParams

PROMPT = "Text: Mira is 34 and lives in Velden.\nFields: name, city\nJSON:"
RECORD = Regex(r' \{"name": "[A-Z][a-z]+", "city": "[A-Z][a-z]+"\}')


async def main() -> None:
    async with LLM() as llm:
        tokenizer = await asyncio.to_thread(lambda: llm.tokenizer)
        request = GenerateRequest(
            prompt_ids=tuple(tokenizer.encode_prompt(PROMPT)),
            constraint=RECORD,
            sampling=SamplingParams(temperature=1.5, seed=1),
            max_tokens=40,
        )
        session = await llm.model.session(request)
        found = {
            "greedy": await greedy(session),
            "the best of 8 samples": await best_of(session, 8, keep=2),
            "4 beams": await beam_search(session, 4, keep=4),
            "4 beams in 2 groups": await diverse_beam_search(session, 4, 2, diversity=5.0, keep=2),
        }
    for name, completion in found.items():
        print(name)
        for item in (completion, *completion.alternatives):
            print(f"  {item.raw_logprob:8.3f} nats {item.text}")


if __name__ == "__main__":
    asyncio.run(main())
