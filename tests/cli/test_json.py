"""`--json`: every command has it, and an error is JSON too."""

import json
from collections.abc import Iterator

import pytest
import typer
import typer.main

from services import cli, config


def commands(command, *names: str) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, found in getattr(command, "commands", {}).items():
        if hasattr(found, "commands"):
            yield from commands(found, *names, name)
        else:
            yield (*names, name), found


COMMANDS = dict(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_has_json(names):
    options = {option for parameter in COMMANDS[names].params for option in parameter.opts}
    assert "--json" in options


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("status", "nonesuch"), 3, "no generation 'nonesuch'"),
        (("generate", "ab"), 2, "3 to 500 characters"),
        (("generate",), 2, "Missing argument"),
        (("history", "--limit", "0"), 2, "--limit"),
        (("nonsense",), 2, "No such command"),
        (("db", "restore", "missing.db"), 6, "missing.db"),
        (("keys", "revoke", "nobody"), 3, "nobody"),
        (("convert", "missing.wav", "b.wav"), 2, "missing.wav"),
    ],
)
def test_an_error_is_json_on_stdout_and_a_sentence_on_stderr(home, arguments, code, words):
    result = home.call(*arguments, "--json")
    found = json.loads(result.stdout)
    assert (result.returncode, found["exit_code"]) == (code, code)
    assert words in found["error"]
    assert words in result.stderr


def test_what_follows_two_dashes_is_no_option(home):
    result = home.call("status", "--", "--json")
    assert (result.returncode, result.stdout) == (3, "")


def test_an_interrupted_command_answers_in_json(home, monkeypatch):
    def interrupt(_env_file=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load_settings", interrupt)
    result = home.call("history", "--json")
    assert result.returncode == 130
    assert json.loads(result.stdout) == {"error": "Stopped.", "exit_code": 130}


def test_a_declined_question_is_json(home):
    home.add_job("house")
    result = home.call("db", "reset", "--json", answer="")
    assert result.returncode == 1
    assert json.loads(result.stdout)["exit_code"] == 1
    assert len(home.rows()) == 1


def test_commands_of_the_database_answer_in_json(home):
    def ask(*arguments: str) -> dict:
        result = home.call(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    home.add_job("house")
    revision = ask("db", "init")["revision"]
    assert ask("db", "migrate")["revision"] == revision
    assert ask("db", "check") == {"revision": revision, "problems": []}
    assert ask("db", "backup", "copy.db") == {"file": "copy.db"}
    deleted = ask("db", "reset", "--yes")["deleted"]
    assert (deleted["jobs"], deleted["keys"]) == (1, 0)
    restored = ask("db", "restore", "copy.db", "--force")
    assert restored["revision"] == revision
    assert len(home.rows()) == 1
    ask("keys", "create", "laptop")
    assert ask("keys", "delete-all", "--yes") == {"deleted": 1}


def test_a_file_that_cannot_be_read_is_an_entry_beside_the_others(home):
    (home.path / "text.wav").write_text("not audio")
    result = home.call("analyze", "text.wav", "missing.wav", "--json")
    found = json.loads(result.stdout)
    assert [one["file"] for one in found] == ["text.wav", "missing.wav"]
    assert all(one["error"] for one in found)
    assert result.returncode == 2
