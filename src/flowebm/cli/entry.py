"""Where the command line begins: which command, and what becomes of its errors."""

import argparse
import importlib
import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence

from flowebm.cli.cores import count_cores
from flowebm.cli.job import joined
from flowebm.refusal import Refused

#: The commands; each is a module with `run(arguments)`, imported when it is called.
COMMANDS = {
    "train": "fit an energy model to data, in a run directory",
    "sample": "draw samples of a fitted model",
    "score": "log-density of every row of a table under a fitted model",
    "evaluate": "held-out likelihood of a fitted model, with its error",
    "shares": "what share each class has in the data and in the model",
    "impute": "fill missing entries with draws from a fitted model",
    "report": "a page that says what a run is worth, and why",
}

#: Set in the environment, it shows where an error arose.
_TRACEBACK = "FLOWEBM_TRACEBACK"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What stands behind `flowebm`; the process's own by default.

    Returns:
        The exit status: 0 done, 1 failed, 130 interrupted, 143 terminated; refused input is 2.

    Raises:
        SystemExit: From the parser: 0 after `--help` and `--version`, 2 on refused arguments.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    completes = bool(arguments) and arguments[0].replace("_", "-").startswith("--tyro-")
    if not completes:
        # The parser of all commands is light: a command's own, which knows the library's options,
        # is made by its module.
        _parser().parse_args(arguments[:1] or ["--help"])
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Greek letters gets question marks for them, not an error.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        if completes:
            importlib.import_module("flowebm.cli.completion").write_completion(arguments)
        else:
            count_cores(arguments)
            with joined(arguments):
                importlib.import_module(f"flowebm.cli.{arguments[0]}").run(arguments[1:])
        sys.stdout.flush()
    except Refused as error:
        return _fail(error, 2)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError) as error:
        return _fail(_in_words(error), 1)
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        return _fail(str(error) or "Interrupted; nothing was written.", 128 + number)
    except Exception as error:
        # By name, because their modules take seconds to import.
        if type(error).__name__ in ("TrainingDiverged", "OtherProcessFailed"):
            return _fail(error, 1)
        return _fail(
            f"This is a fault of flowebm, not of what you gave: {type(error).__name__}: "
            f"{_short(error)}. {_where_the_traceback_lies()}",
            1,
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<9} {line}" for name, line in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="flowebm",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Energy-based models with the right mass in every mode, a known normalised "
        "likelihood,\nand fast samples.",
        epilog=f"commands:\n{listed}\n\n`flowebm COMMAND --help` says what a command takes.\n\n"
        "`flowebm --tyro-print-completion SHELL` prints a script that completes commands and "
        'options\nin bash, zsh or fish: `eval "$(flowebm --tyro-print-completion bash)"`.',
    )
    parser.add_argument("command", choices=list(COMMANDS), help="what to do, see below")
    parser.add_argument("--version", action=_Version)
    return parser


class _Version(argparse.Action):
    """`--version`, which looks versions up, and at the devices, when it is asked for only."""

    def __init__(self, option_strings, dest):
        super().__init__(option_strings, dest, nargs=0, help="print versions and devices, and exit")

    def __call__(self, parser, namespace, values, option_string=None):
        from flowebm.cli.version import print_versions

        print_versions()
        parser.exit()


def _in_words(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "There is not enough memory for this: give fewer rows, or use a larger machine."
    if error.strerror is None:
        # A sentence already.
        return str(error)
    where = error.filename or "the output"
    return f"Cannot use {where} ({error.strerror}): look at its disk and its permissions."


def _where_the_traceback_lies() -> str:
    """A sentence; the traceback is written into a file of the system's temporary folder."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix="flowebm-traceback-", suffix=".txt", delete=False
        ) as file:
            traceback.print_exc(file=file)
    except OSError:
        return f"Set {_TRACEBACK}=1 to see the traceback, and report it."
    return f"The traceback lies in {file.name}: please report it."


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def _fail(message: object, status: int) -> int:
    if os.environ.get(_TRACEBACK, "0") not in ("", "0"):
        traceback.print_exc()
    print(f"flowebm: {' '.join(str(message).split())}", file=sys.stderr)
    return status
