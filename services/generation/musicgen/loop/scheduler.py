"""Slots for sequences: first come, first served; a sequence may start or end at any step.

No torch and no threads: the caller holds the lock.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from services.generation.musicgen.loop.sequence import State

if TYPE_CHECKING:
    from services.generation.musicgen.loop.sequence import Sequence


class Scheduler:
    """A queue of waiting sequences, and the slots of the running ones."""

    def __init__(self, slots: int) -> None:
        self.waiting: deque[Sequence] = deque()
        self._slots: list[Sequence | None] = [None] * slots

    @property
    def running(self) -> list[Sequence]:
        """The sequences in slots, by slot."""
        return [sequence for sequence in self._slots if sequence is not None]

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def fill_slots(self) -> None:
        """Give free slots to the sequences that have waited longest."""
        for slot, occupant in enumerate(self._slots):
            if occupant is None and self.waiting:
                sequence = self.waiting.popleft()
                sequence.slot, sequence.state = slot, State.RUNNING
                self._slots[slot] = sequence

    def end(self, sequence: Sequence, state: State) -> None:
        """Remove a waiting or running sequence and set its final state."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self._slots[sequence.slot] = None
        sequence.slot, sequence.state = None, state

    def steps_until_end(self, sequence: Sequence) -> int:
        """Return the decoder steps until a sequence is finished, if none is cancelled before.

        Raises:
            ValueError: the sequence is neither waiting nor running.
        """
        ends = [0 if occupant is None else occupant.steps_left for occupant in self._slots]
        if sequence.slot is not None:
            return ends[sequence.slot]
        heapq.heapify(ends)
        for other in self.waiting:
            end = heapq.heappop(ends) + other.steps_left
            if other is sequence:
                return end
            heapq.heappush(ends, end)
        raise ValueError("The sequence is neither waiting nor running.")
