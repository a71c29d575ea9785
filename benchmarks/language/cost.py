"""Run a command and print what it took, as JSON: `cost.py COMMAND...`.

A small process in between: the peak memory of a process counts what its parent held when it was started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys


def main() -> None:
    """Processor seconds, and peak resident memory in 10^6 bytes; what the command says goes to standard error."""
    process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    print(json.dumps({"cpu s": usage.ru_utime + usage.ru_stime, "peak MB": usage.ru_maxrss * 1024 / 1e6}))
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
