"""Turn sentences into records: a batch under one JSON schema, parsed into pydantic models.

python examples/extract_records.py
"""

from pydantic import BaseModel

from dcmodel import LLM


class Person(BaseModel):
    name: str
    job: str
    city: str


SENTENCES = [
    "Mira is a painter from Velden.",
    "Jonas is a baker from Oslo.",
    "Clara is a teacher from Lyon.",
]


def main() -> None:
    prompts = [f"Text: {sentence}\nFields: name, job, city\nJSON:" for sentence in SENTENCES]
    with LLM() as llm:
        for completion in llm.generate(prompts, json_schema=Person):
            usage = completion.usage
            print(
                completion.parsed, f"({usage.forced_tokens} of {usage.completion_tokens} tokens were forced)"
            )


if __name__ == "__main__":
    main()
