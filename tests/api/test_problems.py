"""Problems: conversion of errors, the JSON of an answer, and the texts of the types."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.problems import (
    TYPES,
    FieldProblem,
    ProblemError,
    convert_error,
    convert_status,
    describe_problems,
    encode_problem,
    send_problem,
)
from services.errors import (
    CancelledError,
    DGXMusicError,
    EngineUnavailableError,
    FileGoneError,
    OutputError,
    QueueFullError,
    StorageError,
    StoreAwayError,
    UnknownInputError,
    UnknownPageError,
)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (FileGoneError("x"), "gone"),
        (StoreAwayError("x"), "unavailable"),
        (OutputError("x"), "insufficient-storage"),
        (UnknownPageError("x"), "not-found"),
        (UnknownInputError("x"), "invalid-request"),
        (CancelledError("x"), "internal-error"),
    ],
)
def test_subclass_has_a_problem_of_its_own(error: DGXMusicError, name: str) -> None:
    assert convert_error(error).kind.name == name


@pytest.mark.parametrize("error", [QueueFullError("x"), StorageError("x"), StoreAwayError("x")])
def test_temporary_problem_says_when_to_retry(error: DGXMusicError) -> None:
    assert int(convert_error(error).headers["Retry-After"]) > 0


def test_lasting_problem_has_no_time_to_retry() -> None:
    assert convert_error(OutputError("x")).headers == {}


@pytest.mark.parametrize(
    ("error", "pointer"),
    [
        (UnknownInputError("No such input.", "melody"), "/melody"),
        (EngineUnavailableError("No such model."), "/model"),
    ],
)
def test_error_of_a_field_points_to_it(error: DGXMusicError, pointer: str) -> None:
    problem = convert_error(error)
    assert problem.errors == [FieldProblem(detail=str(error), pointer=pointer)]


def test_error_of_an_unknown_field_points_nowhere() -> None:
    assert convert_error(UnknownInputError("No such input.")).errors is None


def test_text_of_an_internal_error_is_not_passed_on() -> None:
    problem = convert_error(CancelledError("secret"))
    assert "secret" not in problem.detail
    assert b"secret" not in encode_problem(problem, None)


@given(st.text(), st.none() | st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=3))
def test_json_has_what_the_problem_has(
    detail: str, request_id: str | None, fields: list[tuple[str, str]]
) -> None:
    errors = [FieldProblem(detail=text, pointer=pointer) for text, pointer in fields]
    error = ProblemError("not-found", detail, errors=errors)
    expected: dict[str, Any] = {
        "type": "/api/v1/problems/not-found",
        "title": "Not found",
        "status": 404,
        "detail": detail,
    }
    if request_id is not None:
        expected["request_id"] = request_id
    if errors:
        expected["errors"] = [field.model_dump(exclude_none=True) for field in errors]
    assert json.loads(encode_problem(error, request_id)) == expected


def test_problem_of_a_middleware_is_a_whole_answer() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    error = ProblemError("rate-limited", "Später.", headers={"Retry-After": "7"})
    asyncio.run(send_problem(send, error, "id"))
    start, body = sent
    headers = dict(start["headers"])
    assert start["status"] == 429
    assert headers[b"content-length"] == str(len(body["body"])).encode()
    assert headers[b"retry-after"] == b"7"
    assert headers[b"cache-control"] == b"no-store"
    assert json.loads(body["body"])["detail"] == "Später."


@pytest.mark.parametrize(
    ("status", "name"),
    [(403, "cross-site"), (409, "job-finished"), (422, "invalid-request"), (503, "unavailable"),
     (418, "bad-request"), (504, "internal-error")],
)  # fmt: skip
def test_status_becomes_the_general_problem_of_its_kind(status: int, name: str) -> None:
    assert convert_status(status, "", None).kind.name == name


def test_detail_of_a_library_is_kept() -> None:
    problem = convert_status(404, "No such thing.", {"X-Kept": "yes"})
    assert (problem.detail, problem.headers) == ("No such thing.", {"X-Kept": "yes"})


def test_problems_of_one_status_share_a_description() -> None:
    described = describe_problems("unavailable", "not-found", "queue-full")
    assert {status: each["description"] for status, each in described.items()} == {
        503: "Temporarily unavailable; Queue full",
        404: "Not found",
    }


@pytest.mark.parametrize("kind", TYPES.values(), ids=list(TYPES))
def test_texts_of_a_type_have_one_form(kind: Any) -> None:
    assert re.fullmatch(r"/api/v1/problems/[a-z]+(-[a-z]+)*", kind.uri)
    assert re.fullmatch(r"[A-Z][^.]*", kind.title)
    assert re.fullmatch(r"[A-Z`].*\.", kind.advice)
    assert 400 <= kind.status < 600
