"""Every variant of the micro-kernels against the reference: on this machine, and for aarch64 under qemu."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "runtime" / "kernels"
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = next(filter(shutil.which, ("qemu-aarch64", "qemu-aarch64-static")), "qemu-aarch64")
AARCH64 = (
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    f"-DCMAKE_CXX_COMPILER={COMPILER}",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
)


def build(folder: Path, *options: str) -> Path:
    """The checking program, compiled in `folder`."""
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on this machine")
    subprocess.run(["cmake", "-S", KERNELS, "-B", folder, *options], check=True, capture_output=True)
    subprocess.run(
        ["cmake", "--build", folder, "--target", "gemm_check", f"-j{os.cpu_count()}"], check=True, capture_output=True
    )
    return folder / "gemm_check"


def check(*command: str | Path) -> list[str]:
    """Runs the program, expects that nothing differs, and returns the variants that it checked, fastest first."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split(":")[0] for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Processor, as qemu calls it -> the variants checked on it."""
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine")
    program = build(tmp_path_factory.mktemp("aarch64"), *AARCH64)
    return lambda processor: check(EMULATOR, "-cpu", processor, program)


def test_every_variant_of_this_machine_agrees_with_the_reference(tmp_path: Path) -> None:
    assert check(build(tmp_path))[-2:] == ["portable", "portable16"]


@pytest.mark.parametrize(
    ("processor", "variants"),
    [
        ("max", ["neon_i8mm", "neon_dotprod"]),
        ("cortex-a76", ["neon_dotprod"]),  # no I8MM
        ("cortex-a72", []),  # neither
    ],
)
def test_an_arm_processor_takes_the_variants_it_supports_and_they_agree(
    emulated: Callable[[str], list[str]], processor: str, variants: list[str]
) -> None:
    assert emulated(processor) == [*variants, "portable", "portable16"]
