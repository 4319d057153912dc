"""Checks of the texts that rules are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dcmodel.errors import InvalidConstraintError


def checked_texts(texts: Iterable[str], *, what: str) -> tuple[str, ...]:
    """The distinct texts in their order; one text alone counts as a list of one.

    Raises `InvalidConstraintError` where there is none, and for one that is empty, no text, or not
    Unicode; `what` names one of them in the message.
    """
    if isinstance(texts, str):
        texts = (texts,)
    elif not isinstance(texts, Iterable) or isinstance(texts, Mapping):
        raise InvalidConstraintError(f"the {what}s are {texts!r:.40}.", remedy="Give a list of texts.")
    found: dict[str, None] = {}
    for text in texts:
        if not isinstance(text, str) or not text:
            raise InvalidConstraintError(f"a {what} is {text!r:.40}.", remedy="Give texts, not empty ones.")
        check_unicode(text, what=what)
        found[text] = None
    if not found:
        raise InvalidConstraintError(f"there are no {what}s.", remedy="Give at least one.")
    return tuple(found)


def check_unicode(text: str, *, what: str) -> None:
    """Raise `InvalidConstraintError` for a text that no UTF-8 stands for."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidConstraintError(
            f"the {what} {text!r:.40} holds half a surrogate pair.",
            remedy="Give valid Unicode text.",
            position=error.start,
        ) from None
