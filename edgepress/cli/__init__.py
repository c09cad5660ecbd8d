"""The `edgepress` command. One module per group of commands; this one holds what they share."""

import errno
import os
import signal
import sys
from functools import cache
from typing import Any

import typer

from edgepress.cli import common
from edgepress.errors import EdgepressError

app = typer.Typer(
    name="edgepress",
    help="Press mixture-of-experts language models into ONNX bundles; run, measure and compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


TYPER_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt inside a command
INTERRUPTED = "interrupted; run the same command again to resume where it can"


@cache
def _register() -> None:
    from edgepress.cli import comparing, demo, devices, domains, inspecting, measure, press, run

    for module in (demo, inspecting, devices, domains, press, run, measure, comparing):
        module.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: exit 0 on success, 2 on bad usage, 1 with one `error:` line on any other failure."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    try:
        _register()
        app(argv, standalone_mode=True)
    except EdgepressError as error:
        _fail(error, str(error), debug)
    except SystemExit as stop:
        if stop.code == TYPER_INTERRUPTED:
            _fail(stop, INTERRUPTED, debug)
        raise
    except KeyboardInterrupt as error:
        _fail(error, INTERRUPTED, debug)
    except ModuleNotFoundError as error:
        _fail(error, _missing_message(error), debug)
    except MemoryError as error:
        _fail(error, "out of memory; use a smaller model, fewer or shorter texts, or a machine with more", debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(error, _os_message(error), debug)
    except Exception as error:
        _fail(error, f"unexpected {type(error).__name__}: {_first_line(error)}; --debug shows where", debug)


def _missing_message(error: ModuleNotFoundError) -> str:
    extra = {"onnxruntime": "cpu", "gguf": "gguf"}.get(error.name or "", "compress")
    return f"this command needs the package {error.name}; install it with: pip install 'edgepress[{extra}]'"


def _os_message(error: OSError) -> str:
    where = error.filename2 or error.filename or "the output"  # 2: what was to be written in a copy
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{error.strerror}: {where}; free some space or choose another output folder"
    return f"{error.strerror or error}: {where}; check the path and its permissions"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _fail(error: BaseException, message: str, debug: bool) -> Any:
    if debug:
        raise error
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))  # names in files may hold escapes
    common.console.print(f"error: {line}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)
