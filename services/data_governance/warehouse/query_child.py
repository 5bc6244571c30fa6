"""One query as a process: a frame with the question in, a frame with rows or an error out.

`python -m services.data_governance.warehouse.query_child`. It can write no file and use only so much memory; whoever
started it kills it when its time is up. It ends when stdin closes, whatever it is at.
"""

from __future__ import annotations

import os
import resource
import sys

from services.data_governance.warehouse.sandbox import open_sandbox, run
from shared.errors import HeliuError
from shared.frames import claim_stdout, end_with_worker, read_frames

# Addresses, not memory in use: DuckDB reserves more than it takes, and its own limit is the one that bites first.
ADDRESS_SPACE = 2 * 1024**3


def main() -> int:
    write = claim_stdout()
    asked = next(read_frames(sys.stdin.buffer), None)
    if asked is None:
        return 0
    end_with_worker()
    os.chdir(asked["folder"])
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        connection = open_sandbox(
            [(table["name"], table["files"]) for table in asked["tables"]], asked["memory_mb"]
        )
        write({"type": "result", **run(connection, asked["sql"], asked["max_rows"], asked["max_bytes"])})
    except HeliuError as exc:
        write({"type": "error", "code": exc.code, "message": exc.message, "param": exc.param})
    except MemoryError:
        message = "a value of the result does not fit into memory; cut it with substr() or aggregate"
        write({"type": "error", "code": "query_too_large", "message": message, "param": "sql"})
    except Exception as exc:  # noqa: BLE001 - whatever a hostile query makes the library raise is the query's fault
        sys.excepthook(type(exc), exc, exc.__traceback__)
        message = f"the query cannot be run: {type(exc).__name__}"
        write({"type": "error", "code": "invalid_sql", "message": message, "param": "sql"})
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # A plain exit waits for DuckDB's threads and for the one that reads stdin. All frames are flushed.
    os._exit(code)
