"""Token ids to bytes and back, for every tokenizer family.

`load` reads whatever is at a path or under a hub id; the `from_*` functions read one family each. All
return a `Tokenizer`, which `pack` turns into bytes and `unpack` back. Errors: `TokenizerError`,
`TokenIdError`, `MissingPackageError`.
"""

from dctokenizers.errors import MissingPackageError, TokenIdError, TokenizerError
from dctokenizers.families.gguf import from_gguf
from dctokenizers.families.huggingface import from_huggingface
from dctokenizers.families.sentencepiece import from_sentencepiece
from dctokenizers.families.tekken import from_tekken
from dctokenizers.families.tiktoken import from_tiktoken
from dctokenizers.loading import load
from dctokenizers.portable import PortableTokenizer, pack, unpack
from dctokenizers.stream import StreamDecoder
from dctokenizers.tokenizer import Tokenizer
from dctokenizers.vocabulary import Vocabulary

__all__ = [
    "MissingPackageError",
    "PortableTokenizer",
    "StreamDecoder",
    "TokenIdError",
    "Tokenizer",
    "TokenizerError",
    "Vocabulary",
    "from_gguf",
    "from_huggingface",
    "from_sentencepiece",
    "from_tekken",
    "from_tiktoken",
    "load",
    "pack",
    "unpack",
]
