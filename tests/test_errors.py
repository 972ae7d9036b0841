"""The tree of errors."""

import pytest

from services import errors
from services.errors import DGXMusicError


def names_with(attribute: str) -> set[str]:
    return {
        item.__name__
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, DGXMusicError) and getattr(item, attribute)
    }


OF_MACHINE = {"StorageError", "OutputError", "StoreAwayError", "ShortageError"}


@pytest.mark.parametrize(
    ("attribute", "names"),
    [
        ("retryable", OF_MACHINE | {"EngineError", "EngineEndedError"}),
        ("is_of_machine", OF_MACHINE),
    ],
)
def test_only_these_errors_have_the_mark(attribute, names):
    assert names_with(attribute) == names
