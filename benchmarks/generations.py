"""Many constrained generations, each judged when it ends."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tqdm import tqdm

from benchmarks.judge import Judge, NotCheckableError, has_repeated_keys
from benchmarks.schemas import Case
from dcmodel.backend import LoadedEngine
from dcmodel.constraints import ConstraintCache, JsonSchema
from dcmodel.errors import DcModelError, InvalidConstraintError
from dcmodel.local import LocalDcModel
from dcmodel.types import Completion, FinishReason, GenerateRequest, SamplingParams

STYLES = ("spaced", "compact", "bounded", "flexible")
PROMPTS = (
    "A record as JSON: ",
    "Mira Novak, 34, lives in Velden. As JSON:\n",
    "{}",
    "The configuration of the service is\n```json\n",
    "1 2 3 4",
    'Answer with JSON only. "',
)
TEMPERATURE = 1.5
COMPILE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many generations, and how."""

    count: int
    max_tokens: int = 200
    seed: int = 0
    concurrency: int = 32
    hang_seconds: float = 120.0
    progress: bool = True


@dataclass(slots=True)
class Verdict:
    """What came of it."""

    schemas: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """By case: the typed error."""
    not_checkable: dict[str, str] = field(default_factory=dict)
    unchecked: Counter[str] = field(default_factory=Counter)
    """Results of checkable schemas that the judge could not say anything of, by reason."""
    finished: int = 0
    checked: int = 0
    ran_out: int = 0
    """Ended by max_tokens or the context, and say so."""
    repeated_keys: int = 0
    invalid: list[str] = field(default_factory=list)
    mislabelled: list[str] = field(default_factory=list)
    """Say something of themselves that is not so."""
    errors: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    tokens: int = 0
    forced: int = 0
    seconds: float = 0.0
    is_stuck: bool = False

    @property
    def holds(self) -> bool:
        return not (self.invalid or self.mislabelled or self.hangs) and self.finished > 0

    @property
    def error_kinds(self) -> Counter[str]:
        return Counter(text.partition(":")[0] for text in self.errors)


@dataclass(slots=True)
class _Rule:
    name: str
    constraints: list[JsonSchema]
    judge: Judge | None


async def run(loaded: LoadedEngine, cases: Sequence[Case], plan: Plan) -> Verdict:
    """Round-robin over the schemas, in all whitespace styles, each request with a seed of its own."""
    verdict = Verdict(schemas=len(cases))
    cache = ConstraintCache(capacity=len(STYLES) * len(cases))
    rules = await _rules(loaded, cases, cache, verdict, plan)
    model = LocalDcModel(loaded, constraints=cache)
    prompts = [tuple(model.tokenizer.encode_prompt(text)) for text in PROMPTS]
    jobs = iter(range(plan.count if rules else 0))
    bar = tqdm(total=plan.count, desc="generations", unit="req", disable=not plan.progress)
    limit = min(plan.max_tokens, model.info.max_positions - max(map(len, prompts)) - 1)

    async def work(jobs: Iterator[int]) -> None:
        for job in jobs:
            if verdict.is_stuck:
                return
            turn, place = divmod(job, len(rules))
            rule = rules[place]
            request = GenerateRequest(
                prompt_ids=prompts[job % len(prompts)],
                constraint=rule.constraints[(turn + place) % len(STYLES)],
                sampling=SamplingParams(temperature=TEMPERATURE, seed=plan.seed * plan.count + job),
                max_tokens=limit,
                logprobs=False,
            )
            await _one(model, rule, request, f"{rule.name} (job {job})", verdict, plan)
            bar.update()

    await asyncio.gather(*(work(jobs) for _ in range(plan.concurrency)))
    bar.close()
    if not verdict.is_stuck:
        await model.aclose()
    return verdict


async def _rules(
    loaded: LoadedEngine, cases: Sequence[Case], cache: ConstraintCache, verdict: Verdict, plan: Plan
) -> list[_Rule]:
    """The schemas that compile. Refusals are typed errors and are listed; anything else fails the run."""
    rules = []
    loop = asyncio.get_running_loop()
    compilers = ThreadPoolExecutor(1)
    for case in tqdm(cases, desc="compiling", unit="schema", disable=not plan.progress):
        if verdict.is_stuck:
            break
        try:
            constraints = [JsonSchema(json.loads(case.schema), whitespace=style) for style in STYLES]
            for constraint in constraints:
                job = loop.run_in_executor(compilers, cache.get, constraint, loaded.tokenizer)
                await asyncio.wait_for(job, COMPILE_SECONDS)
        except InvalidConstraintError as error:
            verdict.refused[case.name] = f"{type(error).__name__}: {error.message}"
            continue
        except TimeoutError:
            verdict.hangs.append(f"{case.name}: more than {COMPILE_SECONDS:g} s to compile")
            verdict.is_stuck = True
            break
        judge = None
        try:
            judge = Judge(case.schema)
        except NotCheckableError as error:
            verdict.not_checkable[case.name] = str(error)
        rules.append(_Rule(case.name, constraints, judge))
    compilers.shutdown(wait=False)
    return rules


async def _one(
    model: LocalDcModel, rule: _Rule, request: GenerateRequest, label: str, verdict: Verdict, plan: Plan
) -> None:
    stream = model.generate(request)
    ended = asyncio.ensure_future(stream.completion())
    try:
        completion = await asyncio.wait_for(asyncio.shield(ended), plan.hang_seconds)
    except TimeoutError:
        verdict.hangs.append(f"{label}: not done after {plan.hang_seconds:g} s")
        stream.cancel()
        done, _ = await asyncio.wait([ended], timeout=plan.hang_seconds)
        verdict.is_stuck = verdict.is_stuck or not done
        return
    except DcModelError as error:
        verdict.errors.append(f"{type(error).__name__}: {label}: {error.message}")
        return
    _judge(completion, rule, request, label, verdict)


def _judge(
    completion: Completion, rule: _Rule, request: GenerateRequest, label: str, verdict: Verdict
) -> None:
    verdict.finished += 1
    verdict.tokens += completion.usage.completion_tokens
    verdict.forced += completion.usage.forced_tokens
    claims_valid = completion.certificate.valid
    if completion.finish_reason is FinishReason.LENGTH:
        verdict.ran_out += 1
        if completion.stop_reason not in ("max_tokens", "context"):
            verdict.mislabelled.append(f"{label}: length, but the reason is {completion.stop_reason}")
        if len(completion.token_ids) != request.max_tokens and completion.stop_reason == "max_tokens":
            verdict.mislabelled.append(f"{label}: {len(completion.token_ids)} tokens are no max_tokens")
        if not claims_valid:
            return  # a prefix, and says so
    elif claims_valid is not True or completion.finish_reason is not FinishReason.STOP:
        verdict.mislabelled.append(f"{label}: {completion.finish_reason}, certified {claims_valid}")
    if rule.judge is None:
        return
    try:
        fault = rule.judge.fault(completion.text)
    except NotCheckableError as error:
        verdict.unchecked[str(error)] += 1
        return
    verdict.checked += 1
    if fault is not None:
        text = "".join(itertools.islice(completion.text, 500))
        verdict.invalid.append(f"{label}: {fault}\n    {text!r}")
    elif has_repeated_keys(completion.text):
        verdict.repeated_keys += 1
