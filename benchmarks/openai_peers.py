"""Our adapter, the bare SDK and LMQL 0.7.3's own adapter, over HTTP, side by side at one endpoint."""

from __future__ import annotations

import asyncio
import gzip
import os
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.child_server import child_server
from benchmarks.clock import Spread
from benchmarks.ngram_api import COMPLETIONS
from benchmarks.openai_strategies import MAX_TOKENS, request_of
from benchmarks.openai_tasks import FIVE, Task, make_tasks
from benchmarks.tables import Table
from dctokenizers import Tokenizer

MODEL = "gpt-3.5-turbo-instruct"
"""The name by which LMQL and tiktoken know a model with this vocabulary, at ``/completions``."""
TASKS = ("date", "int", "email", "choice-5", "json-small")
SECONDS = 120.0
"""Patience with one contender at one task."""
TIKTOKEN_FILE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
"""Where tiktoken looks for cl100k_base in its folder."""
OURS, SDK, LMQL = "ours", "SDK gather", "LMQL's adapter"
QUERIES = {
    "date": ('[ANSWER]"', 'where REGEX(ANSWER, r"20[0-9]{2}-[01][0-9]-[0-3][0-9]")'),
    "int": ('[ANSWER]"', "where INT(ANSWER)"),
    "email": ('[ANSWER]"', r'where REGEX(ANSWER, r"[a-z0-9._]+@[a-z0-9]+(\.[a-z]+)+")'),
    "choice-5": ('[ANSWER]"', f"where ANSWER in {list(FIVE)}"),
    "json-small": (
        '{{\\"name\\": \\"[NAME]\\", \\"age\\": [AGE], \\"city\\": \\"[CITY]\\"}}"',
        "where STOPS_BEFORE(NAME, '\"') and INT(AGE) and STOPS_BEFORE(CITY, '\"')",
    ),
}
"""Each task in LMQL's own terms. It has no schemas: JSON is a text with holes."""

Answers = Callable[[Task, int], Awaitable[list[str]]]


@dataclass(slots=True)
class Turns:
    """What one contender did at one task, round by round."""

    texts: int = 0
    valid: int = 0
    requests: int = 0
    tokens: int = 0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    failure: str = ""


def peers_table(tokenizer: Tokenizer, vocabulary: Path, objects: int, rounds: int) -> Table:
    tasks = [task for task in make_tasks() if task.name in TASKS]
    with child_server("benchmarks.ngram_server", str(vocabulary), *TASKS) as url:
        found, notes = asyncio.run(_measure(tasks, tokenizer, vocabulary, url, objects, rounds))
    table = Table(
        f"Over HTTP at one endpoint, {objects} texts at once, {rounds} rounds; times against the SDK's",
        ["task", "contender", "valid", "http", "tokens", "wall", "client CPU"],
        notes=["http, tokens: requests and completion tokens per text, by the endpoint's account.", *notes],
    )
    for (task, name), turns in found.items():
        base = found[task, SDK]
        if turns.failure:
            table.add([task, name, "none", "", "", "", ""], task=task, name=name, failure=turns.failure)
            table.notes.append(f"{task}, {name}: {turns.failure}")
            continue
        wall = Spread.of(a / b for a, b in zip(turns.wall, base.wall, strict=True))
        cpu = Spread.of(a / b for a, b in zip(turns.cpu, base.cpu, strict=True))
        share = turns.valid / turns.texts
        http, tokens = turns.requests / turns.texts, turns.tokens / turns.texts
        table.add(
            [task, name, f"{share:.1%}", f"{http:.2f}", f"{tokens:.1f}", wall.text(), cpu.text()],
            task=task,
            name=name,
            valid=share,
            http=http,
            tokens=tokens,
            wall=wall.median,
            cpu=cpu.median,
        )
    return table


async def _measure(
    tasks: Sequence[Task], tokenizer: Tokenizer, vocabulary: Path, url: str, objects: int, rounds: int
) -> tuple[dict[tuple[str, str], Turns], list[str]]:
    import aiohttp

    notes: list[str] = []
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        contenders = {OURS: await _ours(stack, tokenizer, url), SDK: await _sdk(stack, tokenizer, url)}
        if find_spec("lmql") is None:
            notes.append("LMQL is not installed, and was left out.")
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            contenders[LMQL] = _lmql(url, vocabulary, Path(folder))
            notes.append("LMQL has no schemas: its json-small is a text with three holes, each with a rule.")
        found = {(task.name, name): Turns() for task in tasks for name in contenders}
        for number in tqdm(range(rounds + 1), desc="rounds", disable=None):
            for task in tasks:
                names = list(contenders)
                for name in names if number % 2 else reversed(names):
                    turns = found[task.name, name] if number else Turns()  # the first round warms up
                    if not found[task.name, name].failure:
                        await (await http.get(f"{url}/account")).json()
                        await _turn(turns, contenders[name], task, tokenizer, objects)
                        account = await (await http.get(f"{url}/account")).json()
                        turns.requests += account["requests"]
                        turns.tokens += account["completion_tokens"]
                        found[task.name, name].failure = turns.failure
    return found, notes


async def _turn(turns: Turns, answers: Answers, task: Task, tokenizer: Tokenizer, objects: int) -> None:
    begin, cpu = time.perf_counter(), time.process_time()
    try:
        texts = await asyncio.wait_for(answers(task, objects), SECONDS)
    except TimeoutError:
        turns.failure = f"not within {SECONDS:g} s"
        return
    except Exception as error:  # a rival's failure is a finding
        causes = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
        turns.failure = f"failed: {causes[0]!r:.150}"
        return
    turns.wall.append(time.perf_counter() - begin)
    turns.cpu.append(time.process_time() - cpu)
    turns.texts += len(texts)
    turns.valid += sum(is_valid(task, text, tokenizer) for text in texts)


def is_valid(task: Task, text: str, tokenizer: Tokenizer) -> bool:
    matcher = task.constraint.compile(tokenizer).matcher()
    ids = tokenizer.encode(text)
    return matcher.advance(ids) == len(ids) and matcher.is_accepting


# -- contenders --------------------------------------------------------------------------------------


def prompt_of(task: Task) -> str:
    return f"### {task.name}\n"


async def _ours(stack: AsyncExitStack, tokenizer: Tokenizer, url: str) -> Answers:
    from lmql_backends.openai.opening import open_model

    options = {"base_url": f"{url}/v1", "api_key": "key", "tokenizer": tokenizer, "loosens_json": False}
    model = await open_model(MODEL, {**options, "capabilities": COMPLETIONS})
    stack.push_async_callback(model.aclose)

    async def run(task: Task, objects: int) -> list[str]:
        request = request_of(tuple(tokenizer.encode(prompt_of(task))), task.constraint, 1.0)
        found = await asyncio.gather(*(model.generate(request).completion() for _ in range(objects)))
        return [completion.text for completion in found]

    return run


async def _sdk(stack: AsyncExitStack, tokenizer: Tokenizer, url: str) -> Answers:
    import openai

    client = await stack.enter_async_context(openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key"))

    async def run(task: Task, objects: int) -> list[str]:
        prompt = tokenizer.encode(prompt_of(task))
        calls = (
            client.completions.create(model=MODEL, prompt=prompt, max_tokens=MAX_TOKENS, temperature=1.0)
            for _ in range(objects)
        )
        found = await asyncio.gather(*calls)
        return [completion.choices[0].text for completion in found]

    return run


def _lmql(url: str, vocabulary: Path, folder: Path) -> Answers:
    """Its adapter takes the endpoint's whole URL; its tokenizer is tiktoken's."""
    (folder / TIKTOKEN_FILE).write_bytes(gzip.decompress(vocabulary.read_bytes()))
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    warnings.simplefilter("ignore")
    import lmql
    from lmql.api.queries import query_from_string

    model = lmql.model(f"openai/{MODEL}", endpoint=f"{url}/v1/completions", chunk_timeout=SECONDS)
    queries: dict[str, Any] = {}

    async def run(task: Task, objects: int) -> list[str]:
        query = queries.get(task.name)
        if query is None:
            text, rule = QUERIES[task.name]
            code = f'sample(temperature=1.0, max_len={MAX_TOKENS})\n    "### {task.name}\\n{text}\n{rule}'
            query = queries[task.name] = query_from_string(code)
        # Its patterns are printed; and what is left of a failure must not run beside the next contender.
        with redirect_stdout(StringIO()):
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(query(model=model)) for _ in range(objects)]
        found = [item.result() for item in running]
        beginning = prompt_of(task)
        results = [item[0] if isinstance(item, list) else item for item in found]
        return [result.prompt.removeprefix(beginning) for result in results]

    return run
