"""The errors of the service."""

from services import errors
from services.errors import DGXMusicError


def test_only_errors_that_may_pass_are_retryable():
    found = {
        item.__name__
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, DGXMusicError) and item.retryable
    }
    assert found == {"EngineError", "StorageError", "OutputError", "StoreAwayError"}
