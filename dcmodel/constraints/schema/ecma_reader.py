"""Reads patterns of ECMA 262 into trees."""

from __future__ import annotations

import re

from dcmodel.constraints.schema.ecma_tree import (
    ANYTHING,
    DIGITS,
    END,
    LAST,
    LINE_ENDS,
    NOTHING,
    SPACE,
    START,
    WORD,
    Anchor,
    Chars,
    Group,
    Item,
    NotRegularError,
    Repeat,
    Sequence,
    UnclearError,
    complement,
)

MAX_REPEAT = 10**9
CATEGORIES = {
    **{"Letter": "L", "Lowercase_Letter": "Ll", "Uppercase_Letter": "Lu", "Mark": "M", "Number": "N"},
    **{"Decimal_Number": "Nd", "Punctuation": "P", "Symbol": "S", "Separator": "Z", "Space_Separator": "Zs"},
}
ESCAPES = {"n": 10, "r": 13, "t": 9, "v": 11, "f": 12, "0": 0}


class Reader:
    """Reads a pattern from left to right. Raises `NotRegularError`, or `IndexError` at an early end."""

    def __init__(self, pattern: str, relaxed: bool) -> None:
        self.pattern = pattern
        self.relaxed = relaxed
        self.at = 0

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self, text: str) -> bool:
        if self.pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def alternatives(self) -> tuple[Sequence, ...]:
        result = [self.sequence()]
        while self.take("|"):
            result.append(self.sequence())
        return tuple(result)

    def sequence(self) -> Sequence:
        items: list[Item] = []
        while self.peek() and self.peek() not in "|)":
            items.append(self.quantified(self.atom()))
        return tuple(items)

    def quantified(self, item: Item) -> Item:
        bounds = self.bounds()
        if bounds is None:
            return item
        if isinstance(item, Anchor):
            raise NotRegularError("a repeated anchor")
        low, high = bounds
        if max(low, high or 0) > MAX_REPEAT:
            raise NotRegularError(f"a repeat of more than {MAX_REPEAT} times")
        if high is not None and high < low:
            raise NotRegularError("a repeat from more to fewer")
        self.take("?")
        if self.bounds() is not None:
            raise NotRegularError("a repeated repeat")
        return Repeat(item, low, high)

    def bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(sign):
                return bounds
        if self.peek() != "{":
            return None
        body, closed, _ = self.pattern[self.at + 1 :].partition("}")
        low, comma, high = body.partition(",")
        if not closed or not low.isdecimal() or not low.isascii() or (high and not high.isdecimal()):
            raise UnclearError("a brace that is no repeat: write \\{")
        self.at += len(body) + 2
        return int(low), (int(high) if high else None) if comma else int(low)

    def atom(self) -> Item:
        char = self.peek()
        self.at += 1
        match char:
            case "^":
                return START
            case "$":
                return END
            case ".":
                return Chars(LINE_ENDS, negated=True)
            case "(":
                return self.group()
            case "[":
                return self.char_class()
            case "\\":
                return self.assertion() or self.escape(in_class=False)
            case "*" | "+" | "?":
                raise NotRegularError("nothing to repeat")
        return _one(ord(char))

    def group(self) -> Item:
        is_assertion = False
        if self.take("?"):
            if any(self.take(sign) for sign in ("=", "!", "<=", "<!")):
                if not self.relaxed:
                    raise NotRegularError("look-around")
                is_assertion = True
            elif self.take("<"):
                name, closed, _ = self.pattern[self.at :].partition(">")
                self.at += len(name) + len(closed)
            elif not self.take(":"):
                raise NotRegularError("a group with flags")
        alternatives = self.alternatives()
        if not self.take(")"):
            raise NotRegularError("an unmatched parenthesis")
        return NOTHING if is_assertion else Group(alternatives)

    def char_class(self) -> Chars:
        negated = self.take("^")
        ranges: list[tuple[int, int]] = []
        properties: list[str] = []
        while not self.take("]"):
            low = self.class_atom()
            if self.peek() == "-" and self.pattern[self.at + 1] != "]":
                self.at += 1
                high = self.class_atom()
                if not (_is_one(low) and _is_one(high)) or high.ranges[0][0] < low.ranges[0][0]:
                    raise NotRegularError("a range of characters out of order")
                ranges.append((low.ranges[0][0], high.ranges[0][0]))
                continue
            if low.negated and (low.properties or not low.ranges):
                raise NotRegularError("a negated property in a class")
            ranges += complement(low.ranges) if low.negated else low.ranges
            properties += low.properties
        return Chars(tuple(ranges), tuple(properties), negated)

    def class_atom(self) -> Chars:
        char = self.pattern[self.at]
        self.at += 1
        return self.escape(in_class=True) if char == "\\" else _one(ord(char))

    def assertion(self) -> Item | None:
        """What stands for a word boundary or back-reference, if one comes and it may be said wider."""
        char = self.pattern[self.at]
        if not self.relaxed or not (char in "bBk" or char in "123456789"):
            return None
        self.at += 1
        if char in "bB":
            return NOTHING
        if char == "k":
            _, _, rest = self.pattern[self.at :].partition(">")
            self.at = len(self.pattern) - len(rest)
        while self.peek().isdecimal():
            self.at += 1
        return ANYTHING

    def escape(self, *, in_class: bool) -> Chars:
        char = self.pattern[self.at]
        self.at += 1
        if char in "dDwWsS":
            ranges = {"d": DIGITS, "w": WORD, "s": SPACE}[char.lower()]
            return Chars(ranges, negated=char.isupper())
        if char in "pP":
            if not self.take("{"):
                raise NotRegularError("a property without braces")
            name, _, _ = self.pattern[self.at :].partition("}")
            self.at += len(name) + 1
            name = CATEGORIES.get(name, name)
            if not re.fullmatch("[LMNPSZC][a-z]?", name):
                raise NotRegularError(f"the property {name}")
            return Chars((), (f"{char}{{{name}}}",))
        if char == "b" and in_class:
            return _one(8)
        if char in "bBk" or (char.isdecimal() and char != "0"):
            raise NotRegularError("a word boundary or back-reference")
        if char == "0" and self.peek().isdecimal():
            raise NotRegularError("an octal escape")
        if char in ESCAPES:
            return _one(ESCAPES[char])
        if char == "c":
            return _one(self.control())
        if char in "xu":
            return _one(self.hexadecimal(char))
        if char.isalnum():
            raise NotRegularError(f"the unknown escape \\{char}")
        return _one(ord(char))

    def control(self) -> int:
        letter = self.pattern[self.at]
        self.at += 1
        if not (letter.isascii() and letter.isalpha()):
            raise NotRegularError("a malformed control escape")
        return ord(letter) % 32

    def hexadecimal(self, kind: str) -> int:
        if kind == "u" and self.take("{"):
            digits, _, _ = self.pattern[self.at :].partition("}")
            self.at += len(digits) + 1
        else:
            size = 2 if kind == "x" else 4
            digits = self.pattern[self.at : self.at + size]
            self.at += size
            if len(digits) < size:
                raise NotRegularError("a short escape")
        try:
            code = int(digits, 16)
        except ValueError:
            raise NotRegularError("a malformed escape") from None
        if 0xD800 <= code <= 0xDFFF or code > LAST:
            raise NotRegularError("a surrogate, which is no character")
        return code


def _one(code: int) -> Chars:
    return Chars(((code, code),))


def _is_one(chars: Chars) -> bool:
    plain = not chars.negated and not chars.properties and len(chars.ranges) == 1
    return plain and chars.ranges[0][0] == chars.ranges[0][1]
