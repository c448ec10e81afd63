"""What is known of each method beside its formula: what sets its step, what is proven of it, where people use it.

T = number of steps. "Average regret" is over convex losses that an adversary may choose, so it covers minibatches.
"""

from __future__ import annotations

import msgspec


class Traits(msgspec.Struct, frozen=True):
    """A method in three short phrases, the columns of a comparison.

    Attributes:
        step_size: What adapts its step along each coordinate.
        guarantee: The best that is proven in general, and by whom.
        used_for: Where it is a usual choice.
    """

    step_size: str
    guarantee: str
    used_for: str


_NOT_ADAM = "none in general: fails on convex problems (Reddi et al. 2018)"

TRAITS: dict[str, Traits] = {
    "gd": Traits("none, one for all", "convex: 1/T, by minibatches 1/sqrt(T)", "vision, with a tuned lr"),
    "heavyball": Traits(
        "none; averages gradients", "as gradient descent; faster on quadratics (Polyak 1964)", "vision"
    ),
    "nesterov": Traits("none; looks ahead", "smooth convex, full batch: 1/T^2 (Nesterov 1983)", "vision"),
    "rmsprop": Traits("moving average of g^2", _NOT_ADAM, "recurrent networks, reinforcement learning"),
    "adam": Traits("moving averages of g and g^2", _NOT_ADAM, "language models and most else"),
    "adamw": Traits("as Adam; decay kept apart", "as Adam", "pre-training of large models"),
    "adagrad": Traits("sum of all g^2", "average regret 1/sqrt(T) (Duchi et al. 2011)", "sparse features, embeddings"),
    "amsgrad": Traits(
        "largest average of g^2 so far",
        "average regret 1/sqrt(T), lr falling as 1/sqrt(t) (Reddi et al. 2018)",
        "where Adam fails to converge",
    ),
    "padam": Traits(
        "a power of the average of g^2",
        "with its running maximum: average regret 1/sqrt(T) (Chen et al. 2018)",
        "vision, between SGD and Adam",
    ),
    "nadam": Traits("as Adam; looks ahead", "as Adam", "as Adam"),
    "adafactor": Traits(
        "row and column averages of g^2", "none in general (Shazeer and Stern 2018)", "large models, short memory"
    ),
    "sam": Traits(
        "as its base, with gradients from uphill",
        "none in general: not for losses that are not convex (Foret et al. 2021)",
        "image classification, small data",
    ),
    "custom": Traits("as its rules say", "not known", "experiments"),
    "foreign": Traits("as its own code says", "not known", "your experiments"),
}
"""By the name a configuration picks a method with; "sam" is any of them inside SAM."""
