"""The requests of the demo, sent with the real SDKs, as a developer does."""

import threading
import urllib.error
import urllib.request
from typing import Final

from rich.progress import BarColumn, Progress, TextColumn

from tokenworks.app.demo.model_server import MODEL
from tokenworks.app.demo.processes import Demo
from tokenworks.app.tables import console

BURST: Final = 8


def model_listed(demo: Demo) -> bool:
    request = urllib.request.Request(
        f"{demo.base}/v1/models", headers={"authorization": f"Bearer {demo.key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return MODEL in answer.read().decode()
    except urllib.error.URLError:
        return False


def openai_stream(demo: Demo) -> None:
    import openai  # noqa: PLC0415

    console.print("[bold]openai[/bold] · chat, streamed: [italic]Why is the sky blue? One sentence.[/italic]")
    client = openai.OpenAI(base_url=f"{demo.base}/v1", api_key=demo.key)
    with client.chat.completions.create(
        model=MODEL, stream=True, max_tokens=80, temperature=0,
        messages=[{"role": "user", "content": "Why is the sky blue? One sentence."}],
    ) as stream:  # fmt: skip
        demo.finished.append(stream.response.headers["x-request-id"])
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                _show(chunk.choices[0].delta.content)
    console.print()


def anthropic_stream(demo: Demo) -> None:
    import anthropic  # noqa: PLC0415

    console.print(
        "[bold]anthropic[/bold] · messages, streamed: [italic]Name three colours of the rainbow.[/italic]"
    )
    client = anthropic.Anthropic(base_url=demo.base, api_key=demo.key)
    with client.messages.stream(
        model=MODEL,
        max_tokens=60,
        messages=[{"role": "user", "content": "Name three colours of the rainbow."}],
    ) as stream:
        demo.finished.append(stream.response.headers["x-request-id"])
        for text in stream.text_stream:
            _show(text)
    console.print()


def cancelled_stream(demo: Demo) -> None:
    import openai  # noqa: PLC0415

    console.print(
        "[bold]openai[/bold] · a stream cancelled half-way: [italic]Tell me a long story about a lighthouse.[/italic]"
    )
    client = openai.OpenAI(base_url=f"{demo.base}/v1", api_key=demo.key)
    stream = client.chat.completions.create(
        model=MODEL,
        stream=True,
        max_tokens=200,
        messages=[{"role": "user", "content": "Tell me a long story about a lighthouse."}],
    )
    seen = 0
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            _show(chunk.choices[0].delta.content)
            seen += 1
        if seen == 24:
            break
    stream.close()
    demo.interrupted += 1
    console.print(" [red]✂ cancelled[/red]")


def burst(demo: Demo) -> None:
    import openai  # noqa: PLC0415

    client = openai.OpenAI(base_url=f"{demo.base}/v1", api_key=demo.key)
    lock = threading.Lock()
    with Progress(
        TextColumn("a burst of {task.total} concurrent requests"),
        BarColumn(),
        TextColumn("{task.completed} done"),
        console=console,
    ) as bar:
        task = bar.add_task("", total=BURST)

        def send(number: int) -> None:
            raw = client.chat.completions.with_raw_response.create(
                model=MODEL,
                max_tokens=12,
                messages=[{"role": "user", "content": f"Say the number {number} in words."}],
            )
            with lock:
                demo.finished.append(raw.headers["x-request-id"])
                bar.update(task, advance=1)

        threads = [threading.Thread(target=send, args=(number,), daemon=True) for number in range(BURST)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _show(text: str) -> None:
    console.print(text, end="", style="cyan", markup=False, highlight=False)
