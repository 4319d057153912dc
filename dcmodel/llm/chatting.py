"""The part of `LLM` for conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dcmodel.errors import CapabilityError
from dcmodel.llm.chat import Message, chat_ids, check_messages
from dcmodel.llm.loading import ModelHolder
from dcmodel.model import DcModel


class Chatting(ModelHolder):
    """`chat_prompt` and its asynchronous form."""

    def chat_prompt(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """A conversation as the model was trained to read it: a prompt of token ids for all other methods.

        ``llm.generate(llm.chat_prompt([{"role": "user", "content": "Hello"}]))``. The model's own chat
        template decides on roles and tokens, the one that begins a text included;
        `add_generation_prompt` ends with what comes before the model's answer; `continue_final_message`
        ends with the last message's text instead, for an answer that was begun; `tools` are JSON schemas.
        What reads like a special token in the messages stays text, so that no content can end its turn
        or speak for another role. (Tokens that the vocabulary counts as text, as some models' <think>, are
        what they are.) Raises `CapabilityError` where the model has no template, and `InvalidRequestError`
        where the template does not take the messages.
        """
        check_messages(messages, tools)
        return _chat_prompt(self.model, messages, add_generation_prompt, continue_final_message, tools)

    async def achat_prompt(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """`chat_prompt`, awaited: the model may have to be loaded."""
        check_messages(messages, tools)
        model = await self._ready()
        return _chat_prompt(model, messages, add_generation_prompt, continue_final_message, tools)


def _chat_prompt(
    model: DcModel,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    continue_final_message: bool,
    tools: Sequence[Mapping[str, Any]] | None,
) -> list[int]:
    """The core of both forms."""
    template = model.info.chat_template
    if not template:
        raise CapabilityError(
            f"{model.info.name} has no chat template: it is not made for conversations, or does not say how.",
            remedy="Write the prompt as a text, or use a model that was tuned for chat.",
        )
    return chat_ids(
        model.tokenizer,
        template,
        messages,
        tools=tools,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )
