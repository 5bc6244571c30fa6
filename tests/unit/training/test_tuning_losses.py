"""Losses over learned positions: as transformers and their papers have them, in any number of parts."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from services.training.tuning import losses
from services.training.tuning.losses import Loss, chunked


def _case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(70, 8, requires_grad=True), torch.randn(50, 8), torch.randint(0, 50, (70,))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("loss", [Loss("cross_entropy"), Loss("label_smoothing", 0.2), Loss("dft")])
def test_parts_sum_to_the_loss_of_the_whole_table(
    loss: Loss, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_MOST_ROWS", 16)
    if again:
        monkeypatch.setattr(losses, "_KEPT_BYTES", 0)
    hidden, weight, targets = _case()
    total, right = chunked(hidden, weight, None, targets, loss)
    logits = hidden @ weight.t()
    log_p = logits.log_softmax(-1)
    own = log_p.gather(1, targets[:, None])[:, 0]
    expected = {
        "cross_entropy": -own.sum(),
        "label_smoothing": -(0.8 * own + 0.2 * log_p.mean(-1)).sum(),
        "dft": -(own.exp().detach() * own).sum(),
    }[loss.name]
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert right == (logits.argmax(-1) == targets).sum()
    (got,) = torch.autograd.grad(total, hidden)
    (wanted,) = torch.autograd.grad(expected, hidden)
    assert torch.allclose(got, wanted, atol=1e-5)


def test_nothing_learned_is_a_zero_that_can_be_sent_back() -> None:
    hidden, weight, targets = _case()
    total, right = chunked(hidden[:0], weight, None, targets[:0], Loss("cross_entropy"))
    total.backward()
    assert (total.item(), right.item()) == (0.0, 0)
    assert hidden.grad is not None


def test_a_model_gives_the_loss_that_transformers_gives() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, intermediate_size=32, **shape))
    ids = torch.randint(0, 50, (2, 9))
    labels = ids.clone()
    labels[0, :5], labels[1, 6:] = -100, -100
    expected = model(input_ids=ids, labels=labels)
    losses.install(model)
    total, right, count = model(input_ids=ids, learned=labels, loss=Loss("cross_entropy"))
    assert count == 4 + 5
    assert (total / count).item() == pytest.approx(expected.loss.item(), rel=1e-5)
    guessed = expected.logits[:, :-1].argmax(-1) == labels[:, 1:]
    assert right == guessed.sum()
    assert torch.equal(model(input_ids=ids).logits, expected.logits)
    assert losses.takes(model)
    model.config.final_logit_softcapping = 30.0
    assert not losses.takes(model)
