"""One cell of a sweep, in a process of its own: `edgepress export`, then `edgepress compare --json` of that bundle.

`python -m edgepress.cli.cell` reads a Job as one JSON line on stdin and prints the comparison's document. It ends when
its stdin does, so that no cell outlives the sweep.
"""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from tempfile import TemporaryFile
from typing import Any

from edgepress.cli import main


@dataclass(frozen=True)
class Job:
    """`export` (empty where the bundle is there) and `compare`: arguments of the two commands. environment: of both."""

    name: str
    export: list[str]
    compare: list[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """The row of a comparison, or the line that says what went wrong."""

    row: dict[str, Any] | None = None
    error: str = ""


class Workers:
    """Starts a process per job, and ends them all when asked to. Jobs may run in several threads."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, job: Job) -> Outcome:
        """Do a job in a fresh process, on this machine."""
        command = [sys.executable, "-P", "-m", "edgepress.cli.cell"]
        with TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                                       env=os.environ | job.environment)  # fmt: skip
            self._running.add(process)
            if self._stopped:
                process.terminate()
            try:
                assert process.stdin and process.stdout
                process.stdin.write(json.dumps(asdict(job)) + "\n")
                process.stdin.flush()
                answer, status = process.stdout.read(), process.wait()
            except BrokenPipeError:
                answer, status = "", process.wait()
            finally:
                self._running.discard(process)
                process.kill()
                process.communicate()
            log.seek(0)
            return _outcome(answer, status, log.read())

    def stop(self) -> None:
        self._stopped = True
        for process in list(self._running):
            process.terminate()


def run_cell(job: Job) -> Outcome:
    """A job by itself, as another machine runs it."""
    return Workers().run(job)


def _outcome(answer: str, status: int, log: str) -> Outcome:
    if status < 0:
        name = signal.Signals(-status).name
        return Outcome(error=f"its process was ended by {name}; is there enough memory?")
    if status:
        lines = log.strip().splitlines() or [f"exit status {status}"]
        return Outcome(error=lines[-1].removeprefix("error: ").removeprefix("Error: "))
    return Outcome(row=json.loads(answer)["rows"][0])


def _work(job: Job) -> None:
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    if job.export:
        with redirect_stdout(io.StringIO()):
            _command(job.export)
    _command(job.compare)


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _command(arguments: list[str]) -> None:
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    _work(Job(**json.loads(sys.stdin.readline())))
