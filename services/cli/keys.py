"""`dgx-music keys`: create, list and revoke API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.console import answer, answer_json, answer_table, note
from services.cli.library import open_database_of_settings
from services.cli.options import App, AsJson
from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from services.storage import ApiKey

app = App(help="Manage the API keys of clients.")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what uses the key.")],
    as_json: AsJson = False,
) -> None:
    """Create an API key and show it once.

    A client sees only the jobs of its own key.

    Example: dgx-music keys create "the studio's laptop" > laptop.key
    """
    from services import storage
    from services.database import storage_errors

    open_database_of_settings()
    with storage_errors(), storage.get_session() as session:
        try:
            row, secret = storage.create_api_key(session, name)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
    if as_json:
        answer_json({"key": secret, **_describe_key(row)})
    else:
        answer(secret)
    note(
        f"Created the key {row.id} for {row.name!r}. It cannot be shown again. Clients send "
        "'Authorization: Bearer KEY'."
    )


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the API keys, revoked ones too; the secrets are not stored."""
    from services import storage
    from services.database import storage_errors

    open_database_of_settings()
    with storage_errors(), storage.get_session(read_only=True) as session:
        rows = storage.list_api_keys(session)
    if as_json:
        answer_json([_describe_key(row) for row in rows])
        return
    if not rows:
        note("There are no keys. To create one: dgx-music keys create NAME")
        return
    answer_table(
        ("id", "name", "created", "last used", "revoked"),
        [
            (
                row.id,
                row.name,
                _format_time(row.created_at) or "",
                _format_time(row.last_used_at) or "never",
                _format_time(row.revoked_at) or "",
            )
            for row in rows
        ],
    )


@app.command("revoke")
def revoke(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="Id or its start, name, or the key itself.")
    ],
    as_json: AsJson = False,
) -> None:
    """Revoke an API key; running servers refuse it within three seconds."""
    from services import storage
    from services.database import storage_errors

    open_database_of_settings()
    with storage_errors(), storage.get_session() as session:
        row = storage.revoke_api_key(session, key)
    if as_json:
        answer_json(_describe_key(row))
    note(f"Revoked the key {row.id} of {row.name!r}. Its jobs stay.")


def _describe_key(row: ApiKey) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "created_at": _format_time(row.created_at),
        "last_used_at": _format_time(row.last_used_at),
        "revoked_at": _format_time(row.revoked_at),
    }


def _format_time(moment: Any) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
