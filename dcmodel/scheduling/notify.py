"""Tells event loops that sequences have news: one wake-up per loop, however many sequences."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable

from dcmodel.scheduling.sequence import Sequence


def notify_loops(sequences: Iterable[Sequence]) -> None:
    """Call each sequence's `notify` in its own loop. A closed loop's sequences are cancelled."""
    by_loop: dict[AbstractEventLoop, list[Sequence]] = {}
    for sequence in sequences:
        if sequence.loop is not None:
            by_loop.setdefault(sequence.loop, []).append(sequence)
    for loop, group in by_loop.items():
        notifications = [sequence.notify for sequence in group if sequence.notify is not None]
        try:
            loop.call_soon_threadsafe(_call_all, notifications)
        except RuntimeError:  # the loop was closed: nobody is left to read
            for sequence in group:
                sequence.cancelled = True


def _call_all(notifications: list[Callable[[], None]]) -> None:
    for notify in notifications:
        notify()
