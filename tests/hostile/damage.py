"""Ways to damage a checkpoint folder."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from edgepress.checkpoint import INDEX

GATE = "model.layers.0.mlp.gate.weight"
NORM = "model.norm.weight"
WEIGHTS = "model.safetensors"


def change_config(folder: Path, **facts: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(facts)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def change_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def change_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = (folder / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def shard(folder: Path, second: str = "b.safetensors") -> None:
    """Split the weights into a.safetensors and another shard, under an index."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    head = {NORM: weights.pop(NORM)}
    save_file(weights, folder / "a.safetensors")
    if "/" not in second:
        save_file(head, folder / second)
    files = {**dict.fromkeys(weights, "a.safetensors"), NORM: second}
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))
