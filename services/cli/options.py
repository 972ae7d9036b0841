"""Options that several commands share, and an app whose help shows no type for flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogJson = Annotated[bool, typer.Option("--json", help="Log JSON, one event per line.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", help="A name from `dgx-music models list`."),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        "-c",
        min=1,
        metavar="N",
        help="Jobs to run at the same time.",
        show_default="from the settings",
    ),
]


def _hide_flag_types(command: TyperCommand | TyperGroup, context: Any) -> None:
    # typer shows a flag as `--json <bool>`, as if it took a value.
    for parameter in command.get_params(context):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""


class _Command(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        _hide_flag_types(self, ctx)
        super().format_help(ctx, formatter)


class _Group(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        _hide_flag_types(self, ctx)
        super().format_help(ctx, formatter)


class App(typer.Typer):
    """A group of commands; without a command it shows its help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=_Group, no_args_is_help=True, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        return super().command(name, cls=_Command, **options)
