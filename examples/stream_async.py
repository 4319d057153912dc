"""Several streams in one event loop, each under its own constraint.

python examples/stream_async.py
"""

import asyncio

from dcmodel import LLM, Constraint, Regex, TokenSet

FLIGHT = "Text: Jonas travels to Oslo on 2026-03-14.\nQ: When does Jonas travel to Oslo?\nA:"


async def follow(llm: LLM, prompt: str, constraint: Constraint) -> str:
    """Read one stream to its end."""
    steps = 0
    async with llm.astream(prompt, constraint=constraint, max_tokens=20) as stream:
        async for _ in stream:
            steps += 1
        completion = await stream.completion()
    return f"{prompt!r} -> {completion.text!r} ({steps} steps, valid: {completion.certificate.valid})"


async def main() -> None:
    async with LLM() as llm:
        tokenizer = await asyncio.to_thread(lambda: llm.tokenizer)
        digits = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i).isdigit()]
        lines = await asyncio.gather(
            follow(llm, "3 + 4 =", Regex(r" [0-9]{1,2}")),
            follow(llm, FLIGHT, Regex(r" \d{4}-\d{2}-\d{2}")),
            follow(llm, "The year is ", TokenSet(digits, min_count=4, max_count=4)),
        )
    print("\n".join(lines))


if __name__ == "__main__":
    asyncio.run(main())
