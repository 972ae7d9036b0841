"""`dgx-music keys`: who may use the API: make, list and revoke keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.console import answer, answer_json, answer_table, note
from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from services.storage import ApiKey

app = typer.Typer(no_args_is_help=True, help="Look after the keys of the API's clients.")

AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]


def _open() -> None:
    from services.config import load_settings
    from services.database import open_database

    open_database(load_settings())


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, in words.")], as_json: AsJson = False
) -> None:
    """Make a key and show it, this once; what is made with it belongs to it.

    Example: dgx-music keys create "the studio's laptop" > laptop.key
    """
    from services import storage
    from services.database import storage_errors

    _open()
    with storage_errors(), storage.get_session() as session:
        try:
            row, secret = storage.create_api_key(session, name)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
    if as_json:
        answer_json({"key": secret, **_facts(row)})
    else:
        answer(secret)
    note(
        f"Made the key {row.id} for {row.name!r}. It cannot be shown again; clients send it as "
        "'Authorization: Bearer KEY'."
    )


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys, also the revoked ones; the keys themselves are not kept."""
    from services import storage
    from services.database import storage_errors

    _open()
    with storage_errors(), storage.get_session(read_only=True) as session:
        rows = storage.list_api_keys(session)
    if as_json:
        answer_json([_facts(row) for row in rows])
        return
    if not rows:
        note("There are no keys. `dgx-music keys create NAME` makes one.")
        return
    answer_table(
        ("id", "name", "created", "last used", "revoked"),
        [
            (
                row.id,
                row.name,
                _moment(row.created_at) or "",
                _moment(row.last_used_at) or "never",
                _moment(row.revoked_at) or "",
            )
            for row in rows
        ],
    )


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="Id, its first characters, name, or the key.")],
    as_json: AsJson = False,
) -> None:
    """Let a key open nothing any more; running servers follow within three seconds."""
    from services import storage
    from services.database import storage_errors

    _open()
    with storage_errors(), storage.get_session() as session:
        row = storage.revoke_api_key(session, key)
    if as_json:
        answer_json(_facts(row))
    note(f"Revoked the key {row.id} of {row.name!r}. What was made with it stays.")


def _facts(row: ApiKey) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "created_at": _moment(row.created_at),
        "last_used_at": _moment(row.last_used_at),
        "revoked_at": _moment(row.revoked_at),
    }


def _moment(moment: Any) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
