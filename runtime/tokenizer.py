"""Text to tokens and back, with the files that the bundle carries."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgepress.bundle import TOKENIZER
from edgepress.errors import BundleError, InputError

_CONFIG, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a decoder gives for the first bytes of a character


class Tokenizer:
    """The tokenizer and chat template of a bundle."""

    def __init__(self, folder: Path, *, bos: int | None = None) -> None:
        """Read them; `bos` is put before a text wherever the tokenizer itself does not put it.

        Raises:
            BundleError: tokenizer.json or tokenizer_config.json is missing or cannot be read.
        """
        self._folder, self._bos = folder, bos
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as cause:  # tokenizers raises nothing more specific
            raise BundleError(f"cannot read {folder / TOKENIZER}: {cause}; write the bundle again") from None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of a text; `special`: with those that the model expects around one.

        Raises:
            InputError: it is not valid Unicode.
        """
        ids = self._encode(text, special=special)
        return ids if not special or self._bos is None or ids[:1] == [self._bos] else [self._bos, *ids]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The tokens of a chat; its template writes every special token itself."""
        return self._encode(self.chat(messages), special=False)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens, without special tokens."""
        return self._tokenizer.decode(list(ids))

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages of `role` and `content` as the text that the model was trained to answer.

        The template runs sandboxed, with the names that transformers gives it (its chat_template_utils).

        Raises:
            InputError: the bundle has no chat template, or the template refuses the messages.
            BundleError: the template is damaged.
        """
        config = self._config()
        tokens = {k: _content(v) for k, v in config.items() if k.endswith("_token")}
        try:
            template = _environment().from_string(self._template(config))
            return template.render(messages=messages, add_generation_prompt=True, **tokens)
        except jinja2.TemplateSyntaxError as cause:
            raise BundleError(f"the chat template of {self._folder} is damaged: {cause}") from None
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as cause:
            raise InputError(f"the chat template of {self._folder} refuses the messages: {cause}") from None

    def _encode(self, text: str, *, special: bool) -> list[int]:
        if not _is_unicode(text):
            raise InputError("the text is not valid Unicode; give it in UTF-8")
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def _config(self) -> dict[str, Any]:
        file = self._folder / _CONFIG
        if not file.is_file():
            return {}
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as cause:
            raise BundleError(f"cannot read {file}: {cause}; write the bundle again") from None
        return config if isinstance(config, dict) else {}

    def _template(self, config: dict[str, Any]) -> str:
        file = self._folder / _TEMPLATE
        template = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = next((t["template"] for t in template if t.get("name") == "default"), None)
        if not isinstance(template, str):
            raise InputError(f"{self._folder} has no chat template; give a plain prompt")
        return template


class StreamDecoder:
    """Text of tokens as they come, in whole characters.

    Decoding the tail that follows the last emitted token once without and once with the new token shows what the new
    one adds, whatever the decoder does at the start of a text (the method of text-generation-inference).
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        """`context`: tokens that stand before the first one; some decoders join words across them."""
        self._tokenizer = tokenizer
        self._ids = list(context[-4:])
        self._start, self._read = 0, len(self._ids)

    def push(self, token: int) -> str:
        """The text that this token completes, often none."""
        self._ids.append(token)
        text = self._pending()
        return "" if text.endswith(_INCOMPLETE) else self._take(text)

    def flush(self) -> str:
        """What is left; bytes that never made a character show as U+FFFD."""
        return self._take(self._pending())

    def _pending(self) -> str:
        known = self._tokenizer.decode(self._ids[self._start : self._read])
        return self._tokenizer.decode(self._ids[self._start :])[len(known) :]

    def _take(self, text: str) -> str:
        if text:
            self._start, self._read = self._read, len(self._ids)
        return text


def _is_unicode(text: str) -> bool:
    """Bytes that were not UTF-8 reach a program's arguments as surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _content(token: Any) -> Any:
    """A special token is a string, or a mapping with its string and its flags."""
    return token.get("content") if isinstance(token, dict) else token
