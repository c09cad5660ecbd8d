"""llama.cpp's logits through a program that speaks like ours, and computes something that can be checked."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.llama_logits import LlamaLogits, build_program, candidate
from edgepress.errors import RuntimeFailure

FAKE = """
import struct, sys
import numpy as np
vocabulary = 7
sys.stdout.buffer.write(struct.pack("i", vocabulary))
sys.stdout.buffer.flush()
while head := sys.stdin.buffer.read(4):
    (count,) = struct.unpack("i", head)
    tokens = np.frombuffer(sys.stdin.buffer.read(4 * count), np.int32)
    if 13 in tokens:
        sys.exit(1)
    sys.stdout.buffer.write(np.outer(tokens, np.arange(vocabulary)).astype(np.float32).tobytes())
    sys.stdout.buffer.flush()
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str | Path]:
    (tmp_path / "fake.py").write_text(FAKE)
    return [sys.executable, tmp_path / "fake.py"]


def test_chunks_come_back_as_logits(program: list[str | Path], tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(12, size=(3, 40))
    found = list(LlamaLogits(program, tmp_path / "model.gguf", 1).logits(ids))
    np.testing.assert_array_equal(np.stack(found), ids[:, :, None] * np.arange(7))


def test_a_program_that_ends_early_is_named(program: list[str | Path], tmp_path: Path) -> None:
    found = LlamaLogits(program, tmp_path / "model.gguf", 1).logits(np.array([[1, 2], [13, 2], [3, 4]]))
    next(found)
    with pytest.raises(RuntimeFailure, match=r"ended early with .*model\.gguf"):
        list(found)


def test_a_program_that_does_not_start_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="ended early"):
        list(LlamaLogits([sys.executable, "-c", ""], tmp_path / "model.gguf", 1).logits(np.array([[1]])))


def test_a_candidate_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("program")
    digests = []
    for content in ("one", "one", "two"):
        (tmp_path / "a.gguf").write_text(content)
        found = candidate("a", tmp_path / "program", tmp_path / "a.gguf", 8, 1)
        digests.append(found.digest)
    assert (found.size_bytes, found.parameters) == (3, 8)
    assert digests[0] == digests[1] != digests[2]


def test_a_folder_without_llama_cpps_libraries_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    with pytest.raises(RuntimeFailure, match=r"no build of llama\.cpp with static libraries; run `make bench`"):
        build_program(tmp_path / "bin", tmp_path)
