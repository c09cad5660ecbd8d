"""The probe reads /proc and /sys as the kernel documents them."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from edgepress.devices import Fact, probe
from edgepress.devices.probe import isa, last_level_cache, memory, read_bandwidth, usable_cores

MEMINFO = "MemTotal:       16000000 kB\nMemFree:        1000000 kB\nMemAvailable:   12000000 kB\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_x86_flags(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/cpuinfo": "model name\t: X\nflags\t\t: fpu sse2 avx2 fma avx512_vnni\n"})
    assert isa(root) == ("avx2", "fma", "avx512_vnni")


def test_aarch64_features_get_their_usual_names(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp asimdhp i8mm\n"})
    assert isa(root) == ("neon", "dotprod", "fp16", "i8mm")


def test_a_machine_that_says_nothing_is_unknown(tmp_path: Path) -> None:
    assert isa(tmp_path) is None
    assert memory(tmp_path) == (None, None)
    assert last_level_cache(tmp_path) == 0


def test_memory_of_a_machine_without_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "max\n"})
    assert memory(root) == (16_000_000 * 1024, 12_000_000 * 1024)


@pytest.mark.parametrize(
    ("limit", "usage"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_memory_of_a_container(tmp_path: Path, limit: str, usage: str) -> None:
    group = {f"sys/fs/cgroup/{limit}": "1000000000\n", f"sys/fs/cgroup/{usage}": "400000000\n"}
    assert memory(machine(tmp_path, {"proc/meminfo": MEMINFO, **group})) == (10**9, 6 * 10**8)
    cached = {f"sys/fs/cgroup/{limit.rpartition('/')[0]}/memory.stat": "file 300000000\ntotal_cache 300000000\n"}
    assert memory(machine(tmp_path, cached)) == (10**9, 9 * 10**8)


@pytest.mark.parametrize(
    ("line", "limit"),
    [("0::/mine/too\n", "mine/too/memory.max"), ("5:cpu,memory:/mine\n", "memory/mine/memory.limit_in_bytes")],
)
def test_memory_of_the_group_that_this_process_is_in(tmp_path: Path, line: str, limit: str) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": f"7:cpuset:/other\n{line}",
        f"sys/fs/cgroup/{limit}": "5000\n",
    }
    assert memory(machine(tmp_path, files)) == (5000, 5000)


@pytest.mark.parametrize(
    "quota",
    [
        {"sys/fs/cgroup/cpu.max": "100000 100000\n"},
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        {"sys/fs/cgroup/cpu.max": "10000 100000\n"},
    ],
)
def test_a_quota_of_one_core_or_less_is_one_core(tmp_path: Path, quota: dict[str, str]) -> None:
    assert usable_cores(machine(tmp_path, quota)) == 1


def test_no_quota_leaves_the_affinity(tmp_path: Path) -> None:
    root = machine(tmp_path, {"sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert usable_cores(root) == len(os.sched_getaffinity(0))


def test_the_last_level_cache_is_the_largest(tmp_path: Path) -> None:
    cache = "sys/devices/system/cpu/cpu0/cache"
    sizes = {"index0": "32K\n", "index2": "1024K\n", "index3": "32M\n"}
    assert last_level_cache(machine(tmp_path, {f"{cache}/{i}/size": s for i, s in sizes.items()})) == 32 << 20


def test_bandwidth_is_bytes_over_the_best_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 2.0, 10.0, 10.5, 20.0, 24.0, 30.0, 31.0, 40.0, 44.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert read_bandwidth(np.zeros(1000, np.int64), 1) == 8000 / 0.5


def test_this_machine_is_measured() -> None:
    found = probe()
    assert found.bandwidth and found.thread_bandwidth and found.compute
    assert 1e8 < found.bandwidth.value < 1e13
    assert {f.kind for f in vars(found).values() if isinstance(f, Fact)} == {"measured"}
