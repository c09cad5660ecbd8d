"""edgepress: press mixture-of-experts language models into ONNX bundles, run, measure and compare them.

The border types live here; the work is done in `edgepress.compress`, `edgepress.export`,
`edgepress.runtime` and `edgepress.devices`.
"""

__version__ = "0.1.0"
