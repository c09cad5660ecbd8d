"""The bundle: a folder with one ONNX model, its weights, its tokenizer and a manifest. No torch, no onnx needed.

model.onnx         graph; custom-op nodes of domain "edgepress" with a model-local function for each of them
model.onnx.data    weights; a tensor of 64 KiB or more starts on a 64 KiB boundary
edgepress.json     the manifest, below
genai_config.json  the folder also loads in onnxruntime-genai
tokenizer.json ... as in the checkpoint
"""

import json
import os
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from edgepress.errors import BundleError
from edgepress.files import sha256
from edgepress.onnx_walk import external_data

FORMAT_VERSION = 1
MODEL = "model.onnx"
DATA = "model.onnx.data"
MANIFEST = "edgepress.json"
GENAI_CONFIG = "genai_config.json"
TOKENIZER = "tokenizer.json"
LIBRARY = "libedgepress_ops.so"
ALIGNMENT = 64 * 1024
PROVIDERS = ("cpu", "cuda")


@dataclass(frozen=True)
class Manifest:
    """What edgepress.json says.

    Attributes:
        source: where the weights came from: `model` (folder or hub id), `revision` or null.
        provider: cpu (float32 activations) or cuda (float16 activations).
        parameters: number of weights that the bundle holds (pruned experts are gone).
        bits_per_weight: size_bytes * 8 / parameters.
        size_bytes: bytes of every file in the folder, this one included.
        files: name -> {"size": bytes, "sha256": hex} of every file but the manifest itself.
        context: longest sequence in tokens. eos: ids that end a text. bos: id that begins one, or null.
        plan: the Plan as JSON (see edgepress.plan).
        task: generation (of text), or embedding (of texts).
        shared_cache: key and value of a layer are one tensor (latent attention); one buffer may serve both.
    """

    source: dict[str, Any]
    model_type: str
    provider: str
    parameters: int
    bits_per_weight: float
    size_bytes: int
    files: dict[str, dict[str, Any]]
    vocab_size: int
    context: int
    eos: list[int]
    bos: int | None
    plan: dict[str, Any] = field(default_factory=dict)
    shared_cache: bool = False
    task: str = "generation"
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Bundle:
    """A bundle that has been checked: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def model(self) -> Path:
        return self.path / MODEL


def open_bundle(path: Path | str, *, verify: bool = False) -> Bundle:
    """Check a bundle before anything of it is loaded; `verify` also compares the hash of every file.

    Raises:
        BundleError: a file is missing, has another size or hash than the manifest says, or lies outside the folder;
            or the model points outside its data file.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    for name in (MODEL, DATA, TOKENIZER):
        if name not in manifest.files:
            raise BundleError(f"{path / MANIFEST} does not list {name}; write the bundle again")
    for name, facts in manifest.files.items():
        _check_file(path, name, facts, verify)
    _check_external(path)
    return Bundle(path, manifest)


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}; make one with `edgepress export`")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as cause:
        raise BundleError(f"{file} is not JSON: {cause}; write the bundle again") from None
    if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
        version = data.get("format_version") if isinstance(data, dict) else None
        raise BundleError(
            f"{file} has format_version {version!r}, this edgepress reads {FORMAT_VERSION}; use a matching edgepress"
        )
    return _parse_manifest(data, file)


def _parse_manifest(data: dict[str, Any], file: Path) -> Manifest:
    """Facts that this version does not know are left alone: the format version tells what must be understood."""
    types = get_type_hints(Manifest)
    known = {}
    for f in fields(Manifest):
        if f.name in data:
            known[f.name] = data[f.name]
            if not _is_a(data[f.name], types[f.name]):
                raise BundleError(f"{file}: {f.name} is {str(data[f.name])[:40]!r}; write the bundle again")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise BundleError(f"{file} lacks {f.name}; write the bundle again")
    manifest = Manifest(**known)
    if manifest.provider not in PROVIDERS:
        raise BundleError(f"{file}: provider is {manifest.provider!r}; known: {', '.join(PROVIDERS)}")
    return manifest


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a JSON value has the type of a Manifest field, one level deep."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(type(v) is int for v in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict)
    return isinstance(value, (int, float) if kind is float else kind)


def _check_file(folder: Path, name: str, facts: Any, verify: bool) -> None:
    manifest = folder / MANIFEST
    given = facts if isinstance(facts, dict) else {}
    if not isinstance(given.get("size"), int) or not isinstance(given.get("sha256"), str):
        raise BundleError(f"{manifest} does not give the size and sha256 of {name!r}; write the bundle again")
    if Path(name).name != name or "\\" in name:
        raise BundleError(f"{manifest} lists {name!r}, which is not a file of the folder; do not use this bundle")
    file = folder / name
    if not file.is_file():
        raise BundleError(f"{file} is missing; copy the whole folder again")
    if file.resolve().parent != folder.resolve():
        raise BundleError(f"{file} is a link that leaves the folder; put the file itself there")
    if not os.access(file, os.R_OK):
        raise BundleError(f"{file} cannot be read: permission denied; change its permissions")
    if file.stat().st_size != facts["size"]:
        raise BundleError(
            f"{file} has {file.stat().st_size} bytes, the manifest says {facts['size']}; copy the file again"
        )
    if verify and sha256(file) != facts["sha256"]:
        raise BundleError(f"{file} does not match its sha256 in the manifest; copy the file again")


def _check_external(folder: Path) -> None:
    size = (folder / DATA).stat().st_size
    for tensor in external_data(folder / MODEL):
        if tensor.location != DATA:
            raise BundleError(
                f"{folder / MODEL}: tensor {tensor.tensor!r} is kept in {tensor.location!r} instead of {DATA}; "
                "do not use this bundle"
            )
        if tensor.offset + (tensor.length or 0) > size:
            raise BundleError(
                f"{folder / MODEL}: tensor {tensor.tensor!r} ends at byte {tensor.offset + (tensor.length or 0)} "
                f"of {DATA}, which has {size}; write the bundle again"
            )
