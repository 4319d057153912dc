"""The count of KV cells, against a set of the cells themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmql_backends.llama_cpp.cells import CellCount, Run


@dataclass
class Twin:
    """A sequence in both forms."""

    run: Run | None = None
    cells: list[int] = field(default_factory=list)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["new", "append", "share", "truncate", "release"]), st.floats(0, 0.999)),
    max_size=120,
)


@given(OPERATIONS, st.data())
def test_the_count_is_that_of_distinct_cells(operations, data):
    count, twins, fresh = CellCount(), [], iter(range(10**6))
    for operation, which in operations:
        if operation == "new" or not twins:
            twins.append(Twin())
            continue
        twin = twins[int(which * len(twins))]
        length = data.draw(st.integers(0, len(twin.cells)))
        match operation:
            case "append":
                twin.run = count.append(twin.run, length + 1)
                twin.cells += [next(fresh) for _ in range(length + 1)]
            case "share":
                twins.append(Twin(count.share(twin.run, length), twin.cells[:length]))
            case "truncate":
                twin.run = count.truncate(twin.run, length)
                del twin.cells[length:]
            case "release":
                count.release(twin.run)
                twins.remove(twin)
        assert count.used == len({cell for one in twins for cell in one.cells})
        for one in twins:
            assert (one.run.end if one.run is not None else 0) == len(one.cells)


def test_more_than_there_is_cannot_be_shared():
    count = CellCount()
    with pytest.raises(AssertionError):
        count.share(count.append(None, 3), 4)
