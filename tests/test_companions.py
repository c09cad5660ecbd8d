"""Companions of the weights: fewer bytes, the same content."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgepress.companions import compact, companion_bytes, companions
from tests.tiny import SAMPLE


def test_a_compact_tokenizer_reads_and_writes_the_same_tokens(tmp_path: Path) -> None:
    short = tmp_path / "tokenizer.json"
    short.write_bytes(compact(SAMPLE / "tokenizer.json"))
    assert short.stat().st_size < (SAMPLE / "tokenizer.json").stat().st_size / 2
    text = 'def main(argv): return "Ça va, 12345?"  # naïve'
    before, after = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (SAMPLE, tmp_path))
    ids = before.encode(text).ids
    assert after.encode(text).ids == ids
    assert after.decode(ids) == before.decode(ids)


@pytest.mark.parametrize("merges", [[["a b", "c"]], [["a", ""]], [["a"]], ["a b"], 7])
def test_merges_that_a_string_cannot_say_stay_as_they_are(merges: object, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"merges": merges}}, indent=2), encoding="utf-8")
    assert json.loads(compact(path))["model"]["merges"] == merges


@pytest.mark.parametrize("content", [b"no json", b"[" * 100_000, b'"\\ud800"', b"\xff"])
def test_what_cannot_be_shortened_is_kept(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_bytes(content)
    assert compact(path) == content


def test_only_files_that_are_there_count() -> None:
    held = companions(SAMPLE)
    assert set(held) == {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert companion_bytes(SAMPLE) == sum(map(len, held.values()))
