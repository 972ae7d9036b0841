"""`--help` of every command: complete, short, and readable in a narrow terminal."""

import pytest
import typer
from typer.core import TyperGroup

from services.cli import app


def find_commands(command, *path):
    yield path, command
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from find_commands(inner, *path, name)


COMMANDS = dict(find_commands(typer.main.get_command(app)))
PATHS = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


@PATHS
def test_every_command_and_option_has_a_help_text(path):
    command = COMMANDS[path]
    assert command.help
    assert all(parameter.help for parameter in command.params)


@pytest.mark.parametrize("path", [(), ("db",), ("files",), ("keys",), ("models",)], ids=" ".join)
def test_commands_take_a_line_each_in_the_list_at_80_columns(home, path, monkeypatch):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    commands = COMMANDS[path].commands
    shown = home.call(*path, "--help").stdout.rpartition("Commands")[2].splitlines()
    listed = [line for line in shown if line.startswith("│")]
    assert [line.split()[1] for line in listed] == list(commands)


@PATHS
def test_help_fits_60_columns_and_shows_no_type_for_flags(home, path, monkeypatch):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 60)
    result = home.call(*path, "-h")
    assert result.returncode == 0
    assert max(len(line) for line in result.stdout.splitlines()) <= 60
    # One option of a developers' command is too long.
    assert "…" not in result.stdout or path == ("benchmark",)
    assert "<bool>" not in result.stdout


def test_help_is_shown_without_a_command(home):
    assert "Turn a sentence into music" in home.call().stdout
    assert "Manage the database." in home.call("db").stdout


def test_unknown_command_and_option_are_refused(home):
    for arguments in (("genrate",), ("db", "drop"), ("history", "--all")):
        result = home.call(*arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert arguments[-1] in result.stderr
