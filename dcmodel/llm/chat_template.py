"""Chat templates, rendered as transformers renders them: in a sandbox, for they come with any model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dcmodel.errors import CapabilityError, InvalidRequestError, MissingDependencyError

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

# Older ones let a template out of its sandbox.
OLDEST_JINJA = (3, 1, 6)
# What Python's operations in a template raise.
OPERATION_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def render(template: str, names: Mapping[str, Any]) -> str:
    """The text that a template makes of `names`, which are plain values.

    Raises `InvalidRequestError` for what the template does not take, `CapabilityError` where it is none, and
    `MissingDependencyError`.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(
            "chat templates need jinja2.", remedy='Run: pip install "jinja2>=3.1.6"'
        ) from error
    try:
        compiled = _compiled(template)
    except jinja2.TemplateError as error:
        raise CapabilityError(
            f"the model's chat template cannot be read: {error}.",
            remedy="Write the prompt as a text, as the model's documentation has it.",
        ) from error
    try:
        return compiled.render(names)
    except (jinja2.TemplateError, *OPERATION_ERRORS) as error:
        reason = str(error).rstrip(".!") or type(error).__name__
        raise InvalidRequestError(
            f"the model's chat template does not take these messages: {reason}.",
            remedy="Look for the order of roles, and the fields, that it wants: llm.info.chat_template.",
        ) from error


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers makes it: what chat templates are written for."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdigit()) < OLDEST_JINJA:
        raise MissingDependencyError(
            f"chat templates need a newer jinja2 than {jinja2.__version__}.",
            remedy='Run: pip install "jinja2>=3.1.6"',
        )

    class Generation(Extension):
        """``{% generation %}`` marks what a model said, for training; here it is only its body."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    class CheckedNamespace(jinja2.utils.Namespace):
        """Without names by which a template could reach Python's own objects."""

        def __init__(self, *given: Any, **named: object) -> None:
            attributes = dict(*given, **named)
            for name in attributes:
                check_name(name)
            super().__init__(attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check_name(name)
            super().__setitem__(name, value)

    def check_name(name: str) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace has no {name!r}")

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["namespace"] = CheckedNamespace
    environment.globals["dict"] = lambda *given, **named: dict(*given, **named)
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own writes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
