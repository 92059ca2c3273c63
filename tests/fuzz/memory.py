"""How much memory a fuzzing program may take."""

from __future__ import annotations

import resource


def limit() -> str:
    """LibFuzzer's option for 512 MiB.

    What it looks at is the peak that getrusage(2) tells, which a program inherits from the one that starts it.
    """
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return f"-rss_limit_mb={inherited + 512}"
