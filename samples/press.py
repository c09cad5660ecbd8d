"""Press a model into a bundle: calibrate, prune a quarter of the experts, spend 5 bits per weight where they matter.

python samples/press.py [MODEL [BUNDLE]]
"""

import sys
from pathlib import Path

from edgepress.checkpoint import open_checkpoint
from edgepress.compress import Packer, make_plan
from edgepress.compress.calibrate import calibrate
from edgepress.compress.prune import choose_experts
from edgepress.export import export
from edgepress.texts import calibration_ids

SAMPLES = Path(__file__).parent
model, bundle = (*sys.argv[1:3], *(str(SAMPLES / "tiny-qwen3-moe"), "bundle")[len(sys.argv[1:3]) :])

checkpoint = open_checkpoint(model)
texts = sorted((SAMPLES / "texts" / "calibration").glob("*.txt"))
ids = calibration_ids(checkpoint.path / "tokenizer.json", texts, context=256, max_chunks=2)
statistics = calibrate(checkpoint, ids)
keep = choose_experts(checkpoint.spec, statistics, keep=0.75, criterion="reap")
plan = make_plan(checkpoint, bits=5, keep=keep, statistics=statistics)
manifest = export(Packer(checkpoint, plan, statistics), Path(bundle))

print(*plan.why, sep="\n")
print(f"{bundle}: {manifest.size_bytes} bytes, {manifest.bits_per_weight:.2f} bits per weight")
