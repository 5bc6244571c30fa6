"""`python -m tests.bench.trl_script MODEL ROWS OUT STEPS BATCH RANK`: what somebody would write with TRL by hand.

TRL's and PEFT's own defaults but for what the job is asked for too, and what keeps it on this machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer


def main() -> int:
    model, rows, out = sys.argv[1:4]
    steps, batch, rank = map(int, sys.argv[4:7])
    conversations = [
        json.loads(line)["messages"] for line in Path(rows).read_text(encoding="utf-8").splitlines()
    ]
    data = Dataset.from_list([{"prompt": turns[:-1], "completion": turns[-1:]} for turns in conversations])
    settings = SFTConfig(
        output_dir=out,
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(model=model, args=settings, train_dataset=data, peft_config=adapter)
    trainer.train()
    trainer.save_model(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
