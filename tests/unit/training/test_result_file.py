"""The table of a run's steps: OpenAI's columns, and behind them what else a way of training tells."""

from __future__ import annotations

import io

from services.training.tracking.event_files import tag_of
from services.training.tracking.result_file import ResultTable, extra_columns


def test_fine_tuning_has_openai_s_columns_and_no_other() -> None:
    told = [
        "train_loss",
        "train_mean_token_accuracy",
        "valid_loss",
        "full_valid_loss",
        "epoch",
        "learning_rate",
    ]
    assert extra_columns(told) == []


def test_other_ways_have_their_own_figures_behind_them() -> None:
    target = io.StringIO()
    extra = extra_columns(["train_loss", "valid_macro_f1", "valid_accuracy", "texts_per_second"])
    table = ResultTable(target, extra)
    table.add(1, {"train_loss": 2.0})
    table.add(2, {"train_loss": 1.0, "train_accuracy": 0.5, "valid_accuracy": 0.25, "valid_macro_f1": 0.125})
    assert target.getvalue().splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,valid_accuracy,valid_macro_f1",
        "1,2.0,,,,,",
        "2,1.0,0.5,,,0.25,0.125",
    ]


def test_tensorboard_groups_what_belongs_together() -> None:
    assert tag_of("train_loss") == "train/loss"
    assert tag_of("full_valid_loss") == "full_valid/loss"
    assert tag_of("learning_rate") == "learning_rate"
