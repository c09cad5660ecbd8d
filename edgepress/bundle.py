"""The bundle: a folder with one ONNX model, its weights, its tokenizer and a manifest. No torch, no onnx needed.

model.onnx         graph; custom-op nodes of domain "edgepress" with a model-local function for each of them
model.onnx.data    weights; a tensor of 64 KiB or more starts on a 64 KiB boundary
edgepress.json     the manifest, below
genai_config.json  the folder also loads in onnxruntime-genai
tokenizer.json ... as in the checkpoint
"""

from dataclasses import asdict, dataclass, field
from typing import Any

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
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
