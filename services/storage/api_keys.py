"""Keys of the API's clients: made, found, listed, revoked. Of a key only its digest is kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import or_, select, update

from services.storage.client_models import ApiKey
from services.storage.columns import pad_values, utc_now
from services.storage.errors import UnknownApiKeyError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

KEY_PREFIX = "dgxm_"
"""What every key begins with, so that people and scanners know one where they see it."""

NAME_LENGTH = 100
USE_NOTED_SECONDS = 60.0
"""How exact `last_used_at` is: a busy key does not write to the database at every request."""

_KEY_BYTES = 32
_ID_BYTES = 6
_SHORTEST_ID_PREFIX = 4


def hash_key(secret: str) -> str:
    """Give the SHA-256 of a key, hexadecimal; any text has one, also what no header can hold."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create_api_key(session: Session, name: str) -> tuple[ApiKey, str]:
    """Make a key of 256 random bits.

    Args:
        session: an open session that may write.
        name: whose it is, in words.

    Returns:
        The row, and the key itself, which cannot be had again.

    Raises:
        ValueError: the name is blank, too long, or has characters that cannot be shown.
    """
    name = name.strip()
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise ValueError(f"The name of a key is 1 to {NAME_LENGTH} characters that can be shown.")
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
    """Give the row of a key; None when there is none, or it was revoked."""
    digest = hash_key(secret)
    row = session.scalars(select(ApiKey).where(ApiKey.key_sha256 == digest)).one_or_none()
    if row is None or not secrets.compare_digest(row.key_sha256, digest):
        return None
    return None if row.revoked_at is not None else row


def find_active_keys(session: Session, key_ids: Collection[str]) -> set[str]:
    """Give those of the ids whose keys were not revoked."""
    found = select(ApiKey.id).where(ApiKey.id.in_(pad_values(key_ids)), ApiKey.revoked_at.is_(None))
    return set(session.scalars(found))


def list_api_keys(session: Session) -> list[ApiKey]:
    """Give all keys, also the revoked ones, oldest first."""
    return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)))


def has_api_keys(session: Session) -> bool:
    """Whether a key was ever made: a server that had keys stays closed when all are revoked."""
    return session.execute(select(ApiKey.id).limit(1)).first() is not None


def revoke_api_key(session: Session, text: str) -> ApiKey:
    """Let a key open nothing any more; what was made with it stays, and stays its owner's.

    Args:
        session: an open session that may write.
        text: the id, its first characters (4 or more), the name of one key that is in use, or the
            key itself, as where one was found in a wrong place.

    Raises:
        UnknownApiKeyError: no key, or more than one, is meant.
    """
    row = _find_one(list_api_keys(session), text.strip())
    if row.revoked_at is None:
        row.revoked_at = utc_now()
        session.flush()
    return row


def _find_one(rows: list[ApiKey], text: str) -> ApiKey:
    named = [row for row in rows if row.name == text]
    # An id is exact; a name is exact too, but an old key's name may have been given again.
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
            raise UnknownApiKeyError(f"More than one key is called {text!r}: say which of {ids}.")
        if found:
            return found[0]
    shown = "of this text" if text.startswith(KEY_PREFIX) else repr(text)
    raise UnknownApiKeyError(
        f"There is no key {shown}. `dgx-music keys list` shows their ids and names."
    )


def touch_api_key(session: Session, key_id: str) -> None:
    """Note that a key was used, at most once a minute."""
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
