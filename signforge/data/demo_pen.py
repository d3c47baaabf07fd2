"""The pen and the paint of the demo's signs: shapes in sign coordinates, colours of one sign."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """What one physical sign has of its own; widths are factors around 1."""

    red: Color
    blue: Color
    yellow: Color
    black: Color
    white: Color
    border: float
    stroke: float
    glyph_scale: float
    glyph_shift: Point
    digit_width: float


class Pen:
    """Draws on a transparent square whose coordinates run from -1 to 1, y downwards.

    scale, shift and mirror apply to all that is drawn; ``moved`` gives a pen with others.
    """

    def __init__(
        self, image: Image.Image, *, scale: float = 1, shift: Point = (0, 0), mirror: bool = False
    ) -> None:
        self.image = image
        self.draw = ImageDraw.Draw(image)
        self.scale, self.shift, self.mirror = scale, shift, mirror

    def moved(self, scale: float, shift: Point, *, mirror: bool = False) -> "Pen":
        return Pen(self.image, scale=scale, shift=shift, mirror=mirror)

    def disc(self, center: Point, radius: float, color: Color) -> None:
        (x, y), r = self._pixel(center), self._length(radius)
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def ring(self, center: Point, radius: float, width: float, color: Color) -> None:
        (x, y), r = self._pixel(center), self._length(radius)
        box = (x - r, y - r, x + r, y + r)
        self.draw.ellipse(box, outline=color, width=max(round(self._length(width)), 1))

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        self.draw.polygon([self._pixel(point) for point in points], fill=color)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color)

    def line(self, points: Sequence[Point], width: float, color: Color) -> None:
        pixels = [self._pixel(point) for point in points]
        self.draw.line(pixels, fill=color, width=max(round(self._length(width)), 1), joint="curve")

    def arrow(self, points: Sequence[Point], width: float, color: Color, head: float) -> None:
        """A line with a triangular head of half-width ``head`` beyond its last point."""
        self.line(points, width, color)
        (x0, y0), (x, y) = points[-2], points[-1]
        norm = math.hypot(x - x0, y - y0)
        u, v = (x - x0) / norm, (y - y0) / norm
        tip = (x + u * head * 1.1, y + v * head * 1.1)
        self.polygon([(x - v * head, y + u * head), tip, (x + v * head, y - u * head)], color)

    def text(self, text: str, width: float, height: float, color: Color) -> None:
        """``text`` stretched to a box around the origin, 2 * width by 2 * height."""
        glyphs = _text_mask(text)
        size = (max(round(self._length(2 * width)), 1), max(round(self._length(2 * height)), 1))
        mask = glyphs.resize(size, Image.Resampling.BILINEAR)
        x, y = self._pixel((0, 0))
        self.image.paste(color, (round(x - size[0] / 2), round(y - size[1] / 2)), mask)

    def _length(self, value: float) -> float:
        return value * self.scale * self.image.width / 2

    def _pixel(self, point: Point) -> Point:
        x, y = point
        if self.mirror:
            x = -x
        half = self.image.width / 2
        return (
            half + (x * self.scale + self.shift[0]) * half,
            half + (y * self.scale + self.shift[1]) * half,
        )


@cache
def _text_mask(text: str) -> Image.Image:
    font = ImageFont.load_default(size=96)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font, stroke_width=2)
    return mask


def draw_style(rng: np.random.Generator) -> Style:
    """A physical sign's own colours (paint batch, fading) and proportions."""
    fade = rng.uniform(0, 0.45) ** 1.5
    grey = rng.integers(110, 190)

    def paint(red: float, green: float, blue: float) -> Color:
        own = np.array([red, green, blue]) + rng.normal(0, 8, 3)
        r, g, b = np.clip(own * (1 - fade) + grey * fade, 0, 255).astype(int).tolist()
        return r, g, b

    return Style(
        red=paint(190, 25, 35),
        blue=paint(20, 75, 165),
        yellow=paint(240, 185, 20),
        black=paint(25, 25, 28),
        white=paint(232, 232, 228),
        border=rng.uniform(0.8, 1.2),
        stroke=rng.uniform(0.8, 1.25),
        glyph_scale=rng.uniform(0.88, 1.08),
        glyph_shift=(rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)),
        digit_width=rng.uniform(0.88, 1.1),
    )
