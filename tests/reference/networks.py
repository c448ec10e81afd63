"""Networks as users train them: units that never fire, pixels that are always 0, gradients of all sizes, BatchNorm."""

import torch
from sklearn.datasets import load_digits
from torch import nn

NUM_EXAMPLES = 300


def digits():
    """(n, 64) images in [0, 1], of which some pixels are always 0, and (n,) labels."""
    found = load_digits()
    images = torch.tensor(found.data[:NUM_EXAMPLES] / 16, dtype=torch.float32)
    return images, torch.tensor(found.target[:NUM_EXAMPLES])


def mlp():
    """An MLP whose biases start at 0 and two of whose units are dead."""
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    for layer in (model[0], model[2]):
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        model[0].bias[:2] = -100
    return model


class Scaled(nn.Module):
    """An MLP behind pixels whose sizes span eight decades, and so its gradients."""

    def __init__(self):
        nn.Module.__init__(self)
        self.model = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))

    def forward(self, images):
        return self.model(images * torch.logspace(0, -8, 64))


def cnn():
    """A small convolutional network with BatchNorm."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


NETWORKS = {"mlp": mlp, "scaled": Scaled, "cnn": cnn}


def trained(name, make, num_steps):
    """An optimizer after full-batch steps on a network, and the parameters it moves."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    images, labels = digits()
    optimizer = make(list(model.parameters()))
    for _ in range(num_steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return optimizer, list(model.parameters())
