"""Data-free 4-bit compression of the 2.77 B model: `edgepress compress` beside `llama-quantize` to Q4_K.

Both read 16-bit weights from a warm page cache and write their own files; each turn is a process of its own. The error
is ||W' - W|| / ||W|| over the matrices of the first layer and its first experts, with W' as each engine's own
dequantization has it (gguf's for Q4_K).
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.processes import Finished, run, total_bytes, warm
from benchmarks.rounds import Values, run_rounds
from benchmarks.tables import OURS, Quantity, Table, make_table
from benchmarks.to_gguf import MATRICES, PROJECTIONS
from edgepress.checkpoint import Checkpoint, open_checkpoint
from edgepress.compress import open_packed
from edgepress.compress.packed import PackedModel
from edgepress.compress.quantizers import Quantized, dequantize
from edgepress.formats import Format
from edgepress.layout import bank_path, module_path
from edgepress.plan import SOURCES
from edgepress.progress import Track, silent

EXPERTS = 4  # whose error is measured
PEER = "Q4_K"
QUANTITIES = {
    "source read": Quantity("GB/s", True, 2.0),
    "resident memory": Quantity("GB", False),
    "size of the files": Quantity("GB", False),
    "relative error": Quantity("", False, 1.0),
}
# Runs the command line on the first cores only.
_PRESS = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
from edgepress.cli import main
main(sys.argv[2:])
"""

Turn = Callable[[], Values]
# (role, its original weights, as stored) of each measured matrix.
Pairs = Iterator[tuple[np.ndarray, np.ndarray]]


def measure_compression(
    output: Path, checkpoint: Path, half: Path, llama_quantize: Path, rounds: int, threads: int,
    *, track: Track = silent,
) -> Table:  # fmt: skip
    """The table; its rounds are kept in `output`. `half` is the checkpoint as a 16-bit GGUF file."""
    turns: dict[str, Turn] = {
        f"{OURS}, --bits 4": partial(_our_turn, output, checkpoint, threads),
        f"llama-quantize {PEER}": partial(_llama_turn, output, checkpoint, half, llama_quantize, threads),
    }
    done = run_rounds(output / f"compression-{threads}-threads.json", turns, rounds, track=track)
    return make_table(f"Compression without data, {threads} threads", done, QUANTITIES)


def _our_turn(output: Path, source: Path, threads: int) -> Values:
    packed = output / "packed"
    shutil.rmtree(packed, ignore_errors=True)
    files = sorted(source.glob("*.safetensors"))
    warm(files)
    finished = run([sys.executable, "-c", _PRESS, str(threads), "compress", source, "-o", packed, "--bits", "4"])
    error = relative_error(_our_pairs(open_checkpoint(source), open_packed(packed)))
    return _values(files, finished, list(packed.iterdir()), error)


def _llama_turn(output: Path, source: Path, half: Path, llama_quantize: Path, threads: int) -> Values:
    file = output / f"{PEER}.gguf"
    file.unlink(missing_ok=True)
    warm([half])
    finished = run([llama_quantize, "--pure", half, file, PEER, str(threads)])
    return _values([half], finished, [file], relative_error(_llama_pairs(open_checkpoint(source), file)))


def _values(read: list[Path], finished: Finished, written: list[Path], error: float) -> Values:
    return {
        "source read": total_bytes(read) / finished.seconds / 1e9,
        "resident memory": finished.resident / 1e9,
        "size of the files": total_bytes(written) / 1e9,
        "relative error": error,
    }


def relative_error(pairs: Pairs) -> float:
    """||W' - W|| / ||W|| over all pairs (W, W')."""
    noise = signal = 0.0
    for original, stored in pairs:
        signal += float((original**2).sum(dtype=np.float64))
        noise += float(((stored - original) ** 2).sum(dtype=np.float64))
    return (noise / signal) ** 0.5


def _our_pairs(checkpoint: Checkpoint, packed: PackedModel) -> Pairs:
    """The measured matrices, from what the packed folder emits of the first layer."""
    spec, plan = packed.spec, packed.plan
    held: dict[str, list[np.ndarray]] = {}
    packed.emit("layers.0", lambda name, row, rows: held.setdefault(name, []).append(rows))
    tensors = {name: np.concatenate(runs) for name, runs in held.items()}
    for name in MATRICES.values():
        role = f"layers.0.{name}"
        yield _original(checkpoint, name), _stored(tensors, module_path(spec, role), plan.format(role))
    for projection, names in SOURCES.items():
        chosen = plan.expert_format(0, 0, projection)
        stack = _stored(tensors, bank_path(spec, 0, projection, chosen), chosen)
        experts = stack.reshape(spec.experts.count, -1, stack.shape[1])[:EXPERTS] if spec.experts else stack
        for e, matrix in enumerate(experts):
            for i, name in enumerate(names):
                yield _original(checkpoint, f"experts.{e}.{name}"), matrix[i :: len(names)]


def _stored(tensors: dict[str, np.ndarray], path: str, chosen: Format) -> np.ndarray:
    parts = [tensors.get(f"{path}.{part}") for part in ("weight", "scales", "zero_points")]
    return dequantize(Quantized(*parts), chosen, 32)  # type: ignore[arg-type]


def _llama_pairs(checkpoint: Checkpoint, file: Path) -> Pairs:
    import gguf
    from gguf.quants import dequantize as dequantize_gguf

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for name, role in MATRICES.items():
        tensor = tensors[f"blk.0.{name}.weight"]
        yield _original(checkpoint, role), dequantize_gguf(tensor.data, tensor.tensor_type)
    for projection in PROJECTIONS:
        tensor = tensors[f"blk.0.ffn_{projection}_exps.weight"]
        for e in range(EXPERTS):
            stored = dequantize_gguf(tensor.data[e], tensor.tensor_type)
            yield _original(checkpoint, f"experts.{e}.{projection}"), stored


def _original(checkpoint: Checkpoint, role: str) -> np.ndarray:
    return checkpoint.tensor(f"layers.0.{role}").astype(np.float32)
