"""Multiple choice as evaluators do it: exact scores of given answers, many questions at once.

python examples/rank_answers.py
"""

from dcmodel import LLM

QUESTIONS = {
    "Q: What is the capital of France?\nA:": [" Paris", " Rome", " Madrid"],
    "Q: What is 3 + 4?\nA:": [" 6", " 7", " 8"],
    "Q: What is the opposite of hot?\nA:": [" cold", " big", " old"],
}


def main() -> None:
    with LLM() as llm:
        choices = llm.choose(list(QUESTIONS), list(QUESTIONS.values()))
    for question, choice in zip(QUESTIONS, choices, strict=True):
        print(question.splitlines()[0])
        for item in choice.ranked:
            print(f"  {item.probability:7.2%}  {item.logprob:8.3f} nats {item.text}")


if __name__ == "__main__":
    main()
