"""Residual networks as one function of their named weights: what residual.py's modules must compute."""

from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, linear, max_pool2d


class Weights:
    """Hands out a model's tensors in the order their layers were made, each kind by its shape's meaning."""

    def __init__(self, model):
        self.state = model.state_dict()

    def __getitem__(self, name):
        return self.state[name]

    def norm(self, x, name):
        """Batch statistics, as in training mode."""
        if f"{name}.weight" not in self.state:
            return x
        return batch_norm(x, None, None, self[f"{name}.weight"], self[f"{name}.bias"], training=True)


def wide_residual(model, channels, blocks, x):
    """Zagoruyko and Komodakis' pre-activation blocks; without BatchNorm each branch times its multiplier."""
    get = Weights(model)
    x = conv2d(x, get["0.weight"], padding=1)
    width, number = get["0.weight"].shape[0], 1
    is_normalised = "1.activated.0.weight" in get.state
    for group, num_filters in enumerate(channels):
        for block in range(blocks):
            stride = 2 if group and not block else 1
            name, second = f"{number}", 3 if is_normalised else 2
            y = get.norm(x, f"{name}.activated.0").clamp(min=0)
            if stride == 2 or width != num_filters:
                x = conv2d(y, get[f"{name}.shortcut.weight"], stride=stride)
            y = conv2d(y, get[f"{name}.branch.0.weight"], stride=stride, padding=1)
            y = get.norm(y, f"{name}.branch.1").clamp(min=0)
            y = conv2d(y, get[f"{name}.branch.{second}.weight"], padding=1)
            x = x + (y if is_normalised else y * get[f"{name}.multiplier"])
            width, number = num_filters, number + 1
    last = max(int(name.split(".")[0]) for name in get.state)
    pooled = get.norm(x, f"{number}").clamp(min=0).mean((2, 3))
    return linear(pooled, get[f"{last}.weight"], get[f"{last}.bias"])


def bottleneck_residual(model, blocks, x):
    """He et al.'s ResNet with the stride on the 3x3 convolution."""
    get = Weights(model)
    x = get.norm(conv2d(x, get["0.weight"], stride=2, padding=3), "1").clamp(min=0)
    x, number = max_pool2d(x, 3, 2, padding=1), 4
    for group, count in enumerate(blocks):
        for block in range(count):
            stride, name = 2 if group and not block else 1, f"{number}"
            y = get.norm(conv2d(x, get[f"{name}.branch.0.weight"]), f"{name}.branch.1").clamp(min=0)
            y = conv2d(y, get[f"{name}.branch.3.weight"], stride=stride, padding=1)
            y = get.norm(y, f"{name}.branch.4").clamp(min=0)
            y = get.norm(conv2d(y, get[f"{name}.branch.6.weight"]), f"{name}.branch.7")
            if not block:
                x = get.norm(conv2d(x, get[f"{name}.shortcut.0.weight"], stride=stride), f"{name}.shortcut.1")
            x, number = (x + y).clamp(min=0), number + 1
    last = max(int(name.split(".")[0]) for name in get.state)
    return linear(adaptive_avg_pool2d(x, 1).flatten(1), get[f"{last}.weight"], get[f"{last}.bias"])
