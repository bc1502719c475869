"""The training loop's arithmetic: a batch in parts is the batch."""

from __future__ import annotations

import pytest
import torch

from darla.config import OptimisationConfig, VAEConfig, VisionConfig
from darla.devices import can_compile
from darla.vision.networks import DAE, VAE
from darla.vision.pretrain import seed_weights
from darla.vision.training import DAEObjective, Trainer, make_objective
from tests.darla.vision.test_losses import generator, pictures

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


def one_channel_step(compilation: str) -> tuple[float, torch.Tensor]:
    """Loss of a batch of black and white pictures, and the weights after the step."""
    size = 64  # where compiled code read pictures of one channel through a transposition
    vae = VAE(size, 4, 16, network="burgess", channels=1, variance=False)
    seed_weights(vae, 0, 1, he=True)
    drawn = torch.rand(32, size, size, 1, generator=torch.Generator().manual_seed(0))
    config = VisionConfig.model_validate({"compile": compilation, "precision": "bfloat16"})
    settings = VAEConfig(reconstruction="bernoulli", latents=4, optimisation={"batch": 16})
    objective = make_objective(settings, vae, None, size**2)
    trainer = Trainer(objective, (drawn > 0.7).byte() * 255, settings.optimisation, config)
    loss = trainer.step()["loss"].item()
    return loss, torch.cat([parameter.detach().flatten() for parameter in vae.parameters()])


@pytest.mark.parametrize("layer", ["output", "bottleneck"])
def test_bfloat16_gives_the_loss_and_the_gradients_of_float32(layer: str) -> None:
    vae, dae, batch = VAE(64), DAE(64), pictures()
    for stream, model in enumerate((dae, vae)):
        seed_weights(model, 0, stream, he=True)
    config = VAEConfig(reconstruction="dae", layer=layer)
    objective = make_objective(config, vae, dae, 3 * 64**2)
    noise = objective.draw(len(batch), 64, generator(), 0.0)
    found = []
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss, _ = objective.loss(batch, *noise)
        gradients = torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)
        found.append((loss.item(), torch.cat([g.flatten() for g in gradients if g is not None])))
    (exact, gradient), (rounded, close) = found
    assert rounded == pytest.approx(exact, rel=0.02)
    assert torch.nn.functional.cosine_similarity(gradient, close, dim=0) > 0.99


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_a_compiled_step_is_the_step() -> None:
    (eager, weights), (compiled, others) = (one_channel_step(how) for how in ("off", "on"))
    assert compiled == pytest.approx(eager, rel=1e-4)
    assert torch.allclose(others, weights, atol=1e-4)


def test_gradients_are_clipped_over_the_whole_batch():
    dae = DAE(32, 8)
    seed_weights(dae, 0, 0)
    shown = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8, generator=generator())
    for limit in (1e-3, None):
        trainer = Trainer(
            DAEObjective(dae),
            shown,
            OptimisationConfig(images=50, batch=10, gradient_norm=limit),
            VisionConfig(precision="float32", parts=2),
        )
        trainer.step()
        norm = torch.cat([p.grad.flatten() for p in dae.parameters()]).norm().item()
        assert norm == pytest.approx(limit, rel=1e-3) if limit else norm > 1.0


@pytest.mark.parametrize(("decoder", "drawn"), [("mean", 1), ("sample", 2)])
def test_noise_of_the_picture_is_drawn_where_the_decoder_is_sampled(decoder, drawn):
    dae = DAE()
    seed_weights(dae, 0, 0, he=True)
    objective = make_objective(VAEConfig(decoder=decoder), VAE(), dae, 3 * 64 * 64)
    noise = objective.draw(3, 64, generator())
    assert len(noise) == drawn
    losses = [
        objective.loss(pictures(), noise[0], *([other] * (drawn - 1)))[1]["reconstruction"].item()
        for other in (torch.zeros(3, 3, 64, 64), torch.ones(3, 3, 64, 64))
    ]
    assert (losses[0] != losses[1]) == (decoder == "sample")


class CountingDAE(DAE):
    """Counts the pictures that its encoder reads."""

    read = 0

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """See `DAE`."""
        self.read += len(pictures)
        return super().encode(pictures)


def guided(images: int, layer: str = "output", steps: int = 5) -> tuple[int, torch.Tensor]:
    """What a guiding autoencoder reads in steps of 10 of 30 pictures, and the last gradient."""
    dae, vae = CountingDAE(SIZE, 8), VAE(SIZE, 4, 16)
    seed_weights(dae, 0, 0, he=True)
    seed_weights(vae, 0, 1, he=True)
    shown = torch.randint(0, 256, (30, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator())
    optimisation = OptimisationConfig(images=images, batch=10)
    objective = make_objective(VAEConfig(latents=4, layer=layer), vae, dae, 3 * SIZE**2)
    trainer = Trainer(objective, shown, optimisation, VisionConfig(precision="float32", parts=2))
    for _ in range(steps):
        trainer.step()
    return dae.read, torch.cat([parameter.grad.flatten() for parameter in vae.parameters()])


def test_pictures_that_are_learned_from_again_are_read_once() -> None:
    assert guided(60)[0] == 30 + 5 * 10  # and what the beta-VAE makes of them
    assert guided(59)[0] == 5 * 20


@pytest.mark.parametrize("layer", ["output", "bottleneck"])
def test_what_is_known_of_a_picture_changes_no_gradient(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, known = guided(60, layer, 1)
    monkeypatch.setattr(Trainer, "_codes", None)
    read, computed = guided(60, layer, 1)
    assert read == 20
    torch.testing.assert_close(known, computed, rtol=1e-4, atol=1e-4)
