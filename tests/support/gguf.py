"""A GGUF file's own tokenizer and chat template, written as Hugging Face's library reads them. For the demo's model."""

import json
import struct
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
CONTROL = 3


def metadata(path):
    """The key-value pairs at the head of a GGUF file (ggml's docs/gguf.md)."""
    with Path(path).open("rb") as file:

        def read(code):
            size = struct.calcsize("<" + code)
            return struct.unpack("<" + code, file.read(size))[0]

        def value(kind):
            if kind == _STRING:
                return file.read(read("Q")).decode("utf-8", "replace")
            if kind == _ARRAY:
                inner, count = read("I"), read("Q")
                return [value(inner) for _ in range(count)]
            return read(_SCALARS[kind])

        assert file.read(4) == b"GGUF"
        _version, _tensors, pairs = read("I"), read("Q"), read("Q")
        found = {}
        for _ in range(pairs):
            name = value(_STRING)
            found[name] = value(read("I"))
        return found


def write_tokenizer(gguf, folder):
    """`tokenizer.json`, `tokenizer_config.json` in `folder`."""
    found = metadata(gguf)
    tokens = found["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in found["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, merges))
    # SmolLM's: single digits, then GPT-2's words.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            token
            for token, kind in zip(tokens, found["tokenizer.ggml.token_type"], strict=True)
            if kind == CONTROL
        ]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "chat_template": found["tokenizer.chat_template"],
        "bos_token": tokens[found["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[found["tokenizer.ggml.eos_token_id"]],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
