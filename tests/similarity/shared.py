"""Arrays that several tests of the measures use."""

import numpy as np


def wave(rows, columns, step):
    """Numbers that look irregular but need no random generator, for golden values."""
    return np.sin(step * np.arange(1, rows * columns + 1) ** 1.3).reshape(rows, columns)


def rotation(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def blobs(rows=240, columns=12, classes=3, distance=1.5, seed=0):
    """Gaussian classes whose centres lie ``distance`` from the origin, balanced."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(rows) % classes)
    features = random.normal(size=(rows, columns))
    features[:, :classes] += distance * np.eye(classes)[labels]
    return features, labels
