"""The caller of a request: its key, and which jobs that key can see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The client that sent a request."""

    owner: str | None
    """Id of its key, recorded on its jobs; None for the operator and on a server without keys."""
    sees_all: bool
    """True for the operator's key, and for every caller of a server without keys."""
    name: str
    """Name its rate and its turn in the queue are counted under: the key's id, else the address."""
    is_exempt: bool = False
    """Whether the rate limit does not apply: loopback."""

    @property
    def is_unknown(self) -> bool:
        """Whether no key was checked: on an open path, or without the database."""
        return self.owner is None and not self.sees_all

    def can_see(self, owner: str | None) -> bool:
        return self.sees_all or (self.owner is not None and self.owner == owner)

    @property
    def owner_filter(self) -> str | None:
        """The owner whose jobs a list is limited to; None for all jobs."""
        return None if self.sees_all else self.owner
