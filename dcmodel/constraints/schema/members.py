"""Rules for the members of an object: named ones once each, in a fixed order or in any, and others.

In any order a parameter of 64 bits goes along: a bit for each named member that has come, required ones
first, and where the number of members matters a counter in its lowest bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dcmodel.constraints.schema.lark import EMPTY, LarkWriter
from dcmodel.constraints.schema.strings import literal

BITS = 60
"""The engine's parameters have 64 bits, of which the highest are not to be relied on."""
COUNTER_BITS = 8
COUNTER = f"[0:{COUNTER_BITS}]"
MAX_COUNT = (1 << COUNTER_BITS) - 2


@dataclass(frozen=True, slots=True)
class Member:
    """A member with a known key, and the rule of its value."""

    key: str
    value: str
    is_required: bool


@dataclass(frozen=True, slots=True)
class Others:
    """Members whose keys are of a terminal."""

    key: str
    value: str


def write_members(
    writer: LarkWriter,
    members: Sequence[Member],
    others: Sequence[Others],
    *,
    order: Literal["schema", "any"],
    least: int = 0,
    most: int | None = None,
) -> tuple[str, ...]:
    """The alternatives of an object with these members, sorted as they are to come.

    `least` and `most` count members. What cannot be counted is noted as loose.
    """
    layout = writer.layout
    required = sum(member.is_required for member in members)
    least = least if least > required else 0
    if most is not None and not others and most >= len(members):
        most = None
    if most is not None and most < required:
        return ()
    if (least > MAX_COUNT) or (most or 0) > MAX_COUNT:
        writer.note("minProperties")
        least, most = min(least, MAX_COUNT), None if (most or 0) > MAX_COUNT else most
    empty = () if required or least else (layout.empty_object,)
    if most == 0 or not (members or others):
        return empty
    write = _any_order if order == "any" else _fixed_order
    body = write(writer, members, others, least, most)
    return (*empty, f"{layout.open_object} {body} {layout.close_object}")


def _pair(writer: LarkWriter, member: Member | Others) -> str:
    key = writer.terminal(literal(member.key)) if isinstance(member, Member) else member.key
    return f"{key} {writer.layout.colon} {member.value}"


# -- any order -------------------------------------------------------------------------------------


def _any_order(
    writer: LarkWriter, members: Sequence[Member], others: Sequence[Others], least: int, most: int | None
) -> str:
    """At least one member."""
    is_counted = bool(least) or most is not None
    base = COUNTER_BITS if is_counted else 0
    room = BITS - base
    required = sum(member.is_required for member in members)
    if required > room:
        writer.note("required")
    named, unnumbered = members[:room], members[room:]
    if unnumbered and is_counted:
        writer.note("minProperties")
    required = min(required, room)
    more, rest = writer.new_rule(), writer.new_rule()
    alternatives = [
        f"{_pair(writer, member)} {rest}::set_bit({bit}) %if bit_clear({bit})"
        for bit, member in enumerate(named, base)
    ]
    free: list[Member | Others] = [*unnumbered, *others]
    alternatives += [f"{_pair(writer, member)} {rest}::_" for member in free]
    writer.set_rule(more, alternatives)
    ending = [f"is_ones([{base}:{base + required}])"] if required else []
    ending += [f"ge({COUNTER},{least - 1})"] if least else []
    end = f"{EMPTY} %if {_all(ending)}" if ending else EMPTY
    # Counted at the comma: a rule of nothing but another one with a parameter is misread by the engine.
    go_on = f"{writer.layout.comma} {more}::{f'incr({COUNTER})' if is_counted else '_'}"
    # A comma only where a member is left for it.
    left = [f"lt({COUNTER},{most - 1})"] if most is not None else []
    left += [] if free else [f"bit_count_lt([{base}:{base + len(named)}],{len(named)})"]
    writer.set_rule(rest, [end, f"{go_on} %if {_all(left)}" if left else go_on])
    return f"{more}::0"


def _all(conditions: Sequence[str]) -> str:
    joined = conditions[-1]
    for condition in reversed(conditions[:-1]):
        joined = f"and({condition},{joined})"
    return joined


# -- a fixed order ---------------------------------------------------------------------------------


def _fixed_order(
    writer: LarkWriter, members: Sequence[Member], others: Sequence[Others], least: int, most: int | None
) -> str:
    """At least one member; the others last."""
    if least or most is not None:
        return _fixed_and_counted(writer, members, others, least, most)
    comma = writer.layout.comma
    tail = writer.new_rule()
    writer.set_rule(tail, [EMPTY, *(f"{comma} {_pair(writer, other)} {tail}" for other in others)])
    head = None
    if others:
        head = writer.new_rule()
        writer.set_rule(head, [f"{_pair(writer, other)} {tail}" for other in others])
    for member in reversed(members):
        pair = _pair(writer, member)
        first, later = [f"{pair} {tail}"], [f"{comma} {pair} {tail}"]
        if not member.is_required:
            first += [head] if head else []
            later.append(tail)
        tail, head = writer.new_rule(), writer.new_rule()
        writer.set_rule(tail, later)
        writer.set_rule(head, first)
    assert head is not None, "an object of at least one member"
    return head


def _fixed_and_counted(
    writer: LarkWriter, members: Sequence[Member], others: Sequence[Others], least: int, most: int | None
) -> str:
    """The same with a counter of commas, and so without rules that skip a member."""
    comma, step = writer.layout.comma, f"::incr({COUNTER})"
    tails = [writer.new_rule() for _ in range(len(members) + 1)]
    room = f" %if lt({COUNTER},{most - 1})" if most is not None else ""
    heads = []
    for place, tail in enumerate(tails):
        nexts: list[tuple[Member | Others, str]] = []
        for later in range(place, len(members)):
            nexts.append((members[later], tails[later + 1]))
            if members[later].is_required:
                break
        else:
            nexts += [(other, tails[-1]) for other in others]
        pairs = [(_pair(writer, member), after) for member, after in nexts]
        if place == 0:
            heads = [f"{pair} {after}::_" for pair, after in pairs]
            continue
        texts = [f"{comma} {pair} {after}{step}{room}" for pair, after in pairs]
        if not any(member.is_required for member in members[place:]):
            texts.insert(0, f"{EMPTY} %if ge({COUNTER},{max(least - 1, 0)})")
        writer.set_rule(tail, texts)
    if not others or members:
        writer.set_rule(tails[0], heads)
        return f"{tails[0]}::0"
    begin = writer.new_rule()
    writer.set_rule(begin, heads)
    writer.set_rule(
        tails[0],
        [
            f"{EMPTY} %if ge({COUNTER},{max(least - 1, 0)})",
            *(f"{comma} {_pair(writer, other)} {tails[0]}{step}{room}" for other in others),
        ],
    )
    return f"{begin}::0"
