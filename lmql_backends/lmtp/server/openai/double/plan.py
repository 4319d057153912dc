"""Plans of faults: read strictly, and the same for the same seed and the same requests."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.server.openai.double.faults import AnyFault, Fault, Match, Streamed, Whole
from lmql_backends.lmtp.server.openai.double.wishes import CHATS, COMPLETIONS, DECISIONS, Json

ROUTES: Mapping[str, str] = {"completions": COMPLETIONS, "chat": CHATS, "decisions": DECISIONS}
KINDS: Mapping[str, type[Fault]] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyFault)}
"""By the names that plans use."""


class FaultPlan:
    """Which faults befall which requests. Counts them: one plan belongs to one double."""

    def __init__(self, faults: Sequence[AnyFault] = (), *, seed: int = 0) -> None:
        """`faults` in the order in which they are applied."""
        self.faults = tuple(faults)
        self._seed = seed
        self._seen: Counter[int] = Counter()
        self._happened: Counter[int] = Counter()

    def next(self, path: str, body: Json, data: bytes) -> list[AnyFault]:
        """What befalls the next request. `data`: its body as it came."""
        return [
            fault
            for place, fault in enumerate(self.faults)
            if _matches(fault.match, path, body, data)
            and _is_for(fault, body)
            and self._befalls(place, fault)
        ]

    def _befalls(self, place: int, fault: AnyFault) -> bool:
        """Whether it happens to the next of the requests that it is about."""
        self._seen[place] += 1
        number = self._seen[place]
        if fault.requests is not None and not any(_holds(item, number) for item in fault.requests):
            return False
        if fault.times is not None and self._happened[place] >= fault.times:
            return False
        if fault.rate < 1 and random.Random(f"{self._seed}:{place}:{number}").random() >= fault.rate:
            return False
        self._happened[place] += 1
        return True


def _matches(match: Match, path: str, body: Json, data: bytes) -> bool:
    return (
        (match.route is None or ROUTES[match.route] == path)
        and (match.model is None or body.get("model") == match.model)
        and (match.stream is None or (body.get("stream") is True) == match.stream)
        and (match.text is None or match.text.encode() in data)
    )


def _is_for(fault: AnyFault, body: Json) -> bool:
    """Some happen to streams only, or never to them."""
    is_stream = body.get("stream") is True
    return not isinstance(fault, Whole if is_stream else Streamed)


def _holds(item: int | str, number: int) -> bool:
    """Whether a number is, or a span holds, this one."""
    if isinstance(item, int):
        return item == number
    first, _, last = item.partition("-")
    return int(first) <= number and (not last or number <= int(last))


def plan_from(given: Any, *, place: str = "the plan") -> FaultPlan:
    """From plain values: ``{"seed": 0, "faults": [{"fault": "hang", "requests": [1]}, ...]}``.

    Raises `InvalidRequestError`, which names the entry.
    """
    if not isinstance(given, Mapping):
        raise _error(place, f"it is {given!r:.60}, and no object")
    unknown = sorted(set(given) - {"seed", "faults"})
    if unknown:
        raise _error(place, f"there is no field {unknown[0]!r:.60}; there are seed and faults")
    seed, faults = given.get("seed", 0), given.get("faults", [])
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise _error(f"{place}: seed", f"it is {seed!r:.60}, and no integer")
    if not isinstance(faults, Sequence) or isinstance(faults, str):
        raise _error(f"{place}: faults", f"it is {faults!r:.60}, and no list")
    return FaultPlan(
        [_fault_from(item, f"{place}: faults[{number}]") for number, item in enumerate(faults)], seed=seed
    )


def read_plan(path: str | Path) -> FaultPlan:
    """A plan in a file of JSON. Raises `InvalidRequestError`."""
    return plan_from(read_json(path), place=str(path))


def read_json(path: str | Path) -> Any:
    """Raises `InvalidRequestError` for a file that cannot be read, or is not JSON."""
    try:
        return msgspec.json.decode(Path(path).read_bytes())
    except OSError as error:
        raise InvalidRequestError(
            f"{str(path)!r} cannot be read: {error.strerror or error}.", remedy="Check the path."
        ) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"{str(path)!r} is not JSON: {error}.", remedy="docs/openai-double.md has an example."
        ) from error


def _fault_from(given: Any, place: str) -> AnyFault:
    name = given.get("fault") if isinstance(given, Mapping) else None
    if not isinstance(name, str) or name not in KINDS:
        raise _error(place, f"there is no fault {name!r:.60}; there are {', '.join(KINDS)}")
    try:
        fault: AnyFault = msgspec.convert(given, KINDS[name])  # type: ignore[assignment]
    except msgspec.ValidationError as error:
        raise _error(f"{place} ({name})", str(error)) from None
    for item in fault.requests or ():
        first, _, last = str(item).partition("-")
        if last and int(last) < int(first):
            raise _error(f"{place} ({name})", f"the span {item!r} holds no number")
    return fault


def _error(place: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"{place}: {reason}.", remedy="docs/openai-double.md lists the faults.")
