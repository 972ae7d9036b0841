"""Who calls: the key that came with a request, and what it may see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The client behind a request."""

    owner: str | None
    """Noted on what it makes: the id of its key; None for the operator, and on an open server."""
    sees_all: bool
    """Whether it sees what others made: the operator's key, and a server that needs no key."""
    name: str
    """Whose share of the workers and of the rate it uses: the key's id, else the address."""
    is_exempt: bool = False
    """Whether the rate limit leaves it alone: loopback."""

    def may_see(self, owner: str | None) -> bool:
        """Whether it may see a generation of that owner."""
        return self.sees_all or (self.owner is not None and self.owner == owner)

    @property
    def only_owner(self) -> str | None:
        """What to narrow a list to; None for all."""
        return None if self.sees_all else self.owner
