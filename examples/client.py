"""The OpenAI and the Anthropic SDK against one gateway, streamed and not. Needs: pip install openai anthropic

WORKS_URL (http://127.0.0.1:8080), WORKS_KEY (an API key) and MODEL say where, as whom and what.
"""

import os

import anthropic
import openai

URL = os.environ.get("WORKS_URL", "http://127.0.0.1:8080")
KEY = os.environ["WORKS_KEY"]
MODEL = os.environ.get("MODEL", "qwen3")
QUESTION = [{"role": "user", "content": "Why is the sky blue? One sentence."}]


def with_openai() -> None:
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY)
    print("models:", ", ".join(sorted(model.id for model in client.models.list())))

    answer = client.chat.completions.create(model=MODEL, max_tokens=60, messages=QUESTION)
    print(
        f"chat: {answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens:",
        answer.choices[0].message.content,
    )

    # `include_usage` makes the last chunk say what is charged. It is charged the same without.
    with client.chat.completions.create(
        model=MODEL, max_tokens=60, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    ) as stream:
        text = []
        for chunk in stream:
            if chunk.choices:
                text.append(chunk.choices[0].delta.content or "")
            if chunk.usage is not None:
                usage = chunk.usage
    print(f"chat, streamed: {usage.prompt_tokens} + {usage.completion_tokens} tokens:", "".join(text))


def with_anthropic() -> None:
    client = anthropic.Anthropic(base_url=URL, api_key=KEY)

    answer = client.messages.create(model=MODEL, max_tokens=60, messages=QUESTION)
    said = "".join(block.text for block in answer.content if block.type == "text")
    print(f"messages: {answer.usage.input_tokens} + {answer.usage.output_tokens} tokens:", said)

    with client.messages.stream(model=MODEL, max_tokens=60, messages=QUESTION) as stream:
        said = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    print(f"messages, streamed: {usage.input_tokens} + {usage.output_tokens} tokens:", said)


if __name__ == "__main__":
    with_openai()
    with_anthropic()
