"""A child for test_child.py that obeys frames: says back, prints noise, dies as told."""

from __future__ import annotations

import os
import signal
import sys

from shared.frames import claim_stdout, read_frames


def main() -> int:
    write = claim_stdout()
    print("noise of a library")
    write({"type": "environment", "keys": sorted(k for k in os.environ if k.startswith("HELIU_"))})
    for frame in read_frames(sys.stdin.buffer):
        if frame["op"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if frame["op"] == "exit":
            return int(frame["code"])
        if frame["op"] == "nonsense":
            os.write(write._stream.fileno(), b"\xff\xff\xff\xff")
        if frame["op"] == "deaf":
            signal.pause()
        write({"type": "said", "frame": frame})
    return 0


if __name__ == "__main__":
    sys.exit(main())
