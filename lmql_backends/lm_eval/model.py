"""`DcModelLM`: a dcmodel as lm_eval sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from tqdm import tqdm

from dcmodel.checks import check_integer
from dcmodel.errors import CapabilityError, ContextLengthError, InvalidRequestError
from dcmodel.llm import LLM
from dcmodel.model import DcModel
from dcmodel.types import GenerateRequest
from lmql_backends.lm_eval.arguments import ArgValue, check_names, model_name, refuse_remote_code
from lmql_backends.lm_eval.encoding import Encoding
from lmql_backends.lm_eval.flight import run_in_flight
from lmql_backends.lm_eval.generation import generation_options
from lmql_backends.lm_eval.scoring import Answer, score_pairs

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

EncodedRequest = tuple[tuple[str, str] | None, Sequence[int], Sequence[int]]
"""The texts (None in a window of a longer text), context ids, continuation ids."""


class DcModelLM(TemplateLM):  # type: ignore[misc]
    """Scores and generates with many requests in flight; the same numbers as lm_eval's ``hf``.

    model, pretrained   a folder or hub id; they mean the same. Default: the embedded model
    backend             a dcmodel backend; default: chosen by the name and by what is installed
    device, dtype       as for `LLM`. ``dtype=auto`` is the default: float32 on a CPU
    revision            of a hub id
    max_length          longest sequence in tokens, at most the model's own
    max_gen_toks        where a task does not say
    add_bos_token       whether texts begin with BOS; default: as the tokenizer does it
    prefix_token_id     what stands before a text without context; default: BOS, else EOS
    seed                of sampled generations: request number i draws with seed + i
    max_in_flight       requests handed to the model at a time (not a batch: it packs what fits)
    kv_tokens, max_sequences, max_batch_tokens   as for `LLM`
    batch_size, max_batch_size   taken because lm_eval always gives them, and ignored
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        pretrained: str | None = None,
        backend: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        seed: int | None = 1234,
        max_in_flight: int = 512,
        kv_tokens: int | None = None,
        max_sequences: int | None = None,
        max_batch_tokens: int | None = None,
        trust_remote_code: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_integer("max_gen_toks", max_gen_toks, low=1)
        check_integer("max_in_flight", max_in_flight, low=1)
        refuse_remote_code(trust_remote_code)
        self._llm = LLM(
            model_name(model, pretrained),
            backend=backend,
            device=device,
            dtype=None if dtype == "auto" else dtype,
            max_context=max_length,
            kv_tokens=kv_tokens,
            max_sequences=max_sequences,
            max_batch_tokens=max_batch_tokens,
            extra={} if revision is None else {"revision": str(revision)},
        )
        info = self._model.info
        if max_length is not None and max_length > info.max_positions:
            raise ContextLengthError(
                f"max_length is {max_length}, and {info.name} reads {info.max_positions} tokens.",
                remedy="Leave max_length out.",
            )
        self.max_length = info.max_positions
        self.max_gen_toks = max_gen_toks
        self._encoding = Encoding(
            self._model.tokenizer, add_bos_token=add_bos_token, prefix_token_id=prefix_token_id
        )
        self._seed = seed
        self._max_in_flight = max_in_flight

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, ArgValue] | None = None
    ) -> Self:
        """From ``--model_args`` and lm_eval's own options; an unknown name is an `InvalidRequestError`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, ArgValue], additional_config: Mapping[str, ArgValue] | None = None
    ) -> Self:
        """As `create_from_arg_string`. ``--model_args`` goes before ``--device``."""
        options = {name: value for name, value in (additional_config or {}).items() if value is not None}
        given: dict[str, Any] = {**options, **arg_dict}
        check_names(given, cls.__init__)
        return cls(**given)

    # -- Tokens -------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self._encoding.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        return self._encoding.prefix_token_id

    @property
    def tokenizer_name(self) -> str:
        """For the names of lm_eval's caches."""
        return self._model.tokenizer.name.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None
    ) -> list[int]:
        """Token ids as ``hf`` has them; only the last `left_truncate_len`, if that is given."""
        token_ids = self._encoding.encode(string, add_special_tokens)
        return token_ids[-left_truncate_len:] if left_truncate_len else token_ids

    def tok_decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self._model.tokenizer.decode(tokens, skip_special=skip_special_tokens)

    # -- Requests -----------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Log-likelihood of each continuation after its context, and whether greedy decoding gives it.

        Token borders are lm_eval's own: this only refuses what it would stumble over.
        """
        if any(request.args == ("", "") for request in requests):
            raise InvalidRequestError("a request has no text at all.", remedy="Give a text.")
        answers: list[Answer] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[EncodedRequest], disable_tqdm: bool = False
    ) -> list[Answer]:
        """Answers in the order of the requests; those with texts go into the result cache as they come."""
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:

            def done(number: int, answer: Answer) -> None:
                texts = requests[number][0]
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, answer)
                bar.update()

            return score_pairs(
                self._model,
                [(context, continuation) for _, context, continuation in requests],
                max_length=self.max_length,
                max_in_flight=self._max_in_flight,
                done=done,
            )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in lm_eval's windows; those of all texts run together."""
        windows: list[EncodedRequest] = []
        ends: list[int] = []
        for request in requests:
            token_ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(token_ids, self.prefix_token_id, self.max_length, 1):
                windows.append((None, *make_disjoint_window(window)))
            ends.append(len(windows))
        answers = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        totals: list[float] = []
        for begin, end, request in zip([0, *ends], ends, requests, strict=False):
            totals.append(math.fsum(logprob for logprob, _ in answers[begin:end]))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """A continuation of each context, up to the first of its `until` texts."""
        texts = [""] * len(requests)
        prompts = [self._generate_request(number, *request.args) for number, request in enumerate(requests)]
        order = sorted(range(len(requests)), key=lambda number: prompts[number].prompt_ids)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:

            async def generate(number: int) -> None:
                completion = await self._model.generate(prompts[number]).completion()
                text = self._encoding.decode_output(completion.token_ids)
                texts[number] = postprocess_generated_text(text, list(prompts[number].stop), None)
                self.cache_hook.add_partial("generate_until", requests[number].args, texts[number])
                bar.update()

            run_in_flight(generate, order, self._max_in_flight)
        return texts

    def _generate_request(self, number: int, context: str, kwargs: Mapping[str, Any]) -> GenerateRequest:
        options = generation_options(
            kwargs,
            max_gen_toks=self.max_gen_toks,
            eos_text=self._encoding.eos_text,
            seed=None if self._seed is None else self._seed + number,
        )
        room = self.max_length - options.max_gen_toks
        if room < 1:
            raise ContextLengthError(
                f"max_gen_toks is {options.max_gen_toks}: it leaves nothing of the {self.max_length} tokens "
                "of the context for a prompt.",
                remedy="Lower max_gen_toks in the task's generation_kwargs or in --gen_kwargs.",
            )
        return GenerateRequest(
            prompt_ids=tuple(self.tok_encode(context, left_truncate_len=room) or [self.prefix_token_id]),
            sampling=options.sampling,
            stop=options.until,
            max_tokens=options.max_gen_toks,
            logprobs=False,
        )

    # -- About the model ----------------------------------------------------------------------------

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        raise CapabilityError(
            "dcmodel has no chat templates.", remedy="Run without --apply_chat_template, or with --model hf."
        )

    def get_model_info(self) -> dict[str, str]:
        """What lm_eval writes beside the results."""
        info = self._model.info
        return {
            "model_name": info.name,
            "model_backend": info.backend,
            "model_device": info.device,
            "model_dtype": info.dtype,
            "dcmodel_version": version("dcmodel"),
        }

    def close(self) -> None:
        """Release the model."""
        self._llm.close()

    @property
    def _model(self) -> DcModel:
        return self._llm.model
