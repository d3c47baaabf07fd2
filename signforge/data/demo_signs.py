"""The 43 sign designs of the demo data, drawn with lines, polygons and Pillow's own font.

Shapes and pictograms follow the German signs in GTSRB's class order, simplified. Each physical
sign varies in colour, border and stroke width, so that no two are the same picture.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

from PIL import Image

from signforge.data.demo_pen import Color, Pen, Point, Style

SUPERSAMPLING = 2

Draw = Callable[[Pen, Style], None]


def draw_sign(label: int, style: Style, size: int) -> Image.Image:
    """The design of a class on a transparent square: RGBA, size x size."""
    large = Image.new("RGBA", (size * SUPERSAMPLING,) * 2, (*style.white, 0))
    DESIGNS[label](Pen(large), style)
    return large.reduce(SUPERSAMPLING)


def _glyph(pen: Pen, style: Style, scale: float = 1, y: float = 0, *, mirror: bool = False) -> Pen:
    dx, dy = style.glyph_shift
    return pen.moved(scale * style.glyph_scale, (dx, dy + y), mirror=mirror)


def _red_ring(pen: Pen, style: Style) -> None:
    pen.disc((0, 0), 0.97, style.red)
    pen.disc((0, 0), 0.97 - 0.21 * style.border, style.white)


def _limit(pen: Pen, style: Style, *, number: str) -> None:
    _red_ring(pen, style)
    width = (0.48 if len(number) == 2 else 0.58) * style.digit_width
    _glyph(pen, style).text(number, width, 0.41, style.black)


def _stripes(pen: Pen, style: Style) -> None:
    for offset in (-0.16, -0.05, 0.06, 0.17):
        start, end = (-0.55 + offset, 0.55 + offset), (0.55 + offset, -0.55 + offset)
        pen.line([start, end], 0.05 * style.stroke, style.black)


def _end_disc(pen: Pen, style: Style) -> Color:
    pen.disc((0, 0), 0.97, style.black)
    pen.disc((0, 0), 0.97 - 0.05 * style.border, style.white)
    r, g, b = (
        (dark + 2 * light) // 3 for dark, light in zip(style.black, style.white, strict=True)
    )
    return r, g, b


def _end_of_limit(pen: Pen, style: Style) -> None:
    grey = _end_disc(pen, style)
    _glyph(pen, style).text("80", 0.5 * style.digit_width, 0.4, grey)
    _stripes(pen, style)


def _end_of_all(pen: Pen, style: Style) -> None:
    _end_disc(pen, style)
    _stripes(pen, style)


def _car(pen: Pen, x: float, color: Color) -> None:
    pen.box(x - 0.25, -0.02, x + 0.25, 0.2, color)
    pen.polygon([(x - 0.2, 0), (x - 0.13, -0.2), (x + 0.13, -0.2), (x + 0.2, 0)], color)
    for wheel in (-0.17, 0.17):
        pen.box(x + wheel - 0.06, 0.18, x + wheel + 0.06, 0.3, color)


def _truck(pen: Pen, x: float, color: Color) -> None:
    pen.box(x - 0.28, -0.36, x + 0.28, 0.16, color)
    for wheel in (-0.18, 0.18):
        pen.box(x + wheel - 0.08, 0.14, x + wheel + 0.08, 0.32, color)


def _no_passing(pen: Pen, style: Style, *, truck: bool) -> None:
    _red_ring(pen, style)
    glyph = _glyph(pen, style)
    (_truck if truck else _car)(glyph, -0.32, style.red)
    _car(glyph, 0.32, style.black)


def _end_of_no_passing(pen: Pen, style: Style, *, truck: bool) -> None:
    grey = _end_disc(pen, style)
    glyph = _glyph(pen, style, 1.1)
    (_truck if truck else _car)(glyph, -0.34, grey)
    _car(glyph, 0.34, grey)
    _stripes(pen, style)


def _no_trucks(pen: Pen, style: Style) -> None:
    _red_ring(pen, style)
    glyph = _glyph(pen, style)
    glyph.box(-0.55, -0.3, 0.2, 0.14, style.black)
    glyph.polygon([(0.24, 0.14), (0.24, -0.16), (0.44, -0.16), (0.56, 0.14)], style.black)
    for x in (-0.36, 0.34):
        glyph.disc((x, 0.2), 0.12, style.black)


def _no_entry(pen: Pen, style: Style) -> None:
    pen.disc((0, 0), 0.97, style.white)
    pen.disc((0, 0), 0.93, style.red)
    half = 0.17 * style.stroke
    pen.box(-0.7, -half, 0.7, half, style.white)


def _stop(pen: Pen, style: Style) -> None:
    for radius, color in ((1.0, style.white), (0.94, style.red)):
        corners = [math.radians(22.5 + 45 * k) for k in range(8)]
        pen.polygon([(radius * math.cos(a), radius * math.sin(a)) for a in corners], color)
    _glyph(pen, style).text("STOP", 0.72 * style.digit_width, 0.27, style.white)


def _priority(pen: Pen, style: Style) -> None:
    inner = 0.72 - 0.1 * style.border
    layers = {0.98: style.black, 0.95: style.white, inner: style.black, inner - 0.05: style.yellow}
    for radius, color in layers.items():
        pen.polygon([(0, -radius), (radius, 0), (0, radius), (-radius, 0)], color)


def _yield(pen: Pen, style: Style) -> None:
    inner = 0.66 - 0.12 * (style.border - 1)
    for k, color in ((1.0, style.red), (inner, style.white)):
        y = -0.25
        pen.polygon([(-0.97 * k, y - 0.52 * k), (0.97 * k, y - 0.52 * k), (0, y + 1.15 * k)], color)


def _triangle(pen: Pen, style: Style, *, glyph: Draw, mirror: bool = False) -> None:
    inner = 0.7 - 0.12 * (style.border - 1)
    for k, color in ((1.0, style.red), (inner, style.white)):
        y = 0.26
        pen.polygon([(0, y - 1.16 * k), (0.98 * k, y + 0.55 * k), (-0.98 * k, y + 0.55 * k)], color)
    glyph(_glyph(pen, style, 1.15, y=0.25, mirror=mirror), style)


def _caution(pen: Pen, style: Style) -> None:
    w = 0.1 * style.stroke
    pen.polygon([(-w, -0.46), (w, -0.46), (w * 0.6, 0.12), (-w * 0.6, 0.12)], style.black)
    pen.disc((0, 0.26), w, style.black)


def _crossroad(pen: Pen, style: Style) -> None:
    pen.arrow([(0, 0.36), (0, -0.26)], 0.17 * style.stroke, style.black, 0.17)
    pen.line([(-0.32, 0.1), (0.32, 0.1)], 0.08 * style.stroke, style.black)


def _curve(pen: Pen, style: Style) -> None:
    path = [(0.14, 0.36), (0.14, 0.08), (0.02, -0.08), (-0.12, -0.2)]
    pen.arrow(path, 0.13 * style.stroke, style.black, 0.15)


def _double_curve(pen: Pen, style: Style) -> None:
    path = [(0.06, 0.36), (0.06, 0.24), (-0.14, 0.1), (-0.14, 0.0), (0.1, -0.14), (0.1, -0.3)]
    pen.arrow(path, 0.11 * style.stroke, style.black, 0.12)


def _bumps(pen: Pen, style: Style) -> None:
    for x in (-0.22, 0.22):
        pen.disc((x, 0.16), 0.19, style.black)
    pen.box(-0.5, 0.16, 0.5, 0.3, style.black)


def _slippery(pen: Pen, style: Style) -> None:
    pen.polygon([(-0.16, -0.18), (-0.08, -0.36), (0.16, -0.3), (0.2, -0.1)], style.black)
    pen.polygon([(-0.26, -0.2), (0.28, -0.08), (0.26, 0.1), (-0.28, -0.04)], style.black)
    for x in (-0.12, 0.16):
        path = [(x, 0.1), (x + 0.1, 0.18), (x - 0.1, 0.26), (x, 0.36)]
        pen.line(path, 0.07 * style.stroke, style.black)


def _narrows(pen: Pen, style: Style) -> None:
    w = 0.1 * style.stroke
    pen.line([(-0.16, 0.36), (-0.16, -0.36)], w, style.black)
    pen.line([(0.3, 0.36), (0.3, 0.12), (0.08, -0.08), (0.08, -0.36)], w, style.black)


def _road_work(pen: Pen, style: Style) -> None:
    w = 0.1 * style.stroke
    pen.disc((-0.02, -0.36), 0.09, style.black)
    pen.line([(-0.08, -0.22), (-0.16, 0.06), (-0.3, 0.34)], w * 1.2, style.black)
    pen.line([(-0.16, 0.06), (0.0, 0.34)], w, style.black)
    pen.line([(-0.08, -0.18), (0.1, 0.0), (0.26, 0.2)], w * 0.8, style.black)
    pen.polygon([(0.1, 0.36), (0.3, 0.1), (0.5, 0.36)], style.black)


def _signals(pen: Pen, style: Style) -> None:
    pen.box(-0.16, -0.44, 0.16, 0.36, style.black)
    for y, color in ((-0.3, style.red), (-0.04, style.yellow), (0.22, (30, 150, 70))):
        pen.disc((0, y), 0.11, color)


def _walker(pen: Pen, x: float, size: float, stroke: float, color: Color) -> None:
    def at(*points: Point) -> list[Point]:
        return [(x + size * px, 0.34 + size * (py - 0.36)) for px, py in points]

    pen.disc(at((0.0, -0.36))[0], 0.09 * size, color)
    pen.line(at((0, -0.24), (0, 0.06)), 0.15 * size * stroke, color)
    pen.line(at((0, 0.04), (-0.16, 0.36)), 0.09 * size * stroke, color)
    pen.line(at((0, 0.04), (0.16, 0.34)), 0.09 * size * stroke, color)
    pen.line(at((-0.2, 0.04), (0, -0.18), (0.2, -0.02)), 0.08 * size * stroke, color)


def _pedestrian(pen: Pen, style: Style) -> None:
    _walker(pen, 0.0, 0.95, style.stroke, style.black)
    for x in (-0.46, -0.3, 0.3, 0.46):
        pen.line([(x, 0.36), (x * 0.86, 0.22)], 0.07 * style.stroke, style.black)


def _children(pen: Pen, style: Style) -> None:
    _walker(pen, -0.18, 0.95, style.stroke, style.black)
    _walker(pen, 0.24, 0.7, style.stroke, style.black)
    pen.line([(-0.08, 0.02), (0.2, 0.06)], 0.07 * style.stroke, style.black)


def _bicycle(pen: Pen, style: Style) -> None:
    w = 0.07 * style.stroke
    for x in (-0.26, 0.26):
        pen.ring((x, 0.18), 0.19, w, style.black)
    frame = [(-0.26, 0.18), (-0.1, -0.08), (0.16, -0.08), (0.0, 0.18), (-0.26, 0.18)]
    pen.line(frame, w, style.black)
    pen.line([(0.26, 0.18), (0.14, -0.2), (0.24, -0.22)], w, style.black)
    pen.line([(-0.18, -0.16), (-0.02, -0.16)], w, style.black)


def _snowflake(pen: Pen, style: Style) -> None:
    w = 0.06 * style.stroke
    for k in range(6):
        angle = math.radians(30 + 60 * k)
        u, v = math.cos(angle), math.sin(angle)
        pen.line([(0, 0), (0.38 * u, 0.38 * v)], w, style.black)
        for side in (-1, 1):
            tip = (0.34 * u - side * 0.12 * v, 0.34 * v + side * 0.12 * u)
            pen.line([(0.2 * u, 0.2 * v), tip], w * 0.8, style.black)


def _deer(pen: Pen, style: Style) -> None:
    w = 0.07 * style.stroke
    body = [(-0.34, 0.08), (-0.28, -0.08), (0.1, -0.16), (0.24, -0.36), (0.38, -0.3), (0.26, -0.22),
            (0.2, 0.04), (-0.1, 0.1)]  # fmt: skip
    pen.polygon(body, style.black)
    pen.line([(-0.3, 0.04), (-0.44, 0.34)], w, style.black)
    pen.line([(-0.2, 0.06), (-0.26, 0.36)], w, style.black)
    pen.line([(0.14, 0.0), (0.34, 0.14), (0.3, 0.3)], w, style.black)
    pen.line([(0.24, -0.34), (0.12, -0.5)], w * 0.7, style.black)


def _blue_disc(
    pen: Pen, style: Style, *, arrows: Sequence[Sequence[Point]], mirror: bool = False
) -> None:
    pen.disc((0, 0), 0.97, style.white)
    pen.disc((0, 0), 0.93, style.blue)
    glyph = _glyph(pen, style, mirror=mirror)
    for path in arrows:
        glyph.arrow(path, 0.2 * style.stroke, style.white, 0.24)


def _roundabout(pen: Pen, style: Style) -> None:
    pen.disc((0, 0), 0.97, style.white)
    pen.disc((0, 0), 0.93, style.blue)
    glyph = _glyph(pen, style)
    for third in range(3):
        angles = [math.radians(120 * third + 14 * step) for step in range(6)]
        path = [(0.5 * math.cos(a), 0.5 * math.sin(a)) for a in angles]
        glyph.arrow(path, 0.15 * style.stroke, style.white, 0.2)


TURN = [[(-0.32, 0.5), (-0.32, -0.06), (-0.2, -0.16), (0.3, -0.16)]]
AHEAD = [[(0.0, 0.6), (0.0, -0.36)]]
AHEAD_OR_TURN = [[(-0.2, 0.6), (-0.2, -0.36)], [(-0.2, 0.3), (-0.1, 0.12), (0.34, 0.12)]]
KEEP_SIDE = [[(-0.42, -0.42), (0.26, 0.26)]]

DESIGNS: tuple[Draw, ...] = (
    *(partial(_limit, number=number) for number in ("20", "30", "50", "60", "70", "80")),
    _end_of_limit,
    partial(_limit, number="100"),
    partial(_limit, number="120"),
    partial(_no_passing, truck=False),
    partial(_no_passing, truck=True),
    partial(_triangle, glyph=_crossroad),
    _priority,
    _yield,
    _stop,
    _red_ring,
    _no_trucks,
    _no_entry,
    partial(_triangle, glyph=_caution),
    partial(_triangle, glyph=_curve),
    partial(_triangle, glyph=_curve, mirror=True),
    partial(_triangle, glyph=_double_curve),
    partial(_triangle, glyph=_bumps),
    partial(_triangle, glyph=_slippery),
    partial(_triangle, glyph=_narrows),
    partial(_triangle, glyph=_road_work),
    partial(_triangle, glyph=_signals),
    partial(_triangle, glyph=_pedestrian),
    partial(_triangle, glyph=_children),
    partial(_triangle, glyph=_bicycle),
    partial(_triangle, glyph=_snowflake),
    partial(_triangle, glyph=_deer),
    _end_of_all,
    partial(_blue_disc, arrows=TURN),
    partial(_blue_disc, arrows=TURN, mirror=True),
    partial(_blue_disc, arrows=AHEAD),
    partial(_blue_disc, arrows=AHEAD_OR_TURN),
    partial(_blue_disc, arrows=AHEAD_OR_TURN, mirror=True),
    partial(_blue_disc, arrows=KEEP_SIDE),
    partial(_blue_disc, arrows=KEEP_SIDE, mirror=True),
    _roundabout,
    partial(_end_of_no_passing, truck=False),
    partial(_end_of_no_passing, truck=True),
)
"""One a class, in GTSRB's order."""
