"""How likely a model finds given answers, against transformers' own loss of each by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.unit.inference.tiny_models import save_model
from tests.unit.training.tiny_runs import run_here, spec, write

ROWS = [
    {"messages": [{"role": "user", "content": f"question {n} {'长 ' * n}"}], "reference": f"answer {n} 好"}
    for n in range(11)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def test_each_answer_has_the_loss_that_it_has_alone(model: Path, tmp_path: Path) -> None:
    data = {"validation": write(tmp_path / "rows.jsonl", ROWS)}
    count = {"count": len(ROWS)}
    result, _ = run_here(spec("likelihood", tmp_path, data, base_dir=str(model), hyperparameters=count))
    found = [json.loads(line) for line in (tmp_path / "out" / "likelihood.jsonl").read_text().splitlines()]
    assert (len(found), result.data) == (11, {"answers": 11})
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    for row, told in zip(ROWS, found, strict=True):
        prompt = tokenizer.apply_chat_template(
            row["messages"], tokenize=True, add_generation_prompt=True, return_dict=False
        )
        answer = [*tokenizer.encode(row["reference"], add_special_tokens=False), tokenizer.eos_token_id]
        ids = torch.tensor([prompt + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        loss = plain(input_ids=ids, labels=labels).loss.item() * len(answer)
        assert told["tokens"] == len(answer)
        assert told["loss"] == pytest.approx(loss, rel=1e-4)
