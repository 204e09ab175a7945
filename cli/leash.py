"""`python leash.py PARENT COMMAND …`: become COMMAND, to be killed by the kernel when PARENT (a pid) ends.

A program of its own, since Python code between fork and exec can deadlock in a process that has threads.
It imports nothing of ours and starts in milliseconds. Outside Linux it only becomes COMMAND.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>; survives exec, and follows the parent's *thread* that started us


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            return  # it ended before we asked: nobody would end us
    os.execvp(command[0], command)  # noqa: S606 - that is what it is for


if __name__ == "__main__":
    main()
