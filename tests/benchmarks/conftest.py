"""The benchmarks are scripts of the source tree and no part of the package: tests find them from its root."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
