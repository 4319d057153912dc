"""`LLM`: the one simple interface over any `DcModel`.

facade         the class itself, made of these parts; each method is synchronous and asynchronous
loading        the model by name, loaded at the first call
generating     generate, stream          over  options, strategy, completions, searches, streaming
scoring        score, score_prompt       over  scores, unconditional, endings
choosing       choose, distribution      over  choices
rolling        rolling                   over  windows
stepping       next_tokens, session      over  text_session
chatting       chat_prompt              over  chat, chat_template
adapting       mount, unmount, adapters
prompts        what is one prompt, what a batch, and where a prompt ends and a continuation begins
batches        many at once, with a progress bar
results        what the scoring methods return
"""

from dcmodel.llm.facade import LLM
from dcmodel.llm.results import ChoiceResult, Normalizer, RollingScore, Scored, ScoredToken
from dcmodel.llm.streaming import AsyncTextStream, TextStream
from dcmodel.llm.text_session import TextSession

__all__ = [
    "LLM",
    "AsyncTextStream",
    "ChoiceResult",
    "Normalizer",
    "RollingScore",
    "Scored",
    "ScoredToken",
    "TextSession",
    "TextStream",
]
