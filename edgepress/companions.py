"""The files that go with a model's weights into a bundle: tokenizer, chat template, generation settings.

JSON loses its blanks, and a tokenizer's merges become strings: SmolLM2's tokenizer then takes 1.4 MB in place of 3.5.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def companions(folder: Path) -> dict[str, bytes]:
    """Name -> content, as a bundle stores it, of those that the folder has."""
    return {name: compact(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}


@cache
def companion_bytes(folder: Path) -> int:
    """How many bytes they take."""
    return sum(map(len, companions(folder).values()))


def compact(path: Path) -> bytes:
    """A file's content; JSON in few bytes. What is no JSON stays as it is."""
    content = path.read_bytes()
    if path.suffix != ".json":
        return content
    try:
        facts = json.loads(content)
        _join_merges(facts)
        return json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return content


def _join_merges(facts: Any) -> None:
    """["a", "b"] -> "a b", the other form that the tokenizers library reads, where no part has a blank."""
    model = facts.get("model") if isinstance(facts, dict) else None
    if not isinstance(model, dict):
        return
    merges = model.get("merges")
    if not isinstance(merges, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in merges):
        return
    if all(isinstance(part, str) and part and " " not in part for pair in merges for part in pair):
        model["merges"] = [" ".join(pair) for pair in merges]
