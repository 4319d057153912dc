from __future__ import annotations

import pytest

from dcmodel.constraints.caret import WIDTH, line_and_column, point_at


@pytest.mark.parametrize(
    ("source", "position", "shown"),
    [
        ("abc", 1, "abc\n ^"),
        ("abc", 3, "abc\n   ^"),
        ("abc", 99, "abc\n   ^"),
        ("", 0, "\n^"),
        ("one\ntwo\nthree", 5, "two\n ^"),
        ("one\ntwo", 3, "one\n   ^"),
        ("one\r\ntwo", 4, "one\n   ^"),
        ("\tx", 1, "    x\n    ^"),
        ("a\tx", 1, "a    x\n ^"),
        ("漢字x", 2, "漢字x\n    ^"),
        ("e\u0301x", 2, "e\u0301x\n ^"),
        ("\x00x", 1, "?x\n ^"),
    ],
)
def test_a_caret_stands_under_the_place(source, position, shown):
    assert point_at(source, position) == shown


@pytest.mark.parametrize("position", [0, 30, 500, 970, 999, 1000])
def test_a_long_line_is_cut_around_the_place(position):
    source = "".join(chr(ord("a") + index % 26) for index in range(1000))
    line, caret = point_at(source, position).split("\n")
    assert len(line) <= WIDTH + 6
    assert caret.endswith("^")
    if position < 1000:
        assert line[len(caret) - 1] == source[position]
    assert line.startswith("...") == (position > 60)
    assert line.endswith("...") == (position < 930)


def test_lines_and_columns_count_from_one():
    assert [line_and_column("ab\nc", position) for position in range(5)] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 1),
        (2, 2),
    ]
