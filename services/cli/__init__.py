"""The command line, `dgx-music`: the answer goes to stdout, everything else to stderr.

Commands import what they need when they run, so that `--help` is quick.
"""

from __future__ import annotations

import gc
import io
import logging
import signal
import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from services import __version__
from services.cli import (
    audio,
    db,
    doctor,
    export,
    files,
    generate,
    gpu,
    install,
    keys,
    library,
    retry,
    serve,
    trial,
    worker,
)
from services.cli.console import answer_json, note
from services.cli.options import App
from services.cli.running import leave
from services.errors import CancelledError, DGXMusicError
from services.machine.memory import collect_rarely
from services.machine.umask import keep_files_private

UNEXPECTED_EXIT_CODE = 1

_LABEL = "error: "
_UsageError: Any = typer.BadParameter.__mro__[1]
"""Any mistake in the arguments; typer exports only its subclass."""

app = App(
    name="dgx-music",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Turn a sentence into music a producer can drop into a DAW.\n\n"
        'Example: dgx-music generate "trap beat with heavy 808 bass at 140 BPM"'
    ),
    epilog="Settings are environment variables or lines of .env: see docs/settings.md.",
)
app.command("generate")(generate.generate)
app.command("export")(export.export)
app.command("export-ardour")(export.export_ardour)
app.command("retry")(retry.retry)
app.command("history")(library.history)
app.command("status")(library.status)
app.command("serve")(serve.serve)
app.command("worker")(worker.worker)
library.models_app.command("install")(install.install)
library.models_app.command("add")(install.add)
library.models_app.command("test")(trial.try_model)
app.add_typer(library.models_app, name="models")
app.command("analyze")(audio.analyze)
app.command("normalize")(audio.normalize)
app.command("convert")(audio.convert)
app.add_typer(db.app, name="db")
app.add_typer(files.app, name="files")
app.add_typer(keys.app, name="keys")
app.command("doctor")(doctor.doctor)
app.command("validate-gpu")(gpu.validate_gpu)
app.command("benchmark")(trial.benchmark)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dgx-music {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Log more, and show the traceback of an error.")
    ] = False,
    version: Annotated[  # noqa: ARG001  (its callback acts)
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Options of every command."""
    if debug:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)


def main() -> None:
    """Run the command line and exit with a documented code (docs/cli.md)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They raise KeyboardInterrupt, so that temporary files are removed. Under nohup SIGHUP
        # stays ignored, and SIGINT in the background of a script.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    keep_files_private()
    collect_rarely()
    _escape_other_scripts()
    try:
        _run()
    except SystemExit as end:
        if end.code == CancelledError.exit_code:
            leave(CancelledError.exit_code)
        raise
    finally:
        # Else Python looks through all of Numba and SQLAlchemy, for half a second, before it ends.
        gc.freeze()


def _escape_other_scripts() -> None:
    """Write characters that the locale does not have as escapes; by default Python would fail."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() != "utf-8":
        sys.stdout.reconfigure(errors="backslashreplace")


def _run() -> None:
    try:
        if _wants_json():
            code = app(standalone_mode=False)
            if code == CancelledError.exit_code:
                _end("Stopped.", code, label="")
            sys.exit(code)
        app()
    except _UsageError as error:
        _end(error.format_message(), error.exit_code)
    except typer.Abort:
        _end("Stopped: nothing was confirmed.", UNEXPECTED_EXIT_CODE)
    except DGXMusicError as error:
        _show_traceback_in_debug(error)
        _end(str(error), error.exit_code, label="" if isinstance(error, CancelledError) else _LABEL)
    except Exception as error:  # noqa: BLE001  (the outer edge of the process)
        _show_traceback_in_debug(error)
        _end(
            f"unexpected {type(error).__name__}: {error}. "
            "Run it again with `dgx-music --debug ...` and report the output.",
            UNEXPECTED_EXIT_CODE,
        )


def _wants_json() -> bool:
    # What follows `--` is no option.
    options = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv
    return "--json" in options


def _end(message: str, code: int, label: str = _LABEL) -> NoReturn:
    """Say what is wrong, with `--json` also to the program that reads stdout."""
    note(f"{label}{message}")
    if _wants_json():
        with suppress(DGXMusicError):
            answer_json({"error": message, "exit_code": code})
    sys.exit(code)


def _show_traceback_in_debug(error: Exception) -> None:
    if "--debug" in sys.argv:
        traceback.print_exception(error)
