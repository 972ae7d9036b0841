"""The errors of this project, in one tree.

An error's message is one or two sentences for the caller: what is wrong, and what to do.
`exit_code` is the exit code of the command line (docs/cli.md).
"""

from __future__ import annotations


class DGXMusicError(Exception):
    """The base of all errors below."""

    exit_code = 1
    retryable = False
    """Whether a retry of the same job may succeed."""
    place: int | None = None
    """The number of the request at fault among those that were sent together, from 0, if known."""
    is_of_machine = False
    """Whether the machine, its disks, the store or the database is at fault and not the job: a
    worker gives the job back, counts no attempt, and waits until it can work again."""


class InvalidRequestError(DGXMusicError):
    """The request is invalid; a retry cannot help."""

    exit_code = 2


class UnknownInputError(InvalidRequestError):
    """A request names an input that does not exist, or that belongs to another client."""

    def __init__(self, message: str, field: str = "") -> None:
        """`field` is the field of the request, or empty if it is not known."""
        super().__init__(message)
        self.field = field


class SettingsError(DGXMusicError):
    """A setting is invalid; the message names its variable."""

    exit_code = 2


class RequestMismatchError(InvalidRequestError):
    """An idempotency key was reused for a different request."""


class QueueFullError(DGXMusicError):
    """The queue is full."""

    exit_code = 8


class UnknownPageError(InvalidRequestError):
    """A cursor does not come from the list that it is used on."""


class UnknownGenerationError(DGXMusicError):
    """No job, or more than one, matches the id."""

    exit_code = 3


class UnknownKeyError(DGXMusicError):
    """No API key, or more than one, matches."""

    exit_code = 3


class JobFinishedError(DGXMusicError):
    """A finished job cannot be cancelled."""

    exit_code = 2


class JobNotFailedError(DGXMusicError):
    """Only a failed or cancelled job can be sent again."""

    exit_code = 2


class EngineUnavailableError(DGXMusicError):
    """The model does not exist, or cannot run on this machine."""

    exit_code = 4


class CheckpointError(DGXMusicError):
    """A model's files are missing, damaged, or belong to another model."""

    exit_code = 4


class EngineError(DGXMusicError):
    """The engine failed while rendering."""

    exit_code = 5
    retryable = True


class EngineEndedError(EngineError):
    """The process of the engine ended during the job."""

    def __init__(self, message: str, jobs: int = 1) -> None:
        """`jobs` is the number of jobs that were running in the process."""
        super().__init__(message)
        self.jobs = jobs


class StorageError(DGXMusicError):
    """The database cannot be used."""

    exit_code = 6
    retryable = True
    is_of_machine = True


class OutputError(DGXMusicError):
    """A file cannot be written."""

    exit_code = 7
    retryable = True
    is_of_machine = True


class FileGoneError(OutputError):
    """A published file is missing."""

    retryable = False
    is_of_machine = False


class FileDamagedError(FileGoneError):
    """A published file is no longer the one that was written."""


class StoreAwayError(OutputError):
    """The bucket of the finished files does not respond."""


class ShortageError(OutputError):
    """The machine is short of what every job needs, such as open files, processes or disk."""


class CancelledError(DGXMusicError):
    """The user or the system asked to stop."""

    exit_code = 130
