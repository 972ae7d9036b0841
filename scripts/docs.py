"""Write the generated parts of docs/: blocks of pages, and openapi.json.

just docs                         write them
python scripts/docs.py --check    exit with 1 if they differ from the code
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ |= {"COLUMNS": "96", "NO_COLOR": "1", "TERM": "dumb", "TERMINAL_WIDTH": "96"}

from typer.testing import CliRunner

from services.api.application import create_app
from services.api.document import list_operations
from services.api.problems import TYPES
from services.cli import app
from services.config import Settings, variable_of
from services.generation.composer.genres import GENRES
from services.generation.composer.styles import STYLES
from services.generation.composer.synth import PATCHES
from services.generation.composer.vocabulary import INSTRUMENTS, MOODS
from services.generation.registry import default_registry

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = (
    "", "generate", "export", "export-ardour", "retry", "history", "status", "serve", "worker",
    "analyze", "normalize", "convert",
    "models", "models list", "models install", "models add", "models test",
    "files", "files stats", "files cleanup", "files check",
    "keys", "keys create", "keys list", "keys revoke", "keys delete-all",
    "doctor", "validate-gpu", "benchmark",
    "db", "db init", "db migrate", "db reset", "db stats", "db check", "db backup",
    "db restore", "db move", "db cleanup",
)  # fmt: skip
BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    rows = ["| variable | default | what it does |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "none" if field.default in (None, ()) else f"`{field.default}`"
        if field.default_factory is not None:
            default = "see above"
        rows.append(f"| `{variable_of(name)}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def help_blocks() -> str:
    runner = CliRunner()
    blocks = []
    for command in COMMANDS:
        result = runner.invoke(app, [*command.split(), "--help"], prog_name="dgx-music")
        assert result.exit_code == 0, (command, result.output)
        text = "\n".join(line.rstrip() for line in result.output.strip().splitlines())
        blocks.append(f"### dgx-music {command}".rstrip() + f"\n\n```text\n{text}\n```\n")
    return "\n".join(blocks)


def genre_table() -> str:
    rows = ["| genre | BPM | styles played as it |", "| --- | --- | --- |"]
    for name, genre in GENRES.items():
        slowest, usual, fastest = genre.tempo
        near = [style for style, how in STYLES.items() if how.genre == name and style != name]
        tempo = f"{usual:g} ({slowest:g} to {fastest:g})"
        rows.append(f"| {name} | {tempo} | {', '.join(near)} |")
    return "\n".join(rows) + "\n"


def word_lists() -> str:
    return (
        f"Moods: {', '.join(MOODS)}.\n\n"
        f"Instruments: {', '.join(INSTRUMENTS)}.\n\n"
        f"Patches: {', '.join(f'`{name}`' for name in PATCHES)}.\n"
    )


NOWHERE = Path("/nonexistent")
"""A models folder without models of one's own."""


def openapi() -> dict[str, Any]:
    return create_app(None, default_registry(Settings(models_dir=NOWHERE))).openapi()


def route_table() -> str:
    rows = ["| route | what it does |", "| --- | --- |"]
    for path, method, operation in list_operations(openapi()):
        rows.append(f"| {method} `{path}` | {operation['summary']} |")
    return "\n".join(rows) + "\n"


def problem_table() -> str:
    rows = ["| status | kind | what to do |", "| --- | --- | --- |"]
    rows += [
        f"| {kind.status} | `{kind.name}`: {kind.title} | {kind.advice} |"
        for kind in TYPES.values()
    ]
    return "\n".join(rows) + "\n"


GENERATED = {
    "routes": route_table,
    "problems": problem_table,
    "settings": settings_table,
    "help": help_blocks,
    "genres": genre_table,
    "words": word_lists,
}


def update_blocks(text: str) -> str:
    """Return the page with its generated blocks brought up to date."""
    return BLOCK.sub(lambda match: match[1] + GENERATED[match[2]]() + match[3], text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = update_blocks(text)
        if new != text:
            stale.append(page.name)
            if not check:
                page.write_text(new, encoding="utf-8")
    document = DOCS / "openapi.json"
    new = json.dumps(openapi(), indent=2, ensure_ascii=False) + "\n"
    if not document.exists() or document.read_text(encoding="utf-8") != new:
        stale.append(document.name)
        if not check:
            document.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'stale' if check else 'written'}: {', '.join(stale)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
