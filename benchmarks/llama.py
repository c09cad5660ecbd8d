"""llama.cpp through its own llama-bench."""

import json
import re
from pathlib import Path

from benchmarks.processes import run
from benchmarks.rounds import Values
from edgepress.errors import RuntimeFailure


def speeds(
    llama_bench: Path, model: Path, repack: bool, threads: int, prompt: int, generate: int, depth: int
) -> Values:
    """{"pp512": tokens/s, "tg128": ..., "tg128 @ d2048": ...}, one repetition each after llama-bench's own warm-up."""
    shallow = _bench(llama_bench, model, repack, threads, "-p", str(prompt), "-n", str(generate))
    deep = _bench(llama_bench, model, repack, threads, "-p", "0", "-n", str(generate), "-d", str(depth))
    return parse_speeds(shallow) | parse_speeds(deep)


def _bench(llama_bench: Path, model: Path, repack: bool, threads: int, *tests: str) -> str:
    return run(command(llama_bench, model, repack, threads, 1, *tests)).stdout


def command(
    llama_bench: Path, model: Path, repack: bool, threads: int, repetitions: int, *tests: str
) -> list[str | Path]:
    """A llama-bench that prints JSON."""
    fixed = ["-t", str(threads), "-r", str(repetitions), "--repack", str(int(repack)), "-o", "json"]
    return [llama_bench, "-m", model, *fixed, *tests]


def parse_speeds(text: str) -> Values:
    """Tests of llama-bench's JSON -> tokens/s.

    Raises:
        RuntimeFailure: another layout than expected.
    """
    try:
        speeds = {_name(test): float(test["avg_ts"]) for test in json.loads(text)}
    except (ValueError, KeyError, TypeError):
        speeds = {}
    if not speeds:
        raise RuntimeFailure(f"llama-bench printed no results that can be read: {text[:80]!r}")
    return speeds


def parse_last(text: str, tokens: int, count: int) -> float:
    """Tokens/s over the last `count` repetitions of llama-bench's one test, of `tokens` tokens each.

    Raises:
        RuntimeFailure: another layout than expected, or fewer repetitions.
    """
    try:
        (test,) = json.loads(text)
        seconds = [nanoseconds / 1e9 for nanoseconds in test["samples_ns"][-count:]]
    except (ValueError, KeyError, TypeError):
        seconds = []
    if len(seconds) != count or sum(seconds) <= 0:
        raise RuntimeFailure(f"llama-bench printed no results that can be read: {text[:80]!r}")
    return tokens * count / sum(seconds)


def _name(test: dict[str, int]) -> str:
    name = f"pp{test['n_prompt']}" if test["n_prompt"] else f"tg{test['n_gen']}"
    return name + (f" @ d{test['n_depth']}" if test["n_depth"] else "")


def first_token(llama_bench: Path, model: Path, repack: bool, threads: int, tokens: int) -> tuple[float, float, int]:
    """Seconds from the start of loading to the end of the first token, seconds of the process, anonymous bytes.

    llama.cpp counts its load time until the first evaluation has ended. Its memory grows while it loads, and stays.
    """
    tests = ("-p", "0", "-n", str(tokens), "--no-warmup", "-v")
    done = run(command(llama_bench, model, repack, threads, 1, *tests))
    return parse_load_seconds(done.stderr), done.seconds, done.anonymous


def parse_load_seconds(log: str) -> float:
    """llama.cpp's own load time, of its log.

    Raises:
        RuntimeFailure: it is not there.
    """
    found = re.search(r"load time =\s*([0-9.]+) ms", log)
    if not found:
        raise RuntimeFailure("llama-bench printed no load time; is it another version of llama.cpp?")
    return float(found[1]) / 1e3
