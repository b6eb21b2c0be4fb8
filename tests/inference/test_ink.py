"""Ink is found on pictures of every kind, and only ink."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from numpy import ndarray
from PIL import Image, ImageDraw

import mnist_lit
from mnist_lit import MNISTDataModule
from mnist_lit.inference.views import clearest
from tests.inference.world import GROUPS

NUMBER = 40
# Least number of the 40 that are read right, for groups below the default.
LEAST = {"8×8": 34, "16×16": 36, "page 8 mm": 38, "margin": 38, "cells": 38, "frames": 36} | {
    "shadow": 36,
    "blurred": 37,
}

SLOW = ("page 15 mm", "page 10 mm", "shadow")  # two are similar to pages of 25 and of 8 mm


def digits(mnist: MNISTDataModule) -> Iterator[tuple[ndarray, str]]:
    for image, label in zip(mnist.test.images, mnist.test.labels.tolist(), strict=True):
        yield image[0].numpy(), str(label)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in GROUPS],
)
def test_pictures_of_every_kind_are_read(name: str, mnist: MNISTDataModule) -> None:
    few = islice(digits(mnist), NUMBER)
    cases = list(GROUPS[name](few, np.random.default_rng(1)))
    found = mnist_lit.predict([case.picture for case in cases])
    wrong = [one for one, case in zip(found, cases, strict=True) if one.text != case.text]
    assert NUMBER - len(wrong) >= LEAST.get(name, 39)
    assert sum(one.status == "read" for one in wrong) <= 1, "few are wrong and sure"


def test_a_frame_is_left_out_and_a_stroke_as_long_is_kept() -> None:
    framed = Image.new("L", (208, 166), 255)
    pen = ImageDraw.Draw(framed)
    for line in ((10, 20, 198, 20), (10, 146, 198, 146), (20, 10, 20, 156), (188, 10, 188, 156)):
        pen.line(line, fill=0, width=4)
    pen.line((100, 50, 100, 120), fill=120, width=7)  # lighter than the frame
    assert mnist_lit.predict(framed)[0].digit == 1
    seven = Image.new("L", (150, 200), 255)  # nothing around it
    pen = ImageDraw.Draw(seven)
    pen.line((0, 3, 149, 3, 50, 199), fill=0, width=7, joint="curve")
    assert mnist_lit.predict(seven)[0].digit == 7


def test_a_shadow_is_no_ink_though_it_parts_the_picture_in_two() -> None:
    half = Image.new("L", (200, 200), 240)
    ImageDraw.Draw(half).rectangle((0, 0, 99, 199), fill=90)
    for single in (True, False):
        assert mnist_lit.predict(half, single=single)[0].status == "none"


def test_colours_matter_where_their_gray_is_the_same() -> None:
    picture = Image.new("RGB", (120, 120), (0, 102, 0))
    ImageDraw.Draw(picture).line((60, 20, 60, 100), fill=(200, 0, 0), width=10)
    assert np.ptp(np.asarray(picture.convert("L"))) <= 1
    assert mnist_lit.predict(picture)[0].digit == 1
    assert clearest(picture.convert("L")) is None
    assert "blank" in mnist_lit.predict(Image.new("RGB", (120, 120), (200, 0, 0)))[0].why
