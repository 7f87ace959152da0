"""A PyTorch twin of SqueezeNet 1.1 up to `fire9` as a frozen extractor of the style loss; weights are drawn."""

import torch
from torch import Tensor, nn

# (inputs, squeeze, expand) of fire 2 to 9, from the published table; a pooling follows fires 3 and 5.
FIRES = (
    *((64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128)),
    *((256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)),
)
POOLED, FEATURES = (3, 5), (3, 5, 8, 9)


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(nn.Module):
    """The four maps of the style loss from standardised RGB."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, stride=2)
        self.fires = nn.ModuleList(Fire(*widths) for widths in FIRES)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.pool(torch.relu(self.stem(x))), []
        for number, fire in enumerate(self.fires, 2):
            x = fire(x)
            if number in FEATURES:
                maps.append(x)
            if number in POOLED:
                x = self.pool(x)
        return maps
