"""Runs with a name: `tightrope run NAME`."""

from __future__ import annotations

from typing import Any

from tightrope.errors import ConfigError, did_you_mean

_DIGITS: dict[str, Any] = {"problem": {"name": "digits"}, "num_steps": 400, "measure": {"every": 20}}
_CHEBYSHEV: dict[str, Any] = {
    "problem": {"name": "chebyshev"},
    "num_steps": 8000,
    "dtype": "float64",
    "measure": {"every": 100},
}
_CIFAR: dict[str, Any] = {"problem": {"name": "cifar10", "num_examples": 1000}, "measure": {"every": 50}}
_ADAM: dict[str, Any] = {"name": "adam", "eps": 1e-7, "bias_correction": False}

PRESETS: dict[str, dict[str, Any]] = {
    "demo": {"problem": {"name": "digits"}, "num_steps": 1200, "method": {**_ADAM, "lr": 2e-4, "beta2": 0.99}},
    "digits-gd": {**_DIGITS, "method": {"name": "gd", "lr": 0.03}},
    "digits-heavyball": {**_DIGITS, "method": {"name": "heavyball", "lr": 0.05, "beta1": 0.5}},
    "digits-nesterov": {**_DIGITS, "method": {"name": "nesterov", "lr": 0.03}},
    "digits-rmsprop": {**_DIGITS, "num_steps": 300, "method": {"name": "rmsprop", "lr": 1e-4, "eps": 1e-7}},
    "digits-adam": {**_DIGITS, "method": {**_ADAM, "lr": 4e-4, "beta2": 0.99}},
    "digits-adamw": {
        **_DIGITS,
        "method": {**_ADAM, "name": "adamw", "lr": 4e-4, "beta2": 0.99, "weight_decay": 0.1},
    },
    "digits-adagrad": {**_DIGITS, "num_steps": 300, "method": {"name": "adagrad", "lr": 2e-3, "eps": 1e-7}},
    "digits-amsgrad": {**_DIGITS, "method": {"name": "amsgrad", "lr": 1e-4, "beta1": 0.5, "eps": 1e-7}},
    "digits-padam": {**_DIGITS, "method": {"name": "padam", "lr": 2e-3, "beta1": 0.5, "beta2": 0.99, "eps": 1e-7}},
    "digits-nadam": {**_DIGITS, "method": {"name": "nadam", "lr": 2e-4, "eps": 1e-7}},
    "digits-adafactor": {**_DIGITS, "method": {"name": "adafactor", "lr": 5e-4}},
    "digits-sam": {**_DIGITS, "num_steps": 200, "method": {"name": "gd", "lr": 0.01}, "sam": {"rho": 0.02}},
    "chebyshev-gd": {**_CHEBYSHEV, "method": {"name": "gd", "lr": 0.2}},
    "chebyshev-heavyball": {**_CHEBYSHEV, "method": {"name": "heavyball", "lr": 0.2, "beta1": 0.5}},
    "chebyshev-nesterov": {**_CHEBYSHEV, "method": {"name": "nesterov", "lr": 0.06}},
    "chebyshev-rmsprop": {
        **_CHEBYSHEV,
        "num_steps": 6000,
        "method": {"name": "rmsprop", "lr": 1e-3, "beta2": 0.99, "eps": 1e-7},
    },
    "chebyshev-adam": {**_CHEBYSHEV, "method": {**_ADAM, "lr": 1e-3}},
    "chebyshev-adamw": {
        **_CHEBYSHEV,
        "method": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "eps": 1e-7, "bias_correction": False},
    },
    "chebyshev-adagrad": {
        **_CHEBYSHEV,
        "num_steps": 4000,
        "method": {"name": "adagrad", "lr": 0.05, "eps": 1e-7},
    },
    "chebyshev-amsgrad": {**_CHEBYSHEV, "method": {"name": "amsgrad", "lr": 1e-3, "eps": 1e-7}},
    "chebyshev-padam": {**_CHEBYSHEV, "method": {"name": "padam", "lr": 1e-2, "eps": 1e-7}},
    "chebyshev-nadam": {**_CHEBYSHEV, "method": {"name": "nadam", "lr": 1e-3, "eps": 1e-7}},
    "chebyshev-adafactor": {**_CHEBYSHEV, "method": {"name": "adafactor", "lr": 1e-3}},
    "chebyshev-sam": {**_CHEBYSHEV, "method": {"name": "gd", "lr": 0.1}, "sam": {"rho": 0.05}},
    "cifar10-fc-adam": {
        **_CIFAR,
        "num_steps": 600,
        "method": {**_ADAM, "lr": 2e-4, "beta2": 0.99},
    },
    "cifar10-cnn-adam": {
        **_CIFAR,
        "problem": {"name": "cifar10", "model": "cnn", "num_examples": 100},
        "num_steps": 300,
        "method": {**_ADAM, "lr": 1e-4, "beta2": 0.99},
    },
    "bowl": {
        "problem": {"name": "quadratic", "curvatures": [2.0, 2.0], "start": [1.0, 1.0]},
        "method": {"name": "gd", "lr": 0.1},
        "num_steps": 100,
        "dtype": "float64",
        "measure": {"every": 10},
    },
    "ravine": {
        "problem": {"name": "quadratic", "curvatures": [2.0, 10.0], "start": [1.0, 1.0]},
        "method": {"name": "gd", "lr": 0.19},
        "num_steps": 100,
        "dtype": "float64",
        "measure": {"every": 10},
    },
    "differential-curvature": {
        "problem": {"name": "quadratic", "curvatures": [10.0, 1.0], "start": [1.0, 10.0]},
        "method": {"name": "gd", "lr": 0.15},
        "num_steps": 100,
        "dtype": "float64",
        "measure": {"every": 10},
    },
}


def preset(name: str) -> dict[str, Any]:
    """A named configuration, as the mapping a file would hold.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"run: '{name}' is neither a preset nor a .toml file. {did_you_mean(name, PRESETS)}")
    return PRESETS[name]
