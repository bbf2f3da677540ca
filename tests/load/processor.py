"""What a service and its PostgreSQL use of the processor and of memory, from /proc."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)


class Usage:
    """Looks at a service's processes, and at those of its PostgreSQL."""

    def __init__(self, service: int, postmaster: int) -> None:
        self._service, self._postmaster = service, postmaster

    def processor_s(self) -> float:
        """Seconds of the processor until now, of processes that have ended too."""
        processes = _family(self._service) | _family(self._postmaster)
        return sum(map(_processor_s, processes))

    def postgres_s(self) -> float:
        """The part of it that PostgreSQL has used."""
        return sum(map(_processor_s, _family(self._postmaster)))

    def memory_mb(self) -> float:
        """The memory that the service has now."""
        return self._memory("VmRSS")

    def peak_mb(self) -> float:
        """The most that it had since `forget_peak`."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        for pid in self._own():
            with contextlib.suppress(*_GONE):
                Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")

    def _own(self) -> set[int]:
        return _family(self._service) - _family(self._postmaster)

    def _memory(self, which: str) -> float:
        found = 0
        for pid in self._own():
            with contextlib.suppress(*_GONE):
                about = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
                found += int(about.partition(f"{which}:")[2].split()[0])
        return found / 1024


def _family(pid: int) -> set[int]:
    """Return a process and all that descend from it."""
    found, new = {pid}, [pid]
    while new:
        for task in Path(f"/proc/{new.pop()}/task").glob("*/children"):
            with contextlib.suppress(*_GONE):
                children = set(map(int, task.read_text(encoding="ascii").split())) - found
                found |= children
                new += children
    return found


def _processor_s(pid: int) -> float:
    with contextlib.suppress(*_GONE):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICKS_A_SECOND
    return 0.0
