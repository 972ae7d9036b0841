"""The names that the package exports, and the packages that it imports."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from services import storage

CONTRACT = {
    "Base", "Generation", "Prompt", "GenerationStatus", "validate_status", "get_schema_version",
    "init_db", "get_engine", "get_session", "reset_database", "get_database_stats",
    "create_generation", "get_generation", "get_all_generations", "get_generations_by_status",
    "get_pending_generations", "count_generations", "update_generation_status",
    "complete_generation", "delete_generation", "track_prompt_usage", "get_prompt",
    "get_prompt_by_text", "get_all_prompts", "get_most_used_prompts",
}  # fmt: skip

SIGNATURES: dict[str, dict[str, Any]] = {
    "init_db": {"database_url": None},
    "get_session": {},
    "create_generation": {
        "session": ..., "prompt": ..., "model_name": ..., "duration_seconds": ...,
        "sample_rate": ..., "channels": ..., "file_path": ..., "model_version": None,
        "metadata": None,
    },
    "get_generation": {"session": ..., "generation_id": ...},
    "get_all_generations": {"session": ..., "limit": 100, "offset": 0, "status": None},
    "get_generations_by_status": {"session": ..., "status": ..., "limit": 100},
    "get_pending_generations": {"session": ..., "limit": 100},
    "count_generations": {"session": ..., "status": None},
    "update_generation_status": {
        "session": ..., "generation_id": ..., "status": ..., "error_message": None,
    },
    "complete_generation": {
        "session": ..., "generation_id": ..., "generation_time": ..., "file_size_bytes": ...,
        "metadata": None,
    },
    "delete_generation": {"session": ..., "generation_id": ...},
    "track_prompt_usage": {"session": ..., "prompt_text": ...},
    "get_prompt": {"session": ..., "prompt_id": ...},
    "get_prompt_by_text": {"session": ..., "text": ...},
    "get_all_prompts": {"session": ..., "limit": 100, "offset": 0},
    "get_most_used_prompts": {"session": ..., "limit": 10},
}  # fmt: skip


def test_everything_in_the_contract_is_exported() -> None:
    assert set(storage.__all__) >= CONTRACT


def test_exports_are_sorted_and_exist() -> None:
    def place(name: str) -> tuple[bool, bool, str]:
        return not name.isupper(), name[0].islower(), name

    assert list(storage.__all__) == sorted(set(storage.__all__), key=place)
    assert [name for name in storage.__all__ if not hasattr(storage, name)] == []


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_the_contract(name: str) -> None:
    parameters = inspect.signature(getattr(storage, name)).parameters.values()
    positional = {
        parameter.name: ... if parameter.default is parameter.empty else parameter.default
        for parameter in parameters
        if parameter.kind not in {parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD}
    }
    assert positional == SIGNATURES[name]
    assert list(positional) == list(SIGNATURES[name])


def test_every_error_has_one_root() -> None:
    errors = [
        value
        for name in storage.__all__
        if isinstance(value := getattr(storage, name), type) and issubclass(value, Exception)
    ]
    assert storage.StorageError in errors
    assert [error for error in errors if not issubclass(error, storage.StorageError)] == []


def test_opening_a_current_database_imports_no_heavy_package(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    storage.init_db(url)
    program = (
        f"import sys; from services import storage; storage.init_db({url!r}); "
        "heavy = {'alembic', 'psycopg', 'pydantic', 'sqlalchemy.dialects.postgresql'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"[]\n"
