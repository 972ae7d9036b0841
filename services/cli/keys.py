"""`dgx-music keys`: create, list and revoke API keys, or stop asking for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.console import answer, answer_json, answer_table, confirm, note
from services.cli.library import open_database_of_settings
from services.cli.options import App, AsJson
from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from services.config import Settings
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

    settings = open_database_of_settings()
    with storage_errors(), storage.get_session() as session:
        is_first = not storage.has_api_keys(session)
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
    if is_first and why_key_needed(settings) is None:
        note(
            "From now on a server on this machine needs a key too. To undo that: "
            "dgx-music keys delete-all"
        )


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the API keys, also revoked ones; secrets are not stored."""
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
    """Revoke an API key; servers refuse it within three seconds."""
    from services import storage
    from services.database import storage_errors

    open_database_of_settings()
    with storage_errors(), storage.get_session() as session:
        row = storage.revoke_api_key(session, key)
    if as_json:
        answer_json(_describe_key(row))
    note(f"Revoked the key {row.id} of {row.name!r}. Its jobs stay.")


@app.command("delete-all")
def delete_all(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete all keys: a server for this machine then needs none.

    Every program on this machine, and everybody whom a proxy on it lets through, can then see,
    cancel and download all jobs.

    Restart running servers afterwards: until then they ask for a key that no longer exists.
    """
    from services import storage
    from services.database import storage_errors

    settings = open_database_of_settings()
    reason = why_key_needed(settings)
    if reason is not None:
        raise InvalidRequestError(reason)
    with storage_errors(), storage.get_session(read_only=True) as session:
        count = len(storage.list_api_keys(session))
    if count:
        confirm(
            f"Delete {count} API keys? Every program on this machine, and everybody whom a proxy "
            "on it lets through, can then see all jobs.",
            yes=yes,
        )
        with storage_errors(), storage.get_session() as session:
            count = storage.delete_api_keys(session)
        note(f"Deleted {count} API keys. Restart running servers; then no request needs a key.")
    else:
        note("There are no keys: a server for this machine alone asks for none.")
    if as_json:
        answer_json({"deleted": count})


def why_key_needed(settings: Settings) -> str | None:
    """Return why a server asks for a key even where none was created; None if it does not."""
    from services.api.guard import is_loopback_host

    if settings.api_key is not None:
        return "DGX_MUSIC_API_KEY is set, which a server asks for. Unset it first."
    if not is_loopback_host(settings.api_host):
        return (
            f"Other machines can reach {settings.api_host}, where a server needs a key. Set "
            "DGX_MUSIC_API_HOST=127.0.0.1 first."
        )
    return None


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
