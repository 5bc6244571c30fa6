"""The optimizer of pretraining: orthogonal directions, and a state that can be put back."""

from __future__ import annotations

import io

import torch

from services.training.muon import MuonAdamW, orthogonalise


def test_singular_values_come_near_one_for_wide_and_tall() -> None:
    torch.manual_seed(0)
    for rows, columns in ((16, 48), (48, 16), (32, 32)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(3, rows, columns)))
        assert values.max() < 1.3
        assert values.median() > 0.6


def _model() -> torch.nn.Sequential:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))


def _train(model: torch.nn.Module, optimizer: MuonAdamW, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x[:, :4]).square().mean()
        loss.backward()
        optimizer.set_rate(0.02)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_it_learns_and_a_restored_state_continues_with_the_same_losses() -> None:
    model = _model()
    optimizer = MuonAdamW(model.named_parameters(), weight_decay=0.05)
    first = _train(model, optimizer, range(40))
    weights, state = {k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict()
    state = torch.load(_saved(state), weights_only=True)
    rest = _train(model, optimizer, range(40, 60))
    again = _model()
    again.load_state_dict(weights)
    resumed = MuonAdamW(again.named_parameters(), weight_decay=0.05)
    resumed.load_state_dict(state)
    assert _train(again, resumed, range(40, 60)) == rest
    assert rest[-1] < 0.5 * first[0]


def _saved(state: dict[str, object]) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer
