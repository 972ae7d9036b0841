"""`dgx-music export` and `export-ardour`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.console import answer, answer_json, note
from services.cli.generate import Quiet
from services.cli.options import AsJson
from services.cli.running import StopFlag, progress_bar
from services.machine.umask import callers_umask

HERE = Path()

Jobs = Annotated[
    list[str],
    typer.Argument(
        metavar="JOB...", help="The jobs' ids, the starts of them, or `last`, in their order."
    ),
]
Folder = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="The folder to write it into.",
        show_default="the current folder",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="NAME", help="The name of the session.", show_default="the first prompt"
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        "-f",
        help="Replace an export of the same name, with all that was changed or recorded in it.",
    ),
]


def export(
    jobs: Jobs,
    *,
    to: Annotated[
        str,
        typer.Option(metavar="FORMAT", help="ardour, dawproject, reaper, folder or pack."),
    ],
    output: Folder = HERE,
    name: Name = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write takes as a session for a DAW, with stems and notes.

    Takes that were made without stems are rendered again. Several takes stand after each other.

    Example: dgx-music export last --to ardour --output ~/sessions
    """
    from services.cli.library import open_service
    from services.jobs.exports import export_jobs

    service = open_service()
    found = [service.get(job) for job in jobs]
    stop = StopFlag()
    with stop.catch_signals(), progress_bar(shown=not quiet) as progress:
        done = export_jobs(
            service,
            found,
            to,
            output,
            name=name,
            force=force,
            progress=progress,
            should_stop=stop,
            permissions=callers_umask,
        )
    if not quiet:
        for remark in done.remarks:
            note(remark)
    if as_json:
        answer_json({"path": str(done.path), "remarks": list(done.remarks)})
    else:
        answer(str(done.path))


def export_ardour(
    jobs: Jobs,
    *,
    output: Folder = HERE,
    name: Name = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write takes as an Ardour session: `export --to ardour`.

    Example: dgx-music export-ardour last --output ~/sessions
    """
    export(jobs, to="ardour", output=output, name=name, force=force, as_json=as_json, quiet=quiet)
