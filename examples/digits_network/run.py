"""Trains a small neural network on handwritten digits without a single gradient: particles that agree on the weights.

A hundred networks are the particles of consensus-based optimization. At each step ten of them see sixty images, all in one batched
product a layer; the mean of their weights, weighted by how well they did, is where all hundred drift, with noise in proportion to their
distance from it. Noise goes down and the weighting sharpens epoch by epoch ("cooling"), without which the networks do not settle.

    python examples/digits_network/run.py            # both networks, with and without cooling: about two minutes
    python examples/digits_network/run.py --quick    # a few epochs of the smaller one

The recipe (ReLU, then batch normalisation without parameters, after every layer; cross-entropy; lambda = 1, sigma^2 = 0.4, alpha = 50,
dt = 0.1, 100 particles in mini-batches of 10, images in batches of 60) is that of Carrillo, Jin, Li & Zhu (ESAIM: COCV 27, 2021) and of
Riedl, Klock, Geldhauser & Fornasier (arXiv:2306.09778). Data: scikit-learn's digits, 8 x 8, 1,437 images to learn from and 360 to test.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor

from zoopt import Random, Real, Space, Study
from zoopt.strategies import CBO

PARTICLES, AT_ONCE = 100, 10
IMAGES = 60  # of a data batch
CLASSES = 10


@dataclass(frozen=True)
class Data:
    """Images ``(k, 64)`` with brightness from 0 to 1 and the digits they show, ``(k,)``."""

    train: Tensor
    train_digits: Tensor
    test: Tensor
    test_digits: Tensor

    @staticmethod
    def load() -> Data:
        """Scikit-learn's digits, a fifth of them kept to test with."""
        images, digits = load_digits(return_X_y=True)
        parts = train_test_split(images / 16.0, digits, test_size=360, stratify=digits, random_state=0)
        train, test, train_digits, test_digits = (torch.as_tensor(part) for part in parts)
        return Data(train.float(), train_digits, test.float(), test_digits)


@dataclass(frozen=True)
class Network:
    """Fully connected layers; many networks of this shape are rows of one tensor."""

    widths: tuple[int, ...]  # of the layers, inputs first

    @property
    def size(self) -> int:
        """Number of weights and biases d."""
        return sum((a + 1) * b for a, b in zip(self.widths, self.widths[1:], strict=False))

    def scores(self, weights: Tensor, images: Tensor) -> Tensor:
        """Scores of the classes, ``(P, k, 10)``, that networks with ``weights: (P, d)`` give ``images: (k, 64)``.

        One product a layer for all networks.
        """
        x = images.expand(len(weights), *images.shape)
        used = 0
        for a, b in zip(self.widths, self.widths[1:], strict=False):
            matrix = weights[:, used : used + a * b].unflatten(-1, (a, b))
            bias = weights[:, used + a * b : used + (a + 1) * b].unsqueeze(1)
            x = torch.baddbmm(bias, x, matrix).relu()
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-4).sqrt()
            used += (a + 1) * b
        return x

    def loss(self, weights: Tensor, images: Tensor, digits: Tensor) -> Tensor:
        """Mean cross-entropy over ten, ``(P,)``."""
        chances = torch.log_softmax(self.scores(weights, images), -1)
        return -chances.gather(-1, digits.expand(len(weights), -1).unsqueeze(-1)).mean((1, 2)) / CLASSES

    def accuracy(self, weights: Tensor, images: Tensor, digits: Tensor) -> float:
        """Share of the images that one network, ``(d,)``, reads right."""
        return float((self.scores(weights.unsqueeze(0), images)[0].argmax(-1) == digits).float().mean())


def data_batches(data: Data, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All images of the training set once, in random order."""
    order = Random(seed, epoch).child("images").permutation(len(data.train))
    for rows in order.split(IMAGES):
        if len(rows) == IMAGES:
            yield data.train[rows], data.train_digits[rows]


def train(network: Network, data: Data, epochs: int, *, cooling: bool, seed: int = 0) -> list[float]:
    """Accuracy of the consensus point on the test images after each epoch."""
    rounds = PARTICLES // AT_ONCE  # each data batch is seen by all particles
    steps = rounds * (len(data.train) // IMAGES)  # of an epoch
    strategy = CBO(
        particles=PARTICLES,
        batch=AT_ONCE,
        dt=0.1,
        sigma=math.sqrt(0.4),
        alpha=50.0,
        alpha_growth=2.0 ** (1.0 / steps) if cooling else 1.0,
        cooling=steps if cooling else None,
        standstill=1e-5,
    )
    space = Space({"weights": Real(start=0.0, scale=1.0, shape=(network.size,))})
    study = Study(space, strategy, seed=seed, history="best", dtype=torch.float32)
    accuracies = []
    for epoch in range(epochs):
        for images, digits in data_batches(data, seed, epoch):
            for _ in range(rounds):
                batch = study.ask(AT_ONCE)
                study.tell(batch, network.loss(batch.x.float(), images, digits))
        assert study.recommended is not None
        weights = torch.as_tensor(study.recommended.x, dtype=torch.float32)
        accuracies.append(network.accuracy(weights, data.test, data.test_digits))
    return accuracies


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print a table, draw the curves."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--quick", action="store_true", help="three epochs of the smaller network")
    options.add_argument("--epochs", type=int, default=50)
    options.add_argument("--seeds", type=int, default=1, help="how many runs of each")
    given = options.parse_args(arguments)
    data, epochs = Data.load(), 3 if given.quick else given.epochs
    linear = LogisticRegression(max_iter=1000).fit(data.train, data.train_digits).score(data.test, data.test_digits)
    marks = [e for e in (5, 10, 20, 50) if e < epochs] + [epochs]
    print(f"{'network':<10} {'d':>5} cooling seed  test accuracy after epoch {', '.join(map(str, marks))}   seconds")
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    for widths, colour in (((64, 10), "tab:blue"), ((64, 32, 10), "tab:orange")):
        network = Network(widths)
        for cooling in (True, False):
            for seed in range(given.seeds):
                began = time.perf_counter()
                found = train(network, data, epochs, cooling=cooling, seed=seed)
                shape = "-".join(map(str, widths))
                seen = "  ".join(f"{found[e - 1]:.3f}" for e in marks)
                print(
                    f"{shape:<10} {network.size:>5} {'yes' if cooling else 'no':<7} {seed:<4}  {seen}   {time.perf_counter() - began:.0f}"
                )
                label = f"{shape}{'' if cooling else ' without cooling'}" if seed == 0 else None
                axes.plot(range(1, epochs + 1), found, color=colour, linestyle="-" if cooling else ":", label=label)
        if given.quick:
            break
    axes.axhline(linear, color="black", linewidth=0.8)
    axes.annotate(f"logistic regression, with gradients: {linear:.3f}", (1, linear), fontsize=8, va="bottom")
    axes.set(xlabel="epoch", ylabel="test accuracy", ylim=(0, 1))
    axes.legend(frameon=False)
    figure.savefig("accuracy.png", dpi=120)
    print("The curves are in accuracy.png.")


if __name__ == "__main__":
    main()
