"""The training loop's arithmetic: a batch in parts is the batch."""

from __future__ import annotations

import pytest
import torch

from darla.config import OptimisationConfig, VisionConfig
from darla.vision.networks import DAE
from darla.vision.pretrain import seed_weights
from darla.vision.training import DAEObjective, Trainer

SIZE = 32


def trained(parts: int, batch: int = 10, **vision: object) -> tuple[torch.Tensor, float]:
    """Weights after five steps, and the loss of the last batch."""
    dae = DAE(SIZE, 8)
    seed_weights(dae, 0, 0)
    pictures = torch.randint(
        0, 256, (40, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    optimisation = OptimisationConfig(images=50, batch=batch)
    config = VisionConfig(precision="float32", parts=parts, **vision)
    trainer = Trainer(DAEObjective(dae), pictures, optimisation, config)
    figures = [trainer.step() for _ in range(5)]
    weights = torch.cat([parameter.detach().flatten() for parameter in dae.parameters()])
    return weights, figures[-1]["loss"].item()


@pytest.mark.parametrize(("parts", "batch"), [(2, 10), (3, 10), (20, 10)])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(parts: int, batch: int) -> None:
    whole, loss = trained(1, batch)
    weights, other = trained(parts, batch)
    assert other == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(weights, whole, atol=2e-5)


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        results.append(trained(4))
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]
