"""Tokenizers of real models, as far as the test environment has them: what bounds are held against."""

import atexit
import base64
import functools
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.gguf import write_tokenizer
from tokenworks.app.demo.model_server import weights
from tokenworks.kernel import Unavailable

# GPT-4's way to cut a text into words (tiktoken's cl100k_base).
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
CL100K_FILE = "core/_static/tiktoken_cache/9b5ad71b2ce5302211f9c61530b329a4922fc6a4"


@functools.cache
def smollm2_folder():
    """The demo model's own: 49 152 tokens. Skips where its weights are not installed."""
    folder = Path(tempfile.mkdtemp(prefix="tokenworks-test-")) / "smollm2"
    try:
        write_tokenizer(weights(), folder)
    except Unavailable as missing:
        pytest.skip(str(missing))
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    return folder


@functools.cache
def counters():
    """Name of a tokenizer to what counts a text with it: SmolLM2's, and GPT-4's where a package brings it."""
    from tokenizers import Tokenizer

    smollm2 = Tokenizer.from_file(str(smollm2_folder() / "tokenizer.json"))
    found = {"smollm2": lambda text: len(smollm2.encode(text, add_special_tokens=False).ids)}
    try:
        import llama_index
        import tiktoken
    except ImportError:
        return found
    for root in llama_index.__path__:
        path = Path(root) / CL100K_FILE
        if path.exists():
            rows = (line.split() for line in path.read_bytes().splitlines())
            ranks = {base64.b64decode(token): int(rank) for token, rank in rows}
            encoding = tiktoken.Encoding("cl100k", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={})
            found["cl100k"] = lambda text: len(encoding.encode_ordinary(text))
    return found
