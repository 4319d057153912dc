"""Text to token ids as lm_eval's ``hf`` model does it, on our tokenizers."""

from __future__ import annotations

from dcmodel.errors import InvalidRequestError
from dctokenizers import Tokenizer


class Encoding:
    """The tokenizer as lm_eval's ``HFLM`` uses its own: the text of special tokens is those tokens, and
    special tokens stand at the start where the tokenizer puts them there."""

    def __init__(
        self, tokenizer: Tokenizer, *, add_bos_token: bool | None, prefix_token_id: int | None
    ) -> None:
        self._tokenizer = tokenizer
        self._add_bos_token = add_bos_token
        self._asked_prefix = prefix_token_id
        if add_bos_token and tokenizer.bos_token_id is None:
            raise InvalidRequestError(
                f"the tokenizer {tokenizer.name!r} has no BOS token.", remedy="Leave add_bos_token out."
            )
        if prefix_token_id is not None and not 0 <= prefix_token_id < tokenizer.vocab_size:
            raise InvalidRequestError(
                f"prefix_token_id is {prefix_token_id}.", remedy=f"Give 0 to {tokenizer.vocab_size - 1}."
            )

    @property
    def eos_token_id(self) -> int:
        """The first of those that end a text. Raises `InvalidRequestError` where there is none."""
        if not self._tokenizer.eos_token_ids:
            raise InvalidRequestError(
                f"the tokenizer {self._tokenizer.name!r} has no end-of-sequence token.",
                remedy="Give prefix_token_id.",
            )
        return self._tokenizer.eos_token_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: as asked for, else BOS, else EOS."""
        if self._asked_prefix is not None:
            return self._asked_prefix
        bos = self._tokenizer.bos_token_id
        return self.eos_token_id if bos is None else bos

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """`add_special_tokens` None: as the tokenizer does it, or as `add_bos_token` says."""
        if add_special_tokens is None:
            add_special_tokens = self._add_bos_token
        if add_special_tokens is False:
            return self._tokenizer.encode(text, parse_special=True, prefix_space=True)
        token_ids = self._tokenizer.encode_prompt(text, parse_special=True)
        bos = self._tokenizer.bos_token_id
        if self._add_bos_token and bos is not None and token_ids[:1] != [bos]:
            token_ids.insert(0, bos)
        return token_ids

    def decode_output(self, token_ids: tuple[int, ...]) -> str:
        """A generated text, special tokens left out. As there, a dummy space at its start is none."""
        text = self._tokenizer.decode(token_ids)
        return text.removeprefix(" ") if self._tokenizer.has_prefix_space else text

    @property
    def eos_text(self) -> str | None:
        """How the end-of-sequence token is written, if there is one."""
        if not self._tokenizer.eos_token_ids:
            return None
        return self._tokenizer.decode([self.eos_token_id], skip_special=False)
