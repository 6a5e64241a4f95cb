"""Small DEQs with nothing trivial about them: every parameter and every running statistic is random."""

import torch

from deqpipe.config import ModelConfig
from deqpipe.model.classifier import DEQClassifier, build_classifier

CHANNELS, WIDTHS = (4, 8, 12, 16), (3, 2, 5, 4)  # the second bottleneck has no shortcut convolution: 4 * 2 = 8
CLASSES = 5


def architecture(scales: int = 2, **changes: object) -> ModelConfig:
    """A small MDEQ."""
    settings = {
        "channels": CHANNELS[:scales],
        "head_channels": WIDTHS[:scales],
        "final_channels": 7,
        "groups": 4,
        "expansion": 2,
        "dropout": 0.25,
        "weight_norm": True,
        "init": "release",
    }
    return ModelConfig.model_validate(settings | changes)


def tiny_model(scales: int = 2, *, size: int = 8, seed: int = 0, **changes: object) -> DEQClassifier:
    """A small MDEQ in evaluation mode and float64."""
    model = build_classifier(
        architecture(scales, **changes), image_shape=(3, size, size), classes=CLASSES, seed=seed
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5)
        for name, parameter in model.named_parameters():
            if not name.endswith(".g"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return model.eval()


def images(number: int, *, size: int = 8, seed: int = 1) -> torch.Tensor:
    """Random images in [0, 1], some pixels black or white."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(number, 3, size, size, generator=generator, dtype=torch.float64)
    return (1.2 * x - 0.1).clamp(0, 1)


def states(model: DEQClassifier, number: int, *, seed: int = 2) -> torch.Tensor:
    """Random states."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, model.state_size, generator=generator, dtype=torch.float64)
