"""Names of models on Replicate: ``replicate:owner/name``, with a version or as a deployment."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dcmodel.errors import InvalidRequestError

PREFIX = "replicate:"
_DEPLOYMENTS = "deployments/"
_NAME = re.compile(r"(?P<owner>[A-Za-z0-9_-]+)/(?P<name>[A-Za-z0-9._-]+)(:(?P<version>[A-Za-z0-9]+))?")


@dataclass(frozen=True, slots=True)
class ModelName:
    """What to ask Replicate for."""

    owner: str
    name: str
    version: str = ""
    """Empty: the latest one, or what the deployment runs."""
    is_deployment: bool = False

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Raises `InvalidRequestError` that says which forms there are."""
        rest = text.removeprefix(PREFIX)
        is_deployment = rest.startswith(_DEPLOYMENTS)
        found = _NAME.fullmatch(rest.removeprefix(_DEPLOYMENTS))
        if found is None or (is_deployment and found["version"]):
            raise InvalidRequestError(
                f"{text!r:.200} names no model on Replicate.",
                remedy=f"Write {PREFIX}OWNER/NAME, {PREFIX}OWNER/NAME:VERSION or "
                f"{PREFIX}{_DEPLOYMENTS}OWNER/NAME.",
            )
        return cls(found["owner"], found["name"], found["version"] or "", is_deployment)

    def __str__(self) -> str:
        version = f":{self.version[:12]}" if self.version else ""
        return f"{PREFIX}{_DEPLOYMENTS if self.is_deployment else ''}{self.owner}/{self.name}{version}"
