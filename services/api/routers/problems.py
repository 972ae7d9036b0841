"""GET /problems/{name}: the page that the `type` of a problem points to."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from services.api.problems import TYPES, ProblemError, describe_problems

router = APIRouter(prefix="/problems", tags=["problems"])


@router.get(
    "/{name}",
    response_class=PlainTextResponse,
    responses=describe_problems("not-found"),
    summary="Explain a type of problem",
)
def explain_problem(name: str) -> str:
    """The page that the `type` of a problem points to, as plain text."""
    kind = TYPES.get(name)
    if kind is None:
        known = ", ".join(TYPES)
        raise ProblemError("not-found", f"There is no problem {name!r}; the types are {known}.")
    return f"{kind.title} ({kind.status})\n\n{kind.advice}\n"
