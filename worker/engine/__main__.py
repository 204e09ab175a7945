"""`python -m worker.engine`: commands as JSON lines on stdin, reports as JSON lines on the descriptor that was
stdout. Whatever a library prints goes to stderr, the job's log. The program ends when stdin closes.
"""

from __future__ import annotations

import os
import sys

# Before anything heavy is imported, since libraries print while they are: the protocol keeps a descriptor of its
# own, and descriptor 1 becomes the log.
_PROTOCOL = os.dup(1)
os.dup2(2, 1)

import argparse  # noqa: E402
import threading  # noqa: E402
from pathlib import Path  # noqa: E402

from worker.engine.commands import Commands, Reports  # noqa: E402


def see_own_gpu() -> int:
    """This process's rank among those that torchrun started; 0 without it.

    Of the GPUs given it is let see one, so that "cuda" is another in each process: before torch looks at them.
    """
    if "LOCAL_RANK" in os.environ:
        number = int(os.environ["LOCAL_RANK"])
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = given.split(",")[number] if given else str(number)
    return int(os.environ.get("RANK", "0"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="worker.engine", description="Train and prove adapters.")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as many as this process may use")
    parser.add_argument("--device", default="auto", help="the device to report: auto, cpu, cuda, cuda:1")
    parser.add_argument("--cache", type=Path, help="folder for what the next start need not make again")
    arguments = parser.parse_args()
    commands = Commands(sys.stdin.buffer)
    # From here on a closed stdin ends the program, even while libraries are being imported
    watch = commands.watch if see_own_gpu() == 0 else commands.watch_for_the_end
    threading.Thread(target=watch, name="commands", daemon=True).start()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # bitsandbytes asks a hub at import

    from worker.engine.work import work

    threads = arguments.threads or os.cpu_count() or 1
    status = work(commands, Reports(_PROTOCOL), threads, arguments.device, arguments.cache)
    sys.stderr.flush()
    os._exit(status)  # the watcher blocks in a read that an orderly end would wait for


main()
