"""Training steps of the vision, beside pythae."""

from __future__ import annotations

import functools
import tempfile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.contenders import SIZE, Measure, rate
from darla.config import OptimisationConfig, VAEConfig, VisionConfig

if TYPE_CHECKING:
    import torch

    from darla.vision.networks import VAE
    from darla.vision.training import Trainer

Precision = Literal["auto", "float32", "bfloat16"]

BATCH = 100
PICTURES = 2_000
ELBO_STEPS = 40


def _pictures() -> torch.Tensor:
    """Coloured blocks, uint8 [PICTURES, SIZE, SIZE, 3]: speed does not depend on what they show."""
    import torch

    blocks = np.random.default_rng(0).integers(0, 256, (PICTURES, 8, 8, 3), np.uint8)
    return torch.from_numpy(blocks.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2))


def _vae(seed: int = 0) -> VAE:
    import torch

    from darla.vision.networks import VAE

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VAE(SIZE)


def _trainer(reconstruction: str, precision: Precision) -> Trainer:
    import torch

    from darla.vision.losses import DAEReconstruction, PixelReconstruction
    from darla.vision.networks import DAE
    from darla.vision.training import Trainer, VAEObjective

    term = PixelReconstruction() if reconstruction == "pixel" else DAEReconstruction(DAE(SIZE))
    defaults = VAEConfig()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return Trainer(
        VAEObjective(_vae(), term, defaults.beta, defaults.decoder),
        _pictures(),
        OptimisationConfig(images=10**9, batch=BATCH, learning_rate=1e-4),
        VisionConfig(precision=precision, parts=threads),
    )


def vae_images(reconstruction: str = "pixel", precision: Precision = "float32") -> Measure:
    """Images through training steps of our beta-VAE, exactly as `darla pretrain` takes them.

    Args:
        reconstruction: 'pixel' or 'dae'.
        precision: 'float32', 'bfloat16' or 'auto'.
    """
    trainer = _trainer(reconstruction, precision)

    def work() -> int:
        trainer.step()
        return BATCH

    for _ in range(3):
        work()
    return functools.partial(rate, work)


def _pythae_model() -> Any:
    from pythae.models import BetaVAE, BetaVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    vae = _vae()

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, pictures: torch.Tensor) -> ModelOutput:
            mean, log_variance = self.vae.encode(pictures)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, latents: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.vae.decode(latents)[0])

    config = BetaVAEConfig(
        input_dim=(3, SIZE, SIZE),
        latent_dim=vae.posterior.out_features // 2,
        reconstruction_loss="mse",
        beta=VAEConfig().beta,
    )
    return BetaVAE(config, encoder=Encoder(), decoder=Decoder())


def pythae_trainer_images() -> Measure:
    """Images through pythae's own trainer and loader, with our networks: what its user gets."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    pictures = (_pictures()[: 5 * BATCH].permute(0, 3, 1, 2).float() / 255.0).contiguous()
    trainer = BaseTrainer(
        _pythae_model(),
        BaseDataset(pictures, torch.zeros(len(pictures))),
        training_config=BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            no_cuda=True,
        ),
    )
    trainer.prepare_training()

    def work() -> int:
        trainer.train_step(epoch=1)
        return len(pictures)

    work()
    return functools.partial(rate, work)


def pythae_step_images() -> Measure:
    """Images through pythae's model alone: batches ready in memory, no loader, no trainer."""
    import torch

    pictures = (_pictures()[:BATCH].permute(0, 3, 1, 2).float() / 255.0).contiguous()
    model = _pythae_model().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-4)

    def work() -> int:
        optimiser.zero_grad()
        model({"data": pictures}).loss.backward()
        optimiser.step()
        return BATCH

    for _ in range(3):
        work()
    return functools.partial(rate, work)


def elbo_agreement() -> tuple[list[float], list[float]]:
    """Trains our beta-VAE and pythae's from equal weights on equal batches and equal noise.

    Returns:
        Losses per image of ours and of pythae's, in nats up to a constant, before each step.
    """
    import torch

    from darla.vision.evaluation import to_float
    from darla.vision.losses import PixelReconstruction
    from darla.vision.training import VAEObjective, make_optimiser

    pictures = _pictures()
    ours, theirs = VAEObjective(_vae(), PixelReconstruction(), VAEConfig().beta), _pythae_model()
    optimisation = OptimisationConfig(images=1, batch=BATCH, learning_rate=1e-4)
    our_optimiser = make_optimiser(ours.model, optimisation)
    their_optimiser = torch.optim.Adam(theirs.parameters(), optimisation.learning_rate)
    losses: tuple[list[float], list[float]] = ([], [])
    for step in range(ELBO_STEPS):
        start = step * BATCH % PICTURES
        batch = to_float(pictures[start : start + BATCH])
        noise = ours.draw(BATCH, SIZE, torch.Generator().manual_seed(step))
        our_loss, _ = ours.loss(batch, *noise)
        torch.manual_seed(step)  # pythae draws from the global generator
        their_loss = theirs({"data": batch}).loss
        for loss, optimiser in ((our_loss, our_optimiser), (their_loss, their_optimiser)):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses[0].append(our_loss.item())
        losses[1].append(their_loss.item())
    return losses
