"""A PyTorch twin of one whole training step of UP-CrackNet, for the presets `default` and `authors`.

Written from UPCRACKNET.md sections 4 to 6b. Style loss left out, dropout off; the style term is held by tests of
its own. Images are (b, h, w, 3) NumPy arrays in [0, 1], RGB, as our methods take them.
"""

import numpy as np
import torch
from torch import Tensor, nn

from tests.reference import losses_torch as losses
from tests.reference.upcracknet_torch import Discriminator, Generator


class TrainingStep:
    """Both networks, both Adams (0.5, 0.999), and the order of things.

    Args:
      authors: the authors' preset: BGR, the generator run again after the discriminator's update, SSIM with L = 1 and
        zero padding 5, MSGMS with a median and without padding. Otherwise the default preset.
      discriminator_weight: factor on the discriminator's loss (0.5 in the authors' code).
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        authors: bool,
        rate: float,
        discriminator_rate: float,
        discriminator_weight: float,
    ):
        self.generator, self.discriminator, self.authors = generator, discriminator, authors
        self.discriminator_weight = discriminator_weight
        self.g_adam = torch.optim.Adam(generator.parameters(), rate, betas=(0.5, 0.999))
        self.d_adam = torch.optim.Adam(discriminator.parameters(), discriminator_rate, betas=(0.5, 0.999))

    def __call__(self, image: np.ndarray, corrupted: np.ndarray) -> dict[str, float]:
        """Updates both networks; returns the loss terms before weighting, and both sums."""
        real, broken = self._tensor(image), self._tensor(corrupted)
        fake = self.generator(broken)

        self.d_adam.zero_grad()
        d_loss = losses.discriminator_loss(
            self.discriminator(broken, real), self.discriminator(broken, fake.detach())
        )
        (self.discriminator_weight * d_loss).backward()
        self.d_adam.step()

        if self.authors:
            fake = self.generator(broken)
        self.g_adam.zero_grad()
        terms = self._restoration_terms(fake, real)
        with _frozen_averages(self.discriminator):
            terms["adversarial"] = losses.generator_loss(self.discriminator(broken, fake), "non_saturating")
        loss = 100 * (terms["mae"] + terms["ssim"] + terms["msgms"]) + terms["adversarial"]
        loss.backward()
        self.g_adam.step()
        found = {"loss": loss, "discriminator_loss": d_loss, **terms}
        return {name: float(value.detach()) for name, value in found.items()}

    def _restoration_terms(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        if self.authors:
            similarity = losses.ssim(fake, real, data_range=1.0, padding=5)
            msgms = losses.msgms_loss(fake, real, median=True, padding=0)
        else:
            similarity = losses.ssim(fake, real, data_range=2.0, padding=0)
            msgms = losses.msgms_loss(fake, real)
        return {"mae": losses.mae(fake, real), "ssim": 1 - similarity, "msgms": msgms}

    def _tensor(self, images: np.ndarray) -> Tensor:
        """(b, h, w, RGB) in [0, 1] -> (b, channels, h, w) in [-1, 1]; the authors' channels are BGR."""
        channels = images[..., ::-1] if self.authors else images
        return torch.from_numpy(np.ascontiguousarray(channels.transpose(0, 3, 1, 2))) * 2 - 1


class _frozen_averages:
    """Batch norms take the batch's statistics and leave their running averages alone.

    The authors' code lets this pass into the averages too. Nothing reads them: the discriminator is never used in
    evaluation mode, so a generator's step leaves the discriminator as it is (DESIGN: one D and one G step).
    """

    def __init__(self, network: nn.Module):
        self.norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]

    def __enter__(self) -> None:
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm in self.norms:
            norm.momentum = 0.1
