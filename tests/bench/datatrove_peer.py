"""`PYTHON tests/bench/datatrove_peer.py FOLDER OUT`: documents governed by datatrove, on a Python that has it.

A plain script, run by another interpreter: it knows nothing of this project. Repairs, masks, drops what is short, and
removes near duplicates by the Chinese tokenizer, which Chinese and English texts both go through.
"""

import sys

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

WORKERS = 2
CONFIG = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=9)


def long_enough(document):
    return len(document.text) >= 5


def main(folder: str, out: str) -> None:
    def stage(name, pipeline, tasks=WORKERS):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=WORKERS, logging_dir=f"{out}/logs/{name}").run()

    clean = [FTFYFormatter(), PIIFormatter(), LambdaFilter(long_enough)]
    stage("clean", [JsonlReader(folder), *clean, JsonlWriter(f"{out}/clean", compression=None)])
    signature = MinhashDedupSignature(f"{out}/signatures", config=CONFIG, language="cmn_Hani")
    stage("signatures", [JsonlReader(f"{out}/clean"), signature])
    buckets = MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=CONFIG)
    stage("buckets", [buckets], tasks=CONFIG.num_buckets)
    stage("cluster", [MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=CONFIG)], tasks=1)
    kept = [MinhashDedupFilter(f"{out}/remove"), JsonlWriter(f"{out}/kept", compression=None)]
    stage("kept", [JsonlReader(f"{out}/clean"), *kept])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
