"""What the `type` of a problem points to."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from services.api.problems import TYPES, ProblemError, documented

router = APIRouter(prefix="/problems", tags=["problems"])


@router.get(
    "/{name}",
    response_class=PlainTextResponse,
    responses=documented("not-found"),
    summary="Explain a kind of problem",
)
def explain_problem(name: str) -> str:
    """The page behind the `type` of a problem, as text."""
    kind = TYPES.get(name)
    if kind is None:
        known = ", ".join(TYPES)
        raise ProblemError("not-found", f"There is no problem {name!r}; there are {known}.")
    return f"{kind.title} ({kind.status})\n\n{kind.advice}\n"
