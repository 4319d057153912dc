"""The whole road, from a checkpoint on disk to completions, against `generate` of the same library."""

from __future__ import annotations

import asyncio
import random

import pytest
import torch
from fakes.small_tokenizer import save_small_tokenizer
from tiny_models import make_model
from transformers import AutoModelForCausalLM

from dcmodel.backend import LoadOptions
from dcmodel.local import LocalDcModel
from dcmodel.types import GenerateRequest
from lmql_backends.transformers import BACKEND

TOLERANCE = 2e-5
NAMES = ("llama", "qwen2-sliding", "mistral", "gemma2", "gpt2", "gpt_neox", "opt", "phi")


@pytest.fixture(scope="module", params=NAMES)
def folder(request, tmp_path_factory):
    """A checkpoint whose ids are a part of a real tokenizer's."""
    path = tmp_path_factory.mktemp(request.param)
    make_model(request.param, vocab_size=save_small_tokenizer(path)).save_pretrained(path)
    return path


def generated(plain, prompt, count):
    """Greedy tokens of `generate` for one prompt, and their log-probabilities."""
    output = plain.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    token_ids = output.sequences[0, len(prompt) :].tolist()
    logprobs = [
        torch.log_softmax(logits[0].double(), dim=-1)[token_id].item()
        for logits, token_id in zip(output.logits, token_ids, strict=True)
    ]
    return token_ids, logprobs


@pytest.mark.parametrize("chunk", [512, 13])
async def test_1_8_and_32_requests_equal_generate(folder, chunk):
    # Eager: the sdpa of transformers 5.17 drops Gemma 2's softcap.
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    options = LoadOptions(device="cpu", dtype="float32", max_batch_tokens=chunk)
    rng = random.Random(str(chunk))
    shared = [rng.randrange(3, 190) for _ in range(24)]
    async with LocalDcModel(BACKEND.load(str(folder), options)) as model:
        for count in (1, 8, 32):
            prompts = [
                (*(shared if i % 3 == 0 else ()), *(rng.randrange(3, 190) for _ in range(rng.randint(1, 40))))
                for i in range(count)
            ]
            requests = [
                GenerateRequest(prompt_ids=prompt, max_tokens=4 + i % 9, ignore_eos=True)
                for i, prompt in enumerate(prompts)
            ]
            streams = [model.generate(request) for request in requests]
            completions = await asyncio.gather(*(stream.completion() for stream in streams))
            for request, completion in zip(requests, completions, strict=True):
                token_ids, logprobs = generated(plain, request.prompt_ids, request.max_tokens)
                assert list(completion.token_ids) == token_ids
                got = [entry.raw_logprob for entry in completion.logprobs]
                assert max(abs(a - b) for a, b in zip(got, logprobs, strict=True)) <= TOLERANCE
