"""The C++ test programs, built in build/tests (kept between runs) as CMakePresets.json says, and run."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # cmake and ninja come from PyPI


def find(*tools: str) -> str:
    """The first of these programs that is there; the test is skipped if none is."""
    for tool in tools:
        if found := shutil.which(tool, path=PATH):
            return found
    pytest.skip(f"no {tools[0]} on this machine")


@cache
def build(preset: str) -> Path:
    """The folder of `gemm_check` and `fuzz`."""
    cmake, _ = find("cmake"), find("ninja")
    run(cmake, "-S", ROOT / "runtime" / "kernels", "--preset", preset)
    folder = ROOT / "build" / "tests" / preset
    run(cmake, "--build", folder, "--target", "gemm_check", "fuzz")
    return folder


def run(*command: str | Path) -> str:
    """What a program prints; it must end well."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": PATH})
    if "FATAL: ThreadSanitizer" in done.stderr:  # old libraries do not know how new kernels lay memory out
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def emulate(processor: str, program: str, *arguments: str) -> str:
    """What a program prints that is built for aarch64, on a processor as qemu calls it."""
    find("aarch64-linux-gnu-g++")
    emulator = find("qemu-aarch64", "qemu-aarch64-static")
    return run(emulator, "-cpu", processor, build("aarch64") / program, *arguments)
