"""Everything that can go wrong on the way from a request to a file, as one tree.

The message of each error is one or two sentences for the person who asked: what is wrong, and what
to do. `exit_code` is what the command line leaves with (docs/cli.md).
"""

from __future__ import annotations


class DGXMusicError(Exception):
    """Anything this project says no with; the message is for people."""

    exit_code = 1
    retryable = False
    """Whether the same job may succeed when a worker tries it again."""


class InvalidRequestError(DGXMusicError):
    """What was asked for cannot be made, however often it is tried."""

    exit_code = 2


class UnknownInputError(InvalidRequestError):
    """An audio file that a request names is not there for whoever asks."""

    def __init__(self, message: str, field: str = "") -> None:
        """Say which field of the request it is, where it is known."""
        super().__init__(message)
        self.field = field


class SettingsError(DGXMusicError):
    """A setting has a value it cannot have; the message names the variable."""

    exit_code = 2


class RequestMismatchError(InvalidRequestError):
    """The key that marks a request as one that may be repeated was used for another."""


class QueueFullError(DGXMusicError):
    """As many jobs wait as may."""

    exit_code = 8


class UnknownPageError(InvalidRequestError):
    """The cursor of a page was not given out by that list."""


class UnknownGenerationError(DGXMusicError):
    """No generation, or more than one, has the id that was given."""

    exit_code = 3


class UnknownKeyError(DGXMusicError):
    """No key of the API, or more than one, is meant."""

    exit_code = 3


class JobFinishedError(DGXMusicError):
    """The job is finished, so that it can no longer be cancelled."""

    exit_code = 2


class EngineUnavailableError(DGXMusicError):
    """The engine asked for does not exist or lacks something on this machine."""

    exit_code = 4


class CheckpointError(DGXMusicError):
    """The files of a model are missing, damaged or of another model."""

    exit_code = 4


class EngineError(DGXMusicError):
    """The engine failed while it made the audio."""

    exit_code = 5
    retryable = True


class StorageError(DGXMusicError):
    """The database cannot be used as it is."""

    exit_code = 6
    retryable = True


class OutputError(DGXMusicError):
    """A file cannot be written where it should be."""

    exit_code = 7
    retryable = True


class FileGoneError(OutputError):
    """A finished file is no longer where it was published."""

    retryable = False


class StoreAwayError(OutputError):
    """The bucket of the finished files cannot be used now."""


class CancelledError(DGXMusicError):
    """The person, or the system, asked to stop."""

    exit_code = 130
