"""Reading a model folder in Hugging Face layout: config.json, safetensors shards, tokenizer files."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy, which safetensors needs
import numpy as np
from safetensors import SafetensorError, safe_open

from edgepress.architecture import Architecture, ModelSpec, load_architecture, read_spec, roles, split_role
from edgepress.errors import CheckpointError, InputError, UnsupportedModel

INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_HUB_FILES = ["*.json", "*.jinja"]
_HUB_WEIGHTS = ["*.safetensors"]


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies in its file: its dtype in safetensors' words, its shape, its first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int


class Checkpoint:
    """A model folder, opened: config and headers are read and checked at once, weights only when asked for.

    Attributes:
        path: the folder. config: config.json as read. spec: what the model is.
        files: tensor name -> the safetensors file that holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        self.architecture: Architecture = load_architecture(self.config["model_type"])
        self.spec: ModelSpec = read_spec(self.config, self.architecture)
        self.files = _shard_map(path)
        self._headers = _headers(self.files)
        self._check_complete()

    def has(self, name: str) -> bool:
        return name in self.files

    def _check_complete(self) -> None:
        """Every tensor is consumed or named as ignored, and has the shape that the config promises."""
        wanted = set()
        for role, shape in roles(self.spec):
            name, index = self._locate(role)
            if name not in self.files:
                raise CheckpointError(f"{self.path} lacks tensor {name} ({role}); the download may be incomplete")
            self._check_header(name, shape if index is None else self._stacked_shape(index[1], shape))
            wanted.add(name)
        extra = sorted(n for n in self.files if n not in wanted and not self._ignored(n))
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            raise CheckpointError(
                f"{self.path} holds tensor {extra[0]}{more}, which {self.spec.model_type} does not know; "
                "the weights and config.json do not belong together"
            )

    def _check_header(self, name: str, shape: tuple[int, ...]) -> None:
        entry = self._headers[name]
        if entry.shape != shape:
            raise CheckpointError(f"tensor {name} has shape {list(entry.shape)}, config.json promises {list(shape)}")
        if entry.dtype not in _DTYPES:
            raise UnsupportedModel(f"tensor {name} is stored as {entry.dtype}; edgepress reads {', '.join(_DTYPES)}")

    def _stacked_shape(self, part: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor that stacks one expert's `shape` over all experts, gate and up together."""
        assert self.spec.experts
        return self.spec.experts.count, shape[0] * (1 if part == "down" else 2), *shape[1:]

    def _ignored(self, name: str) -> bool:
        if self.spec.tied_head and name == self.architecture.tensors["head"]:
            return True
        return any(re.fullmatch(pattern, name) for pattern in self.architecture.ignored_tensors)

    def _locate(self, role: str) -> tuple[str, tuple[int, str] | None]:
        """The tensor that holds a role and, in a stacked one, (expert, part)."""
        layer, expert, template = split_role(role)
        if expert is not None:
            part = template.rsplit(".", 1)[1]
            stacked = self.architecture.fused.get(
                f"layers.{{i}}.experts.{'down' if part == 'down' else 'gate_up'}", ""
            ).format(i=layer)
            if stacked in self.files:
                return stacked, (expert, part)
        try:
            return self.architecture.tensors[template].format(i=layer, e=expert), None
        except KeyError:
            raise UnsupportedModel(
                f"{self.spec.model_type} has no tensor name for {role}; its literal lacks {template!r}"
            ) from None

    def tensor(self, role: str) -> np.ndarray:
        """The weights of one role, in their stored dtype (float32, float16 or bfloat16), copied out of the file.

        Raises:
            CheckpointError: the tensor cannot be read, or holds NaN or infinity.
        """
        name, index = self._locate(role)
        entry = self._headers[name]
        skipped, shape = (0, entry.shape) if index is None else _stacked_part(entry.shape, *index)
        dtype = np.dtype(_DTYPES[entry.dtype])
        try:
            offset = entry.start + skipped * dtype.itemsize
            array = np.fromfile(self.files[name], dtype, prod(shape), offset=offset).reshape(shape)
        except (ValueError, OSError) as error:
            raise CheckpointError(f"cannot read {name} from {self.files[name]}: {error}; download it again") from None
        if not np.isfinite(array).all():
            raise CheckpointError(f"tensor {name} holds NaN or infinity; the checkpoint is damaged")
        return array

    @cached_property
    def dtype16(self) -> str:
        """What 16-bit weights are stored as: bfloat16 if the checkpoint is, float16 otherwise."""
        name, _ = self._locate("embedding")
        return "bfloat16" if self._headers[name].dtype == "BF16" else "float16"

    @cached_property
    def dtypes(self) -> list[str]:
        """The dtypes that the tensors are stored in, in safetensors' names (F16, BF16, F32)."""
        return sorted({entry.dtype for entry in self._headers.values()})

    def bytes_of(self, role: str) -> int:
        """Bytes that a role takes in the checkpoint."""
        name, index = self._locate(role)
        entry = self._headers[name]
        count = prod(entry.shape) * (4 if entry.dtype == "F32" else 2)
        if index is None:
            return count
        return count // entry.shape[0] // (1 if index[1] == "down" else 2)


def _stacked_part(stacked: tuple[int, ...], expert: int, part: str) -> tuple[int, tuple[int, int]]:
    """(weights before it, shape) of one expert's part of a stack: gate_up [E, 2I, H], gate first, or down [E, H, I]."""
    _, rows, columns = stacked
    if part == "down":
        return expert * rows * columns, (rows, columns)
    first = expert * rows + (rows // 2 if part == "up" else 0)
    return first * columns, (rows // 2, columns)


def read_json(path: Path, error: type[Exception] = CheckpointError) -> dict[str, Any]:
    """A JSON object from a file; raises `error` with the path and the cause."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{path} is not valid JSON: {cause}") from None
    if not isinstance(value, dict):
        raise error(f"{path} holds a {type(value).__name__}; a JSON object is needed")
    return value


def read_config(path: Path) -> dict[str, Any]:
    config = read_json(path / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{path / 'config.json'} lacks model_type; is this a Hugging Face model folder?")
    return config


def _shard_map(path: Path) -> dict[str, Path]:
    if (path / INDEX).exists():
        weight_map = read_json(path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{path / INDEX} lacks weight_map")
        files = {}
        for name, shard in weight_map.items():
            if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".."):
                raise CheckpointError(f"{path / INDEX} places {name} outside the folder: {shard!r}")
            files[name] = path / shard
        for shard_path in sorted(set(files.values())):
            if not shard_path.exists():
                raise CheckpointError(f"{path / INDEX} names {shard_path.name}, which is missing; download it again")
        return files
    single = path / "model.safetensors"
    if not single.exists():
        raise CheckpointError(f"{path} has neither model.safetensors nor {INDEX}")
    return dict.fromkeys(_open_header(single), single)


def _open_header(path: Path) -> dict[str, _Entry]:
    """What a file holds; safetensors itself refuses headers that lie about offsets or sizes."""
    try:
        path.open("rb").close()  # safetensors says of every file it cannot open that there is none
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a sound safetensors file: {error}; download it again") from None
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: _Entry(facts["dtype"], tuple(facts["shape"]), 8 + size + facts["data_offsets"][0])
        for name, facts in header.items()
    }


def _headers(files: Mapping[str, Path]) -> dict[str, _Entry]:
    headers = {}
    for path in sorted(set(files.values())):
        held = _open_header(path)
        promised = {name for name, where in files.items() if where == path}
        if promised - held.keys():
            raise CheckpointError(f"{path} lacks tensor {min(promised - held.keys())}, which the index promises")
        if held.keys() - promised:
            raise CheckpointError(f"{path} holds tensor {min(held.keys() - promised)}, which the index does not name")
        headers.update(held)
    return headers


def resolve_model(model: str, *, weights: bool = True) -> Path:
    """A local folder, or a hub id, which is downloaded (resumably, with or without its weights) into the hub's cache.

    Raises:
        InputError: neither a folder nor a hub id.
        CheckpointError: the download failed.
    """
    path = Path(model)
    if path.exists():
        if not path.is_dir():
            raise InputError(f"{model} is a file; give a model folder or a hub id")
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
        raise InputError(f"{model} is neither a folder here nor a hub id like owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES + _HUB_WEIGHTS * weights))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"cannot download {model}: {first}; check the name and the network, or give a local folder"
        ) from None


def open_checkpoint(model: str | Path) -> Checkpoint:
    """Open a model folder or hub id; config, headers and completeness are checked, no weight is read."""
    return Checkpoint(resolve_model(str(model)))
