"""An attack of one's own: PGD with the margin loss, through the decision itself."""

from typing import Any

from deqpipe.extending import Attack

STEPS = 3


def craft(target: Any, x: Any, y: Any) -> Any:
    """Steps of a quarter of the radius against the margin of the true class."""
    import torch

    adversarial = target.start(x)
    for _ in range(STEPS):
        adversarial = adversarial.detach().requires_grad_()
        logits = target.logits(adversarial)
        others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        margin = others - logits.gather(1, y[:, None]).squeeze(1)
        (gradient,) = torch.autograd.grad(margin.sum(), adversarial)
        adversarial = target.ball.project(adversarial.detach() + target.ball.epsilon / 4 * gradient.sign(), x)
    return adversarial


MARGIN = Attack("pgd_margin", "PGD, margin", craft=craft, gradients=STEPS)
