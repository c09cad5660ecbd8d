"""A tiny run of the compression table, beside a llama-quantize that knows Q8_0 only."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import prepare
from benchmarks.compress import QUANTITIES, measure_compression, relative_error
from benchmarks.random_deepseek import r1_config
from benchmarks.random_deepseek import write_checkpoint as write_deepseek
from benchmarks.random_moe import Shape, write_checkpoint
from benchmarks.rounds import OTHERS
from edgepress.checkpoint import open_checkpoint

MODEL = Shape(
    layers=1, hidden=64, experts=4, top_k=2, intermediate=32, heads=2, kv_heads=1, head_dim=32, vocab=8192, context=64
)
FAKE = """#!{python}
import sys
import gguf
from gguf.quants import quantize

_, pure, source, target, kind, threads = sys.argv
reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "qwen3moe")
for tensor in reader.tensors:
    q8 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(tensor.name, quantize(tensor.data.astype("f4"), q8), raw_dtype=q8)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
"""


def test_compression_beside_llama_quantize(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", MODEL, prepare.TOKENIZER)
    half = prepare.half_gguf(tmp_path, tmp_path / "checkpoint")
    quantize = tmp_path / "llama-quantize"
    quantize.write_text(FAKE.format(python=sys.executable))
    quantize.chmod(0o755)
    table = measure_compression(tmp_path, tmp_path / "checkpoint", half, quantize, 1, 1)
    rows = {(row.quantity, row.engine): row for row in table.rows}
    ours, mixed, theirs = "edgepress, --bits 4", "edgepress, 4z and 5 bits in blocks of 64", "llama-quantize Q4_K"
    assert {quantity for quantity, _ in rows} == {*QUANTITIES, OTHERS}
    assert 0.06 < rows["relative error", ours].median < 0.09
    assert 0.003 < rows["relative error", theirs].median < 0.008
    assert 0.04 < rows["relative error", mixed].median < rows["relative error", ours].median
    bits = "bits per weight of the matrices"
    assert [rows[bits, engine].median for engine in (ours, theirs)] == pytest.approx([4.63, 8.5], rel=0.01)
    assert rows["resident memory", ours].median > 0.01
    assert rows["size of the files", theirs].median == (tmp_path / "Q4_K.gguf").stat().st_size / 1e9


def test_the_relative_error_weighs_all_matrices_together() -> None:
    pairs = [(np.array([3.0, 0]), np.array([3.0, 3.0])), (np.array([4.0]), np.array([8.0]))]
    assert relative_error(iter(pairs)) == pytest.approx(1.0)


def test_random_layers_of_deepseek_are_complete(tmp_path: Path) -> None:
    small = {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2, "moe_intermediate_size": 160}
    write_deepseek(tmp_path / "model", r1_config(1, 16, 512, **small), prepare.TOKENIZER)
    checkpoint = open_checkpoint(tmp_path / "model")
    assert checkpoint.dtypes == ["BF16", "F32", "F8_E4M3"]
    deviation = checkpoint.tensor("layers.0.experts.7.gate").std()
    assert 0.015 < deviation < 0.025
