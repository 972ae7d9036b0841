"""Who runs in which slot: first come, first served, and any step can begin or end a sequence.

No torch, no threads: whoever calls it holds the lock.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from services.generation.musicgen.loop.sequence import State

if TYPE_CHECKING:
    from services.generation.musicgen.loop.sequence import Sequence


class Scheduler:
    """Sequences that wait, and those in the slots."""

    def __init__(self, slots: int) -> None:
        self.waiting: deque[Sequence] = deque()
        self._slots: list[Sequence | None] = [None] * slots

    @property
    def running(self) -> list[Sequence]:
        """Those in slots, by slot."""
        return [sequence for sequence in self._slots if sequence is not None]

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    def submit(self, sequence: Sequence) -> None:
        """Put a sequence behind those that wait."""
        self.waiting.append(sequence)

    def fill(self) -> None:
        """Give the free slots to those who have waited longest."""
        for slot, occupant in enumerate(self._slots):
            if occupant is None and self.waiting:
                sequence = self.waiting.popleft()
                sequence.slot, sequence.state = slot, State.RUNNING
                self._slots[slot] = sequence

    def end(self, sequence: Sequence, state: State) -> None:
        """Take a sequence out, wherever it is; its slot is free at once."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self._slots[sequence.slot] = None
        sequence.slot, sequence.state = None, state

    def steps_until_end(self, sequence: Sequence) -> int:
        """Steps of the decoder until the sequence is finished, if nobody leaves before his end."""
        ends = [0 if occupant is None else occupant.steps_left for occupant in self._slots]
        if sequence.slot is not None:
            return ends[sequence.slot]
        heapq.heapify(ends)
        for other in self.waiting:
            end = heapq.heappop(ends) + other.steps_left
            if other is sequence:
                return end
            heapq.heappush(ends, end)
        raise ValueError("The sequence neither waits nor runs.")
