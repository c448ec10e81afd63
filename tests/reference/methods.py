"""The methods as ten lines of float64 numpy each, and a nonlinear function to run them on.

Legend: w = weights (p,), g = gradient, m = momentum, v = second moment, P = preconditioner, t = step (1, 2, ...).
Every method takes `grad`, (p,) -> (p,), and returns the weights (num_steps + 1, p) from the start `w` on.
Hyperparameters may be numbers or vectors (p,), one entry a weight. Weight decay is decoupled unless it says L2.
"""

import numpy as np


def rosenbrock_gradient(w):
    """Gradient of sum_i 2 (w[i+1] - w[i]^2)^2 + (1 - w[i])^2 / 2, a curved valley that couples all weights."""
    rise = w[1:] - w[:-1] ** 2
    g = np.zeros_like(w)
    g[:-1] = -8 * w[:-1] * rise - (1 - w[:-1])
    g[1:] += 4 * rise
    return g


def gradient_descent(grad, w, num_steps, *, lr, wd=0.0):
    path = [w]
    for _ in range(num_steps):
        w = w - lr * (grad(w) + wd * w)
        path.append(w)
    return np.array(path)


def heavy_ball(grad, w, num_steps, *, lr, b, wd=0.0):
    path, m = [w], 0.0
    for _ in range(num_steps):
        m = b * m + grad(w)
        w = w - lr * (m + wd * w)
        path.append(w)
    return np.array(path)


def ema_heavy_ball(grad, w, num_steps, *, lr, b, wd=0.0):
    path, m = [w], 0.0
    for _ in range(num_steps):
        m = b * m + (1 - b) * grad(w)
        w = w - lr * (m + wd * w)
        path.append(w)
    return np.array(path)


def nesterov(grad, w, num_steps, *, lr, b, wd=0.0):
    path, m = [w], 0.0
    for _ in range(num_steps):
        g = grad(w)
        m = b * m + g
        w = w - lr * (b * m + g + wd * w)
        path.append(w)
    return np.array(path)


def ema_nesterov(grad, w, num_steps, *, lr, b, wd=0.0):
    path, m = [w], 0.0
    for _ in range(num_steps):
        g = grad(w)
        m = b * m + (1 - b) * g
        w = w - lr * (b * m + (1 - b) * g + wd * w)
        path.append(w)
    return np.array(path)


def quasi_hyperbolic(grad, w, num_steps, *, lr, b, c):
    path, m = [w], 0.0
    for _ in range(num_steps):
        g = grad(w)
        m = b * m + (1 - b) * g
        w = w - lr * ((1 - c) * g + c * m)
        path.append(w)
    return np.array(path)


def damped_sgd(grad, w, num_steps, *, lr, b, damping, l2=0.0):
    path, m = [w], 0.0
    for _ in range(num_steps):
        m = b * m + (1 - damping) * (grad(w) + l2 * w)
        w = w - lr * m
        path.append(w)
    return np.array(path)


def rmsprop(grad, w, num_steps, *, lr, b2, eps, l2=0.0):
    path, v = [w], 0.0
    for _ in range(num_steps):
        g = grad(w) + l2 * w
        v = b2 * v + (1 - b2) * g**2
        w = w - lr * g / (np.sqrt(v) + eps)
        path.append(w)
    return np.array(path)


def rmsprop_eps_inside(grad, w, num_steps, *, lr, b2, eps):
    path, v = [w], 0.0
    for _ in range(num_steps):
        g = grad(w)
        v = b2 * v + (1 - b2) * g**2
        w = w - lr * g / np.sqrt(v + eps)
        path.append(w)
    return np.array(path)


def root(v, eps, power=0.5, is_inside=False):
    """P before any correction, with eps outside the root or inside it."""
    if is_inside:
        return (v + eps) ** power
    return (np.sqrt(v) if power == 0.5 else v**power) + eps


def adam(grad, w, num_steps, *, lr, b1, b2, eps, l2=0.0, wd=0.0, is_inside=False):
    path, m, v = [w], 0.0, 0.0
    for t in range(1, num_steps + 1):
        g = grad(w) + l2 * w
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        corrected_m, corrected_v = m / (1 - b1**t), v / (1 - b2**t)
        w = w - lr * (corrected_m / root(corrected_v, eps, is_inside=is_inside) + wd * w)
        path.append(w)
    return np.array(path)


def adam_eps_inside(grad, w, num_steps, *, lr, b1, b2, eps):
    path, m, v = [w], 0.0, 0.0
    for t in range(1, num_steps + 1):
        g = grad(w)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        w = w - lr * (m / (1 - b1**t)) / np.sqrt(v / (1 - b2**t) + eps)
        path.append(w)
    return np.array(path)


def adam_uncorrected(grad, w, num_steps, *, lr, b1, b2, eps, power=0.5, wd=0.0, is_inside=False):
    path, m, v = [w], 0.0, 0.0
    for _ in range(num_steps):
        g = grad(w)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        w = w - lr * (m / root(v, eps, power, is_inside) + wd * w)
        path.append(w)
    return np.array(path)


def frozen_adam(grad, w, num_steps, *, lr, b1, b2, eps, last):
    """Adam whose P is held at that of step `last` from then on."""
    path, m, v = [w], 0.0, 0.0
    for t in range(1, num_steps + 1):
        g = grad(w)
        m = b1 * m + (1 - b1) * g
        if t <= last:
            v = b2 * v + (1 - b2) * g**2
            P = (1 - b1**t) * (np.sqrt(v / (1 - b2**t)) + eps)
        w = w - lr * m / P
        path.append(w)
    return np.array(path)


def preconditioned_ema_heavy_ball(grad, w, num_steps, *, lr, b, P, wd=0.0):
    """P is a matrix (p, p)."""
    path, m = [w], np.zeros_like(w)
    for _ in range(num_steps):
        m = b * m + (1 - b) * grad(w)
        w = w - lr * (np.linalg.solve(P, m) + wd * w)
        path.append(w)
    return np.array(path)


def adagrad(grad, w, num_steps, *, lr, eps, l2=0.0, start=0.0):
    path, s = [w], start
    for _ in range(num_steps):
        g = grad(w) + l2 * w
        s = s + g**2
        w = w - lr * g / (np.sqrt(s) + eps)
        path.append(w)
    return np.array(path)


def amsgrad(grad, w, num_steps, *, lr, b1, b2, eps, power=0.5, is_torch=False, is_inside=False):
    path, m, v, top = [w], 0.0, 0.0, 0.0
    for t in range(1, num_steps + 1):
        g = grad(w)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        top = np.maximum(top, v)
        c1, c2 = (1 - b1**t, 1 - b2**t) if is_torch else (1, 1)
        w = w - lr * (m / c1) / root(top / c2, eps, power, is_inside)
        path.append(w)
    return np.array(path)


def nadam(grad, w, num_steps, *, lr, b1, b2, eps, is_inside=False):
    path, m, v = [w], 0.0, 0.0
    for _ in range(num_steps):
        g = grad(w)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w - lr * (b1 * m + (1 - b1) * g) / root(v, eps, is_inside=is_inside)
        path.append(w)
    return np.array(path)


def scheduled_nadam(grad, w, num_steps, *, lr, b1, b2, eps, decay, l2=0.0, last=10**9, is_inside=False):
    """torch's; decay = inf has no schedule. P and the weights of momentum are held from step `last` on."""
    path, m, v, product = [w], 0.0, 0.0, 1.0
    for t in range(1, num_steps + 1):
        g = grad(w) + l2 * w
        m = b1 * m + (1 - b1) * g
        if t <= last:
            mu, following = (b1 * (1 - 0.5 * 0.96 ** (s * decay)) for s in (t, t + 1))
            product *= mu
            v = b2 * v + (1 - b2) * g**2
            P = root(v / (1 - b2**t), eps, is_inside=is_inside)
        w = w - lr * ((1 - mu) * g / (1 - product) + following * m / (1 - product * following)) / P
        path.append(w)
    return np.array(path)


def gradient_init_adam(grad, w, num_steps, *, lr, b1, b2, eps):
    path, m, v = [w], 0.0, grad(w) ** 2
    for t in range(1, num_steps + 1):
        g = grad(w)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        path.append(w)
    return np.array(path)


def adafactor(grad, W, num_steps, *, lr, b1, decay, eps):
    """Of one matrix W (r, c); grad maps it to its gradient."""
    path, m, R, C = [W], 0.0, 0.0, 0.0
    for t in range(1, num_steps + 1):
        G = grad(W)
        a = t**-decay
        R, C = (1 - a) * R + a * (G**2 + eps).mean(1), (1 - a) * C + a * (G**2 + eps).mean(0)
        m = b1 * m + (1 - b1) * G
        W = W - lr * m / np.sqrt(np.outer(R, C) / R.mean())
        path.append(W)
    return np.array(path)


def clip_units(w, g, factor, eps):
    """Adaptive gradient clipping of one tensor: the gradient, how many units were clipped, and how many there are."""
    if w.ndim < 2:
        limit, length = factor * max(np.linalg.norm(w), eps), np.linalg.norm(g)
        return (g * limit / length, 1, 1) if length > limit else (g, 0, 1)
    rows = [clip_units(w_row.ravel(), g_row.ravel(), factor, eps) for w_row, g_row in zip(w, g, strict=True)]
    return np.array([row for row, *_ in rows]).reshape(g.shape), sum(num for _, num, _ in rows), len(rows)
