"""Pressing a checkpoint while it is read: one matrix at a time, straight to where it is stored."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from edgepress.architecture import layer_roles
from edgepress.checkpoint import Checkpoint
from edgepress.compress.quantizers import QUANTIZERS
from edgepress.errors import CheckpointError, PlanError
from edgepress.formats import Format
from edgepress.layout import Stored, bank_path, banks, module_path, part_tensors, vector_name
from edgepress.packed import Sink
from edgepress.plan import Plan, check_plan

_CHUNK = 1 << 24  # weights pressed at a time


class Packer:
    """A WeightSource (edgepress.packed): the checkpoint's weights, as the plan stores them.

    Raises:
        PlanError: a plan for another model, or an unknown quantizer.
    """

    def __init__(self, checkpoint: Checkpoint, plan: Plan) -> None:
        check_plan(plan, checkpoint.spec)
        if plan.quantizer not in QUANTIZERS:
            raise PlanError(f"the plan has quantizer {plan.quantizer!r}; use one of {', '.join(QUANTIZERS)}")
        self.checkpoint = checkpoint
        self.spec = checkpoint.spec
        self.plan = plan
        self.config = checkpoint.config
        self.folder = checkpoint.path
        self.origin = origin(checkpoint.path)

    def emit(self, part: str, sink: Sink) -> None:
        """Press one part (edgepress.layout.parts) and send every tensor of it to the sink, in runs of rows.

        Raises:
            CheckpointError: a tensor cannot be read, or holds values beyond the float16 that it is to be stored in.
        """
        whole = Whole(part_tensors(self.spec, self.plan, part), sink)
        if part == "embedding":
            self._emit_matrix("embedding", whole)
        elif part == "output":
            self._emit_vector("final_norm", whole)
            if not self.spec.tied_head:
                self._emit_matrix("head", whole)
        else:
            self._emit_layer(int(part.removeprefix("layers.")), whole)
        whole.check()

    def _emit_layer(self, i: int, sink: Sink) -> None:
        for name, shape in layer_roles(self.spec, i):
            role = f"layers.{i}.{name}"
            if name in ("router", "router_bias", "shared_gate"):
                self._emit_routing(role, i, sink)
            elif len(shape) == 1:
                self._emit_vector(role, sink)
            elif not name.startswith("experts."):
                self._emit_matrix(role, sink)
        if self.spec.has_experts(i):
            self._emit_bank(i, "gate_up", self._gate_up, sink)
            self._emit_bank(i, "down", self._down, sink)

    def _emit_vector(self, role: str, sink: Sink) -> None:
        sink(vector_name(self.spec, role), 0, self.checkpoint.tensor(role).astype(np.float32))

    def _emit_routing(self, role: str, layer: int, sink: Sink) -> None:
        rows = self.checkpoint.tensor(role)
        if not role.endswith("shared_gate"):
            rows = rows[self.plan.kept(layer)]
        if rows.ndim == 1:
            sink(vector_name(self.spec, role), 0, rows.astype(np.float32))
        else:
            sink(f"{module_path(self.spec, role)}.weight", 0, self._to16(rows, role))

    def _emit_matrix(self, role: str, sink: Sink) -> None:
        matrix = self.checkpoint.tensor(role)
        path = module_path(self.spec, role)
        step = max(1, _CHUNK // matrix.shape[1])
        for row in range(0, len(matrix), step):
            for suffix, rows in self._press(matrix[row : row + step], self.plan.format(role), role):
                sink(f"{path}.{suffix}", row, rows)

    def _emit_bank(self, layer: int, projection: str, read: Callable[[str], np.ndarray], sink: Sink) -> None:
        kept = self.plan.kept(layer)
        for bank in banks(self.plan, layer, projection):
            path = bank_path(self.spec, layer, projection, bank.format)
            for index, member in enumerate(bank.members):
                role = f"layers.{layer}.experts.{kept[member]}"
                for suffix, rows in self._press(read(role), bank.format, f"{role}.{projection}"):
                    sink(f"{path}.{suffix}", index, rows[None])

    def _gate_up(self, expert: str) -> np.ndarray:
        """[2I, H], gate and up rows alternating."""
        gate, up = self.checkpoint.tensor(f"{expert}.gate"), self.checkpoint.tensor(f"{expert}.up")
        return np.stack([gate, up], axis=1).reshape(-1, gate.shape[1])

    def _down(self, expert: str) -> np.ndarray:
        return self.checkpoint.tensor(f"{expert}.down")

    def _press(self, matrix: np.ndarray, chosen: Format, role: str) -> Iterator[tuple[str, np.ndarray]]:
        """(suffix, rows) of each tensor that stores a matrix."""
        if not chosen.quantized:
            yield "weight", self._to16(matrix, role)
            return
        try:
            quantized = QUANTIZERS[self.plan.quantizer](matrix, chosen, self.plan.block_size)
        except OverflowError as cause:
            raise CheckpointError(f"{role} cannot be stored at {chosen.name}: {cause}; is it damaged?") from None
        yield "weight", quantized.codes
        yield "scales", quantized.scales
        if quantized.zero_points is not None:
            yield "zero_points", quantized.zero_points

    def _to16(self, rows: np.ndarray, role: str) -> np.ndarray:
        with np.errstate(over="ignore"):
            narrowed = rows.astype(self.plan.dtype16)
        if not np.isfinite(narrowed).all():
            raise CheckpointError(f"{role} exceeds {self.plan.dtype16}; plan it at 8 bits, or with bfloat16")
        return narrowed


class Whole:
    """A Sink that passes rows on, and knows whether every tensor of a part has come whole."""

    def __init__(self, tensors: list[Stored], sink: Sink) -> None:
        self._tensors = {t.name: t for t in tensors}
        self._missing = {t.name: t.shape[0] for t in tensors}
        self._sink = sink

    def __call__(self, name: str, row: int, rows: np.ndarray) -> None:
        stored = self._tensors[name]
        if (rows.dtype.name, rows.shape[1:]) != (stored.dtype, stored.shape[1:]):
            raise PlanError(
                f"tensor {name} is {rows.dtype.name} {rows.shape[1:]}, planned {stored.dtype} {stored.shape}"
            )
        self._missing[name] -= len(rows)
        self._sink(name, row, rows)

    def check(self) -> None:
        """Raise PlanError if a tensor lacks rows."""
        if lacking := [name for name, rows in self._missing.items() if rows]:
            raise PlanError(f"tensor {lacking[0]} was not emitted whole; the plan and the model do not agree")


def origin(folder: Path) -> dict[str, str | None]:
    """Where a checkpoint comes from: the hub id and revision of a folder in the Hugging Face cache, else its path."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return {"model": repository.removeprefix("models--").replace("--", "/"), "revision": folder.name}
    return {"model": str(folder), "revision": None}
