"""A tokenizer of words, and templates that take their time, for what a real tokenizer is too fast for."""

from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ("[unk]", "one", "two", "three", "system", "user", "assistant", "tool", "go", "tok", "hi")
# It writes nothing, so that nothing can stop it from within; a sandbox allows 100 000 rounds of a loop.
HANGS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
# It can be stopped at every word.
SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}one {% endfor %}{% endfor %}"


def write_words(folder, template=None):
    """`tokenizer.json` in `folder`, a word a token, and a chat template where one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder
