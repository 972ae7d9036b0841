"""Publishing a take: its files get their names and its row is completed, in one transaction."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from services import storage
from services.errors import OutputError, UnknownGenerationError
from services.jobs.failpoints import reach
from services.library.attachments import attachment_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from services.jobs.attempt_token import AttemptToken
    from services.library.attachments import Attachment
    from services.library.drafts import StrPath
    from services.library.orders import Order
    from services.library.store import FileStore
    from services.library.takes import Take


def publish_take(order: Order, token: AttemptToken, take: Take, store: FileStore) -> bool:
    """Rename the files and complete the row, unless the attempt has lost the job.

    The row is locked during the renames, so that an attempt which lost the job cannot overwrite a
    published file. The files must be in the store already (`upload_take`). Stems and MIDI count
    from the commit that completes the row, so a crash before it leaves no half of a set.

    Returns:
        Whether it was published.

    Raises:
        OutputError: the store refuses; the row is unchanged.
    """
    name = final_name(order, token, store)
    files = _list_files(take, name)
    with storage.get_session() as session:
        if lock_held(session, order.generation_id, token) is None:
            return False
        reach("publish-before-rename")
        with ExitStack() as undo:
            for draft, final in files:
                undo.callback(_remove_quietly, store, final)
                store.publish(draft, final)
            undo.pop_all()
        reach("publish-after-rename")
        storage.publish_generation(
            session,
            order.generation_id,
            str(token),
            generation_time=take.seconds,
            file_size_bytes=take.bytes,
            file_sha256=take.sha256,
            metadata=take.metadata,
            file_path=name,
            model_version=take.metadata.get("engine_version"),
        )
        measured = storage.Measurements(**take.measurements)
        storage.record_analysis(session, order.generation_id, measured)
        if take.attachments:
            storage.replace_attachments(
                session, order.generation_id, [_describe(one, name) for one in take.attachments]
            )
        storage.remove_queue_entry(session, order.generation_id)
        reach("publish-before-commit")
    reach("publish-after-commit")
    return True


def upload_take(order: Order, token: AttemptToken, take: Take, store: FileStore) -> None:
    """Copy the files to the store, before `publish_take` locks the row.

    Raises:
        OutputError: the store refuses; it may hold some of the files, but none in part.
    """
    name = final_name(order, token, store)
    for one in take.attachments:
        store.upload(one.path, attachment_name(name, one.kind, one.name), one.sha256)
    store.upload(take.path, name, take.sha256)


def list_final_names(order: Order, token: AttemptToken, take: Take, store: FileStore) -> list[str]:
    """Return the names in the store of all files of a take."""
    return [final for _, final in _list_files(take, final_name(order, token, store))]


def publish_attachments(
    generation_id: str, attachments: Sequence[Attachment], store: FileStore
) -> None:
    """Give drafts of stems and MIDI their names beside a published take, and record them.

    Raises:
        UnknownGenerationError: the job has been deleted, or its take has.
        OutputError: the store refuses; the take keeps the attachments that it had.
    """
    with storage.get_session() as session:
        row = storage.lock_generation(session, generation_id)
        if row is None or not row.is_complete:
            raise UnknownGenerationError(f"The generation {generation_id} has been deleted.")
        for one in attachments:
            final = attachment_name(row.file_path, one.kind, one.name)
            store.upload(one.path, final, one.sha256)
            store.publish(one.path, final)
        described = [_describe(one, row.file_path) for one in attachments]
        storage.replace_attachments(session, generation_id, described)


def _list_files(take: Take, name: str) -> list[tuple[StrPath, str]]:
    """Return draft and final name of each file, the take last."""
    attached = [(one.path, attachment_name(name, one.kind, one.name)) for one in take.attachments]
    return [*attached, (take.path, name)]


def _describe(one: Attachment, take_name: str) -> storage.NewAttachment:
    return storage.NewAttachment(
        kind=one.kind,
        name=one.name,
        file_path=attachment_name(take_name, one.kind, one.name),
        bytes=one.bytes,
        sha256=one.sha256,
    )


def _remove_quietly(store: FileStore, name: str) -> None:
    # The error that led here is the one to report; what stays is removed by the next attempt.
    with suppress(OutputError):
        store.delete(name)
        store.prune_folders(name)


def final_name(order: Order, token: AttemptToken, store: FileStore) -> str:
    return store.final_name(order.file_path, token.nonce)


def lock_held(
    session: Session, generation_id: str, token: AttemptToken
) -> storage.Generation | None:
    """Lock and return the row of the job; None if it is no longer the attempt's."""
    row = storage.lock_generation(session, generation_id)
    held = row is not None and row.is_processing and row.attempt_token == str(token)
    return row if held else None
