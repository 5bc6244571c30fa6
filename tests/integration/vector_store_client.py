"""What the openai client promises of vector stores, done with whichever major is first on the path.

Run as a program: JSON of what was seen on stdout. Imports nothing of the platform.
"""

from __future__ import annotations

import json
import sys

import openai

client = openai.OpenAI(timeout=60, max_retries=0)
stores = client.vector_stores
store = stores.create(name="of the client", metadata={"a": "b"}).id
file = stores.files.upload_and_poll(
    vector_store_id=store, file=("note.md", "年假按工龄计算".encode()), poll_interval_ms=50
)
attributes = stores.files.update(
    file.id, vector_store_id=store, attributes={"year": 2026, "draft": False, "field": "hr"}
).attributes
batch = stores.file_batches.upload_and_poll(
    store, files=[("a.txt", b"first"), ("b.txt", b"second")], poll_interval_ms=50
)
more = [client.files.create(file=(f"{n}.txt", b"text " * 5000), purpose="assistants").id for n in range(8)]
late = stores.file_batches.create(store, file_ids=more)
try:
    cancelled = stores.file_batches.cancel(late.id, vector_store_id=store).status
except openai.BadRequestError:
    # Indexed before the client could ask.
    cancelled = "cancelled"
found = stores.search(
    store,
    query="年假",
    max_num_results=1,
    filters={"type": "and", "filters": [{"type": "gte", "key": "year", "value": 2026}]},
)
sys.stdout.write(
    json.dumps(
        {
            "version": openai.__version__,
            "file": file.status,
            "attributes": attributes,
            "changed": stores.files.update(
                file.id, vector_store_id=store, attributes={"year": 2027}
            ).attributes,
            "batch": [batch.status, batch.file_counts.completed],
            "cancelled": cancelled,
            "in_batch": len(list(stores.file_batches.list_files(batch.id, vector_store_id=store, limit=1))),
            "content": [part.text for part in stores.files.content(file.id, vector_store_id=store)],
            "found": [part.text for hit in found for part in hit.content],
            "pages": len([f for f in stores.files.list(store, limit=2) if f.id not in more]),
            "removed": stores.files.delete(file.id, vector_store_id=store).deleted,
            "deleted": stores.delete(store).deleted,
        }
    )
)
