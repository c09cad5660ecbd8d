"""The machine and the versions that the figures belong to."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT
from edgepress.devices.probe import isa, probe

PACKAGES = ("onnxruntime", "numpy", "onnx")


def describe(threads: int, llama_bench: Path | None) -> dict[str, Any]:
    """What to know about a run: processor, vector extensions, memory, threads, load, versions."""
    profile = probe()
    memory = profile.memory
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": profile.title,
        "vector extensions": " ".join(isa(Path("/")) or ()),
        "kernels": os.environ.get("EDGEPRESS_ISA", "chosen at run time"),
        "memory": f"{memory.value / 1e9:.1f} GB" if memory else "unknown",
        "threads": threads,
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "edgepress": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty") or "unknown",
        **{package: version(package) for package in PACKAGES},
        "llama.cpp": _output(str(llama_bench), "--version") if llama_bench else "not measured",
    }


def read_ahead(folder: Path) -> str:
    """How far the kernel reads ahead on the disk of a folder: maps that do not fit in memory are slower the more."""
    device = folder.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    found = (place / "queue" / "read_ahead_kb" for place in (block, block.resolve().parent))
    return next((f"{file.read_text(encoding='utf-8').strip()} kB" for file in found if file.is_file()), "unknown")


def _output(*command: str) -> str:
    """The first line that a command prints; empty if it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return next(iter((done.stdout + done.stderr).strip().splitlines()), "")
