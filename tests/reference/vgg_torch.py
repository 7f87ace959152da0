"""A PyTorch twin of torchvision's `vgg19`, its tensor names included; weights are drawn, not pretrained."""

from torch import Tensor, nn

# torchvision's configuration E up to its last ReLU (images of 16 pixels leave nothing for the pooling after
# it): a number is a convolution of that width with its ReLU, "M" a pooling.
CONFIGURATION = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M"),
    *(512, 512, 512, 512, "M", 512, 512, 512, 512),
)


class VGG19(nn.Module):
    """The convolutions of `torchvision.models.vgg19`, as the sequence `features`."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        self.outputs: dict[str, int] = {}  # place in the sequence of every ReLU, by its name in the paper
        inputs, block, number = 3, 1, 0
        for entry in CONFIGURATION:
            if entry == "M":
                layers.append(nn.MaxPool2d(2, 2))
                block, number = block + 1, 0
                continue
            convolution = nn.Conv2d(inputs, entry, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.uniform_(convolution.bias, -0.1, 0.1)
            layers += [convolution, nn.ReLU()]
            inputs, number = entry, number + 1
            self.outputs[f"relu{block}_{number}"] = len(layers) - 1
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Every ReLU's output by name."""
        names = {place: name for name, place in self.outputs.items()}
        activations = {}
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in names:
                activations[names[place]] = x
        return activations
