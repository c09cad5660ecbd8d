"""The library as a file: what it offers and what it needs."""

import shutil
import subprocess

import pytest

from edgepress.runtime.library import find_library


def binutils(tool: str, *arguments: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} on this machine")
    return subprocess.run([tool, *arguments, str(find_library())], capture_output=True, text=True, check=True).stdout


def test_it_exports_one_symbol() -> None:
    symbols = [line.split()[-1] for line in binutils("nm", "--dynamic", "--defined-only").splitlines()]
    assert symbols == ["RegisterCustomOps"]


def test_it_links_to_the_standard_libraries_only() -> None:
    needed = [line.split("[")[1].split(".so")[0] for line in binutils("readelf", "-d").splitlines() if "NEEDED" in line]
    assert set(needed) <= {"libstdc++", "libm", "libgcc_s", "libc", "ld-linux-x86-64", "ld-linux-aarch64"}
