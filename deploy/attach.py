"""Runs one program tied to the life of its parent: drops to a user, asks the kernel for a signal at the
parent's death, then becomes the program. A script of its own: the standard library alone, no project import.

    python -I -S attach.py SIGNAL PARENT_PID UID:GID|- PROGRAM ARGUMENTS...

The order matters: a change of user clears the parent-death signal, so it is set after the drop. The kernel
ties the signal to the parent's thread, so the parent must spawn from a thread that lives as long as it does.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    death_signal, parent, owner, *argv = sys.argv[1:]
    if owner != "-":
        uid, gid = (int(part) for part in owner.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":  # elsewhere a leftover is ended at the next `up`
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):  # it died before the request above was made
        sys.exit(f"parent {parent} is gone")
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main()
