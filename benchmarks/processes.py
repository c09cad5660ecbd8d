"""Runs a program and watches how much time and anonymous memory it takes."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepress.errors import RuntimeFailure

INTERVAL = 0.002  # seconds between two looks
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Finished:
    """What a program did.

    Attributes:
        anonymous: the largest RssAnon that was seen, in bytes: heap and stacks, not pages of mapped files.
        resident: the peak of all resident memory, in bytes.
        cpu_seconds: of all its threads.
    """

    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float
    anonymous: int
    resident: int


def run(command: Sequence[str | Path]) -> Finished:
    """Run a program to its end.

    Raises:
        RuntimeFailure: it cannot be started, or fails; with the last line that it printed.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        start, before = time.perf_counter(), _children_seconds()
        try:
            process = subprocess.Popen(words, stdout=stdout, stderr=stderr, env=_environment())
        except OSError as error:
            raise RuntimeFailure(f"cannot run {words[0]}: {error.strerror}") from None
        anonymous = resident = 0
        while process.poll() is None:
            anonymous = max(anonymous, rss_anon(process.pid))
            resident = max(resident, memory(process.pid, "VmHWM"))
            time.sleep(INTERVAL)
        seconds, cpu_seconds = time.perf_counter() - start, _children_seconds() - before
        stdout.seek(0)
        stderr.seek(0)
        finished = Finished(stdout.read(), stderr.read(), seconds, cpu_seconds, anonymous, resident)
    if process.returncode:
        last = (finished.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise RuntimeFailure(f"{' '.join(words)} ended with status {process.returncode}: {last}")
    return finished


def _children_seconds() -> float:
    """CPU time of all programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _environment() -> dict[str, str]:
    """This process's, with the source tree's root at the end of Python's search path."""
    paths = [path for path in (os.environ.get("PYTHONPATH"), str(ROOT)) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run_module(name: str, *arguments: str | Path) -> Finished:
    """`run` a module of the source tree with this interpreter, wherever the current folder is."""
    return run([sys.executable, "-m", name, *arguments])


def rss_anon(pid: int | str) -> int:
    """Resident anonymous bytes of a process now; 0 if it has ended."""
    return memory(pid, "RssAnon")


def memory(pid: int | str, field: str) -> int:
    """A field of /proc/<pid>/status, in bytes; 0 if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    lines = (line for line in status.splitlines() if line.startswith(f"{field}:"))
    return next((int(line.split()[1]) * 1024 for line in lines), 0)


def warm(files: Iterable[Path]) -> None:
    """Read files from the disk into the page cache: a file that is read lies in larger pages than one just written."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while opened.read(1 << 24):
                pass


def total_bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)
