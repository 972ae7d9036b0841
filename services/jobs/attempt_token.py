"""Attempt tokens: the row of a job holds the token of the attempt that may publish it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.machine.process_identity import ProcessIdentity

if TYPE_CHECKING:
    from services.jobs.dispatch import Dispatch


@dataclass(frozen=True, slots=True)
class AttemptToken:
    """The unique id of an attempt.

    As text it is `<owner>/<nonce>`. The owner is `<dispatch>/<worker id>` for an attempt of a
    worker, and the identity of the process for a job that a caller runs itself.
    """

    owner: str
    nonce: str
    """Letters and digits, unique; it names the attempt's files."""

    @classmethod
    def for_dispatch(cls, dispatch: Dispatch, worker_id: str) -> AttemptToken:
        return cls(f"{dispatch.workflow_id}/{worker_id}", uuid.uuid4().hex)

    @classmethod
    def for_this_process(cls) -> AttemptToken:
        return cls(str(ProcessIdentity.current()), uuid.uuid4().hex)

    @classmethod
    def parse(cls, text: str) -> AttemptToken:
        owner, _, nonce = text.rpartition("/")
        return cls(owner, nonce)

    def __str__(self) -> str:
        return f"{self.owner}/{self.nonce}"

    def belongs_to(self, dispatch: Dispatch) -> bool:
        return self.owner.startswith(f"{dispatch.workflow_id}/")

    @property
    def process(self) -> ProcessIdentity | None:
        """The process that runs the job for its caller; None for an attempt of a worker."""
        return ProcessIdentity.parse(self.owner)
