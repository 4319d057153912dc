"""`LegacyDcModel`: a model behind LMQL's predictor. Everything but forwards happens on this side."""

from __future__ import annotations

from dcmodel.errors import CapabilityError
from dcmodel.local.base import SequenceModel
from dcmodel.model import GenerateStream
from dcmodel.types import GenerateRequest
from dctokenizers import Tokenizer
from lmql_backends.lmtp.client import LMTPClient
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.protocol.messages import Described

MAX_POSITIONS = 1 << 20
"""The predictor does not tell; what is too long for it is its error."""


class LegacyDcModel(LMTPDcModel):
    """Free text is one prediction, a token under a mask one each. Seeds are not to be had."""

    def __init__(self, client: LMTPClient, name: str, tokenizer: Tokenizer) -> None:
        described = Described(
            id=0,
            name=name,
            backend="replicate",
            vocab_size=tokenizer.vocab_size,
            max_positions=MAX_POSITIONS,
            fingerprint=tokenizer.fingerprint,
            eos_token_ids=list(tokenizer.eos_token_ids),
            details={"protocol": "LMTP version 1"},
            can_heal=True,
        )
        super().__init__(client, described, tokenizer)

    def generate(self, request: GenerateRequest) -> GenerateStream:
        self._check_generation(request)
        return SequenceModel.generate(self, request)

    def _check_generation(self, request: GenerateRequest) -> None:
        super()._check_generation(request)
        if request.sampling.seed is not None and request.sampling.temperature > 0:
            raise CapabilityError(
                "LMQL's predictor draws by a random number of its own.",
                remedy="Leave the seed out, use temperature 0, or push a predictor of ours.",
            )
        if request.adapter is not None:
            raise CapabilityError("LMQL's predictor has no adapters.", remedy="Push a predictor of ours.")
