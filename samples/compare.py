"""How far bundles are from the model that they were made from.

python samples/compare.py MODEL BUNDLE...
"""

import sys
from pathlib import Path

from edgepress.checkpoint import open_checkpoint
from edgepress.compress.reference import ReferenceModel
from edgepress.runtime.compare import compare

model, *bundles = sys.argv[1:]
text = (Path(__file__).parent / "texts" / "eval" / "wiki_en.txt").read_text(encoding="utf-8")

reference = ReferenceModel(open_checkpoint(model))
for row in compare(
    [Path(b) for b in bundles], reference, {"wiki_en": text}, context=256, max_chunks=2, speed=False
).rows:
    print(f"{row.name}: {row.size_bytes} bytes, mean KL {row.mean_kl:.2g}, same top token {row.top1_agreement:.1%}")
