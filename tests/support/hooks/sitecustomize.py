"""Lets a test count the users' keys that a process has in memory, by sending it SIGUSR1.

Imported by each Python that starts with this folder in PYTHONPATH. The count goes to a file in the
folder that USERLOG_TEST_COUNTS names, under the number of the process.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any


def _count(_number: int, _frame: Any) -> None:
    gc.unfreeze()  # a service hides from the collector what it has made at its start
    keyrings = [one for one in gc.get_objects() if type(one).__name__ == "Keyring"]
    count = sum(
        sum(not key.erased for key in one._recent.values())
        + sum(len(bucket) for bucket in one._compact._buckets if bucket)
        + one.ciphers.count
        + (one._last is not None)
        for one in keyrings
    )
    path = Path(os.environ["USERLOG_TEST_COUNTS"]) / str(os.getpid())
    path.with_suffix(".new").write_text(f"{len(keyrings)} {count}")
    path.with_suffix(".new").replace(path)


if "USERLOG_TEST_COUNTS" in os.environ:
    signal.signal(signal.SIGUSR1, _count)
