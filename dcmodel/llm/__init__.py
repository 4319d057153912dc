"""`LLM`: the one simple interface over any `DcModel`.

facade      the class itself: each method in a synchronous and an asynchronous form
options     the keyword arguments of a generation
prompts     what is one prompt, what a batch, and where a prompt ends and a continuation begins
tasks       one prompt against one model
batches     many at once, with a progress bar
streaming   what `stream` and `astream` return
results     what `score` and `choose` return
"""

from dcmodel.llm.facade import LLM
from dcmodel.llm.results import ChoiceResult, Normalizer, Scored
from dcmodel.llm.streaming import AsyncTextStream, TextStream

__all__ = ["LLM", "AsyncTextStream", "ChoiceResult", "Normalizer", "Scored", "TextStream"]
