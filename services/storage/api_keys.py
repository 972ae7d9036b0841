"""API keys: create, find, list and revoke. The database keeps only a digest of each key."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, or_, select, update

from services.storage.client_models import ApiKey
from services.storage.columns import pad_values, utc_now
from services.storage.errors import UnknownApiKeyError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

KEY_PREFIX = "dgxm_"
"""The start of every key, by which users and secret scanners recognise one."""

NAME_LENGTH = 100
USE_NOTED_SECONDS = 60.0
"""Resolution of `last_used_at`: a busy key does not write to the database on each request."""

_KEY_BYTES = 32
_ID_BYTES = 6
_SHORTEST_ID_PREFIX = 4


def hash_key(secret: str) -> str:
    """Return the SHA-256 of a key in hexadecimal, for any text, lone surrogates included."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create_api_key(session: Session, name: str) -> tuple[ApiKey, str]:
    """Create a key of 256 random bits.

    Args:
        session: a session that can write.
        name: a label for its user, 1 to 100 printable characters.

    Returns:
        The row, and the key itself, which is not stored and cannot be read again.

    Raises:
        ValueError: the name is blank, too long, or has characters that are not printable.
    """
    name = name.strip()
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise ValueError(f"The name of a key must have 1 to {NAME_LENGTH} printable characters.")
    secret = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    row = ApiKey(
        id=secrets.token_hex(_ID_BYTES),
        name=name,
        key_sha256=hash_key(secret),
        created_at=utc_now(),
    )
    session.add(row)
    session.flush()
    return row, secret


def find_api_key(session: Session, secret: str) -> ApiKey | None:
    """Return the row of a key, or None when it is unknown or revoked."""
    digest = hash_key(secret)
    row = session.scalars(select(ApiKey).where(ApiKey.key_sha256 == digest)).one_or_none()
    if row is None or not secrets.compare_digest(row.key_sha256, digest):
        return None
    return None if row.revoked_at is not None else row


def find_active_keys(session: Session, key_ids: Collection[str]) -> set[str]:
    """Return those of the ids whose keys exist and are not revoked."""
    found = select(ApiKey.id).where(ApiKey.id.in_(pad_values(key_ids)), ApiKey.revoked_at.is_(None))
    return set(session.scalars(found))


def list_api_keys(session: Session) -> list[ApiKey]:
    """Return all keys, revoked ones included, oldest first."""
    return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)))


def has_api_keys(session: Session) -> bool:
    """Return whether a key was ever created; revoked ones count.

    A server that had keys must not become open to everybody when the last one is revoked.
    """
    return session.execute(select(ApiKey.id).limit(1)).first() is not None


def revoke_api_key(session: Session, text: str) -> ApiKey:
    """Revoke a key. Its jobs stay, and keep their owner.

    Args:
        session: a session that can write.
        text: the id, at least the first 4 characters of it, the name of a key, or the key itself
            (one that leaked, for example).

    Raises:
        UnknownApiKeyError: the text matches no key, or more than one.
    """
    row = _find_one(list_api_keys(session), text.strip())
    if row.revoked_at is None:
        row.revoked_at = utc_now()
        session.flush()
    return row


def delete_api_keys(session: Session) -> int:
    """Delete every key, revoked ones too; return their number. Jobs keep the id of their owner."""
    return len(session.scalars(delete(ApiKey).returning(ApiKey.id)).all())


def _find_one(rows: list[ApiKey], text: str) -> ApiKey:
    named = [row for row in rows if row.name == text]
    # In order of certainty. A revoked key's name may be in use again: the active key wins.
    for found in (
        [row for row in rows if row.id == text or row.key_sha256 == hash_key(text)],
        [row for row in named if row.revoked_at is None] or named,
        [
            row
            for row in rows
            if len(text) >= _SHORTEST_ID_PREFIX and row.id.startswith(text.lower())
        ],
    ):
        if len(found) > 1:
            ids = ", ".join(row.id for row in found)
            raise UnknownApiKeyError(f"{text!r} matches more than one key. Use one of: {ids}.")
        if found:
            return found[0]
    # A key that was typed here must not appear in a terminal's history or a log.
    shown = "matches this text" if text.startswith(KEY_PREFIX) else f"matches {text!r}"
    raise UnknownApiKeyError(f"No key {shown}. `dgx-music keys list` shows the ids and names.")


def touch_api_key(session: Session, key_id: str) -> None:
    """Set `last_used_at` to now, at most once a minute."""
    now = utc_now()
    long_ago = now - timedelta(seconds=USE_NOTED_SECONDS)
    session.execute(
        update(ApiKey)
        .where(
            ApiKey.id == key_id,
            or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < long_ago),
        )
        .values(last_used_at=now)
    )
