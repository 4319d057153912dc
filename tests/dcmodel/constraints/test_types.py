"""Type: ranges against brute force, examples, and texts drawn from the masks, all of which parse."""

from __future__ import annotations

import datetime
import ipaddress
import random
import re
import uuid
from decimal import Decimal

import pytest

from dcmodel.constraints.llg_walker import LlgWalker, build_byte_engine
from dcmodel.constraints.number_ranges import decimals, integers
from dcmodel.constraints.value_types import MAX_INTEGER, Type
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError

NAMES = ["int", "float", "number", "decimal", "bool", "str", "date", "time", "datetime", "duration", "uuid"]
NAMES += ["ipv4", "ipv6", "email", "hostname", "uri", "url"]
UTC = datetime.UTC

EXAMPLES = {
    "int": (
        {"0": 0, "-12": -12, "999999999999999999": 10**18 - 1, "-999999999999999999": 1 - 10**18},
        ["", "-", "-0", "01", "+1", "1.0", "1e3", " 1", "1 ", "1_000", "1000000000000000000", "\u0663"],
    ),
    "float": (
        {"0": 0.0, "-0.5": -0.5, "3.140": 3.14, "-0.0": 0.0, "1" * 15: float("1" * 15)},
        ["", ".5", "5.", "1e3", "nan", "inf", "-", "00.5", "1" * 16, "0." + "1" * 16, "1,5"],
    ),
    "number": (
        {"12": 12, "-0.5": -0.5, "1e3": 1000.0, "2.5E-10": 2.5e-10, "1e+99": 1e99},
        ["", "e3", "1e", "1e100", "0x1", "+1"],
    ),
    "decimal": ({"0.10": Decimal("0.10"), "-3": Decimal(-3)}, ["1e3", "NaN", "1."]),
    "bool": ({"true": True, "True": True, "false": False, "False": False}, ["TRUE", "1", "yes", "fals", ""]),
    "str": ({"": "", "a\nb🐢": "a\nb🐢"}, []),
    "date": (
        {"2024-02-29": datetime.date(2024, 2, 29), "0001-01-01": datetime.date(1, 1, 1)},
        [
            "2023-02-29",
            "1900-02-29",
            "2024-13-01",
            "2024-04-31",
            "0000-01-01",
            "24-01-01",
            "2024-1-1",
            "20240101",
        ],
    ),
    "time": (
        {
            "14:30": datetime.time(14, 30),
            "23:59:59.25": datetime.time(23, 59, 59, 250000),
            "00:00Z": datetime.time(0, 0, tzinfo=UTC),
        },
        ["24:00", "12:60", "12", "12:30:60", "12:30.5", "12:30+24:00", "12:30:00.1234567", "1:30"],
    ),
    "datetime": (
        {
            "2024-02-29T14:30": datetime.datetime(2024, 2, 29, 14, 30),
            "2024-02-29 14:30:05Z": datetime.datetime(2024, 2, 29, 14, 30, 5, tzinfo=UTC),
        },
        ["2024-02-29", "2024-02-30T14:30", "2024-02-29t14:30", "2024-02-29  14:30"],
    ),
    "duration": (
        {
            "P2W": datetime.timedelta(weeks=2),
            "P1DT2H": datetime.timedelta(days=1, hours=2),
            "-PT0.5S": datetime.timedelta(seconds=-0.5),
            "PT1H2M3.000001S": datetime.timedelta(hours=1, minutes=2, seconds=3, microseconds=1),
        },
        ["", "P", "PT", "P1Y", "P1M", "P1W1D", "P1DT", "1D", "PT1S1H", "PT1H3S1M"],
    ),
    "uuid": (
        {"123E4567-e89b-12d3-a456-426614174000": uuid.UUID("123e4567-e89b-12d3-a456-426614174000")},
        ["123e4567e89b12d3a456426614174000", "123e4567-e89b-12d3-a456-42661417400", "{}", ""],
    ),
    "ipv4": (
        {"0.0.0.0": ipaddress.IPv4Address(0), "255.255.255.255": ipaddress.IPv4Address(2**32 - 1)},
        ["256.1.1.1", "1.2.3", "01.2.3.4", "1.2.3.4.5", "1.2.3.4/8", ""],
    ),
    "ipv6": (
        {
            "::": ipaddress.IPv6Address(0),
            "::1": ipaddress.IPv6Address(1),
            "2001:DB8::ff00:42:8329": ipaddress.IPv6Address("2001:db8::ff00:42:8329"),
            "::ffff:1.2.3.4": ipaddress.IPv6Address("::ffff:102:304"),
            "1:2:3:4:5:6:7:8": ipaddress.IPv6Address("1:2:3:4:5:6:7:8"),
        },
        ["", ":", "1::2::3", "1:2:3:4:5:6:7", "12345::", "::1%eth0", "1.2.3.4"],
    ),
    "email": (
        {text: text for text in ("a@b.org", "first.last+tag@sub.example.com", "x!#@a-b.io")},
        [
            "a@b",
            "@b.org",
            "a.@b.org",
            ".a@b.org",
            "a..b@c.org",
            "a@-b.org",
            "a b@c.org",
            "a@b.org ",
            "a" * 65 + "@b.org",
        ],
    ),
    "hostname": (
        {text: text for text in ("localhost", "a.b.c", "xn--nxasmq6b".replace("--", "-"), "a-1.example.org")},
        ["", "-a", "a-", ".a", "a..b", "a_b", "a b", "x" * 64],
    ),
    "uri": (
        {
            text: text
            for text in ("http://a.b/c?d=e#f", "mailto:x@y.org", "urn:isbn:123", "file:///etc/hosts")
        },
        ["", "a b", "//a", "/path", "http://a b", "1http://a", "http://a/%zz"],
    ),
    "url": (
        {text: text for text in ("https://a.org", "http://localhost:8000/x/y?q=1&r=%20#top")},
        [
            "",
            "ftp://a.org",
            "https://",
            "https://a.org:0",
            "https://a.org:65536",
            "https://a_b.org",
            f"https://{'a.' * 126}org",
            "http://a.org/ x",
        ],
    ),
}


def matches(engine, text):
    walker = LlgWalker(engine.deep_copy())
    data = text.encode()
    return walker.walk(data) == len(data) and walker.is_accepting


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
    rule = Type(name)
    engine = build_byte_engine(f"start: TEXT\nTEXT: {rule.terminal()}\n")
    right, wrong = EXAMPLES[name]
    for text, value in right.items():
        assert matches(engine, text), text
        assert rule.parse(text) == value
        assert type(rule.parse(text)) is type(value)
    for text in wrong:
        assert not matches(engine, text), text


@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_masks_allow_is_a_value(name, small, masks):
    rule = Type(name)
    compiled = rule.compile(small)
    ends = set(small.eos_token_ids)
    rng = random.Random(name)
    lengths = set()
    for _ in range(12):
        matcher, token_ids = compiled.matcher(), []
        stop = rng.choice((0.9, 0.3, 0.1))
        for _ in range(120):
            allowed = sorted(masks(matcher, small) - ends)
            if not allowed or (matcher.is_accepting and rng.random() < stop):
                break
            token_id = rng.choice(allowed)
            assert matcher.advance([token_id]) == 1
            token_ids.append(token_id)
        while not matcher.is_accepting:  # close what is open
            allowed = sorted(masks(matcher, small) - ends)
            token_ids.append(rng.choice(allowed))
            assert matcher.advance(token_ids[-1:]) == 1
            assert len(token_ids) < 2500
        text = small.decode(token_ids)
        value = rule.parse(text)
        assert isinstance(value, PYTHON_TYPES.get(name, str))
        if name in ("int", "uuid", "ipv4", "ipv6", "date"):
            assert Type(type(value)) == rule
            assert type(value)(text) == value if name != "date" else value.isoformat() == text
        lengths.add(len(text))
    assert len(lengths) > (0 if name in ("uuid", "date") else 1)


PYTHON_TYPES = {
    "int": int,
    "float": float,
    "number": (int, float),
    "decimal": Decimal,
    "bool": bool,
    "date": datetime.date,
    "time": datetime.time,
    "datetime": datetime.datetime,
    "duration": datetime.timedelta,
    "uuid": uuid.UUID,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
}


@pytest.mark.parametrize("seed", range(150))
def test_a_range_of_whole_numbers_holds_exactly_them(seed):
    rng = random.Random(seed)
    size = rng.choice((9, 30, 120, 1100))
    low = rng.randint(-size, size)
    high = rng.randint(low, size)
    pattern = re.compile(integers(low, high))
    for number in range(-1500, 1500):
        assert bool(pattern.fullmatch(str(number))) == (low <= number <= high)
    for wrong in ("", "-", "-0", "00", "01", "-01", "+1", " 1"):
        assert not pattern.fullmatch(wrong)


def test_ranges_of_long_numbers():
    rng = random.Random(0)
    for _ in range(300):
        low, high = sorted(
            rng.randint(-(10 ** rng.randint(1, 25)), 10 ** rng.randint(1, 25)) for _ in range(2)
        )
        pattern = re.compile(integers(low, high))
        edges = [low, high, low - 1, high + 1, 0, 1, -1, low * 10, high * 10, (low + high) // 2]
        for number in [*edges, *(rng.randint(min(low, -high) * 2, abs(high) * 2 + 1) for _ in range(20))]:
            assert bool(pattern.fullmatch(str(number))) == (low <= number <= high), (low, high, number)
    assert integers(1, 0) is None
    assert integers(0, -5) is None
    assert integers(-3, -5) is None


@pytest.mark.parametrize("seed", range(150))
def test_a_range_of_decimals_holds_exactly_them(seed):
    rng = random.Random(seed)
    places = rng.choice((1, 2, 3))
    low, high = sorted(Decimal(rng.randint(-400, 400)) / rng.choice((1, 10, 100)) for _ in range(2))
    text = decimals(low, high, places=places)
    pattern = re.compile(text if text is not None else "(?!)")
    texts = {f"{rng.randint(-12, 12)}.{rng.randint(0, 1000)}" for _ in range(300)}
    texts |= {f"{sign}{whole}.{part}" for sign in ("", "-") for whole in (0, 1, 4, 12) for part in range(100)}
    texts |= {f"{sign}{whole}.{part:02}" for sign in ("", "-") for whole in (0, 1, 3) for part in range(100)}
    texts |= {str(number) for number in range(-410, 410)} | {
        format(low, "f"),
        format(high, "f"),
        "-0",
        "-0.0",
    }
    for candidate in texts:
        part = candidate.partition(".")[2]
        is_inside = low <= Decimal(candidate) <= high and len(part) <= places
        if candidate.startswith("-") and Decimal(candidate) == 0:
            is_inside = low < 0 <= high and len(part) <= places
        assert bool(pattern.fullmatch(candidate)) == is_inside, (low, high, places, candidate)
    for wrong in ("", "-", ".", "1.", ".5", "00", "01.5", "+1", "1e1"):
        assert not pattern.fullmatch(wrong)


def test_a_range_finer_than_the_places_is_empty():
    assert decimals(Decimal("0.11"), Decimal("0.14"), places=1) is None
    assert re.fullmatch(decimals(Decimal("0.11"), Decimal("0.24"), places=1), "0.2")
    assert decimals(Decimal(2), Decimal(1), places=3) is None


@pytest.mark.parametrize("name", ["int", "float", "number", "decimal"])
def test_bounds_hold_on_the_masks(name, small):
    rule = Type(name, minimum=-12, maximum=123)
    engine = build_byte_engine(f"start: TEXT\nTEXT: {rule.terminal()}\n")
    for number in range(-200, 300):
        assert matches(engine, str(number)) == (-12 <= number <= 123)
    assert not matches(engine, "1e1")
    assert matches(engine, "122.5") == (name != "int")
    matcher = rule.compile(small).matcher()
    assert matcher.advance(list(b"124")) == 2
    assert not matcher.is_finished
    assert matcher.advance(list(b"3")) == 1
    assert matcher.is_finished == (name == "int")


def test_bounds_may_be_fractions_and_one_sided():
    engine = build_byte_engine(f"start: TEXT\nTEXT: {Type(float, minimum=0.25).terminal()}\n")
    for text, is_inside in {"0.25": True, "0.249": False, "0.250001": True, "7": True, "-1": False}.items():
        assert matches(engine, text) == is_inside
    engine = build_byte_engine(f"start: TEXT\nTEXT: {Type(float, maximum=1e-7).terminal()}\n")
    for text, is_inside in {"0.0000001": True, "0.00000011": False, "0": True, "-5.5": True}.items():
        assert matches(engine, text) == is_inside
    assert Type(float, maximum=1e50).terminal() == Type(float).terminal()
    engine = build_byte_engine(f"start: TEXT\nTEXT: {Type(int, maximum=10**20).terminal()}\n")
    assert matches(engine, str(10**20))
    assert matches(engine, str(-MAX_INTEGER))
    assert not matches(engine, str(-MAX_INTEGER - 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "nope"}, "no type 'nope'"),
        ({"of": list}, "no type"),
        ({"of": 5}, "no type 5"),
        ({"of": ["int"]}, "no type"),
        ({"of": "date", "minimum": 1}, "no minimum"),
        ({"of": "int", "minimum": 1.5}, "bound"),
        ({"of": "int", "minimum": True}, "bound"),
        ({"of": "float", "maximum": float("nan")}, "bound"),
        ({"of": "float", "maximum": "3"}, "bound"),
        ({"of": "int", "maximum": 10**200}, "bound"),
        ({"of": "float", "minimum": Decimal(1)}, "bound"),
    ],
)
def test_a_wrong_type_is_an_error(options, message):
    with pytest.raises(InvalidConstraintError, match=message):
        Type(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"of": "int", "minimum": 5, "maximum": 4},
        {"of": "int", "minimum": 10**18},
        {"of": "float", "minimum": 1e20},
        {"of": "float", "minimum": 1e-20, "maximum": 2e-20},
    ],
)
def test_a_range_without_a_number_is_an_error(options):
    with pytest.raises(UnsatisfiableConstraintError, match="at least"):
        Type(**options)


def test_types_are_known_by_their_python_types():
    for python_type, name in {
        int: "int",
        float: "float",
        bool: "bool",
        str: "str",
        Decimal: "decimal",
        datetime.date: "date",
        datetime.time: "time",
        datetime.datetime: "datetime",
        datetime.timedelta: "duration",
        uuid.UUID: "uuid",
        ipaddress.IPv4Address: "ipv4",
        ipaddress.IPv6Address: "ipv6",
    }.items():
        assert Type(python_type) == Type(name)
        assert Type(**without_kind(Type(python_type).to_dict())) == Type(name)
    bounded = Type(int, minimum=1, maximum=6)
    assert bounded.to_dict() == {"kind": "type", "of": "int", "minimum": 1, "maximum": 6}
    assert bounded != Type(int)


def without_kind(fields):
    return {name: value for name, value in fields.items() if name != "kind"}
