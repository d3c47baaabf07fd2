"""Photographs of a drawn sign: a place with its clutter, a camera on its way towards it.

What varies follows what varies in GTSRB: distance (effective resolution), viewing angle,
exposure, colour cast, blur, shadow, dirt, branches in front, compression.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from signforge.data.demo_pen import Color, draw_style
from signforge.data.demo_signs import draw_sign

PALETTES: tuple[tuple[Color, ...], ...] = (
    ((150, 185, 225), (205, 220, 235), (110, 150, 200)),
    ((40, 70, 30), (80, 110, 45), (20, 40, 20)),
    ((120, 80, 65), (160, 140, 125), (90, 60, 55)),
    ((105, 105, 110), (150, 150, 150), (70, 70, 75)),
    ((225, 225, 220), (190, 195, 200), (240, 240, 240)),
)
"""Sky, trees, brick, asphalt, overcast."""

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class PhysicalSign:
    """One sign at its place; all its frames share this.

    face: RGBA, the worn sign, square. backdrop: RGB, larger than any frame shows.
    tilt, yaw, pitch: radians, how it is mounted and passed. light: 1 is a well exposed frame.
    near_pixels, far_pixels: how wide a frame is at both ends of the approach, in camera pixels.
    first_nearness: where on the approach frame 0 lies, 0 (far) to 1.
    """

    face: Image.Image
    backdrop: Image.Image
    tilt: float
    yaw: float
    pitch: float
    light: float
    cast: Channels
    near_pixels: float
    far_pixels: float
    first_nearness: float


def draw_physical_sign(label: int, rng: np.random.Generator, resolution: int) -> PhysicalSign:
    """A sign of class ``label`` with its own paint, wear, place, light and viewing side."""
    face = draw_sign(label, draw_style(rng), max(96, 2 * resolution))
    _wear(face, rng)
    cast = rng.normal(1, 0.06, 3).tolist()
    return PhysicalSign(
        face=face,
        backdrop=_draw_backdrop(rng, 3 * resolution),
        tilt=rng.normal(0, 0.06),
        yaw=rng.normal(0, 0.28),
        pitch=rng.normal(0, 0.15),
        light=float(np.clip(np.exp(rng.normal(-0.3, 0.45)), 0.28, 1.15)),
        cast=(cast[0], cast[1], cast[2]),
        near_pixels=rng.uniform(32, 64),
        far_pixels=rng.uniform(19, 30),
        first_nearness=rng.uniform(0, 1),
    )


def draw_frame(
    sign: PhysicalSign, frame: int, rng: np.random.Generator, resolution: int
) -> Image.Image:
    """One frame of the approach: RGB, resolution x resolution.

    Multiples of the golden ratio spread any number of frames evenly over the approach.
    """
    size = 2 * resolution
    view = _crop_backdrop(sign.backdrop, rng, size)
    _paste_sign(view, sign, rng)
    if rng.random() < 0.3:
        view = _cast_shadow(view, rng)
    if rng.random() < 0.15:
        _occlude(view, rng)
    view = _blur(view, rng)
    nearness = (sign.first_nearness + frame * GOLDEN_RATIO) % 1
    pixels = sign.far_pixels * (sign.near_pixels / sign.far_pixels) ** nearness
    pixels = min(round(pixels * rng.uniform(0.9, 1.1)), size)
    view = _expose(view.resize((pixels, pixels), Image.Resampling.BOX), sign, rng)
    return _compress(view, rng).resize((resolution, resolution), Image.Resampling.BILINEAR)


def _wear(face: Image.Image, rng: np.random.Generator) -> None:
    """Dirt, scratches and stickers, on the sign only."""
    alpha = face.getchannel("A")
    size = face.width
    draw = ImageDraw.Draw(face)
    for _ in range(int(rng.poisson(1.5))):
        x, y, r = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0.01, 0.06) * size
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_random_color(rng, 60, 200))
    if rng.random() < 0.25:
        ends = rng.uniform(0, size, 4).tolist()
        draw.line(ends, fill=_random_color(rng, 80, 230), width=max(size // 48, 1))
    face.putalpha(alpha)


def _draw_backdrop(rng: np.random.Generator, size: int) -> Image.Image:
    """Soft patches of one or two palettes, with poles, edges, plates and other signs' parts."""
    colors = [c for k in rng.integers(0, len(PALETTES), 2) for c in PALETTES[k]]
    cells = int(rng.integers(2, 12))
    coarse = np.array(colors)[rng.integers(0, len(colors), (cells, cells))]
    coarse = coarse + rng.normal(0, 18, coarse.shape)
    patches = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    backdrop = patches.resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(backdrop)
    for _ in range(int(rng.integers(2, 10))):
        x, y = rng.uniform(0, size, 2).tolist()
        w, h = (size * rng.uniform(0.02, 0.35, 2)).tolist()
        color = _random_color(rng, 20, 235) if rng.random() < 0.3 else colors[rng.integers(6)]
        shape = rng.integers(4)
        if shape == 0:
            draw.rectangle((x - w, y - h, x + w, y + h), fill=color)
        elif shape == 1:
            draw.ellipse((x - w, y - w, x + w, y + w), fill=color)
        elif shape == 2:
            draw.line((x, y, *rng.uniform(0, size, 2).tolist()), fill=color, width=size // 32)
        else:
            draw.ellipse((x - w, y - w, x + w, y + w), outline=color, width=size // 24)
    if rng.random() < 0.7:
        half = size * rng.uniform(0.015, 0.03)
        draw.rectangle((size / 2 - half, size / 2, size / 2 + half, size), fill=(125, 128, 130))
    if rng.random() < 0.25:
        w, top = size * rng.uniform(0.12, 0.25), size * rng.uniform(0.64, 0.7)
        draw.rectangle((size / 2 - w, top, size / 2 + w, size * 0.8), fill=(215, 215, 210))
    return backdrop


def _crop_backdrop(backdrop: Image.Image, rng: np.random.Generator, size: int) -> Image.Image:
    width = backdrop.width * rng.uniform(0.62, 0.8)
    shake = backdrop.width * 0.06
    middle = backdrop.width / 2
    x, y = (middle + rng.uniform(-shake, shake, 2)).tolist()
    box = (x - width / 2, y - width / 2, x + width / 2, y + width / 2)
    return backdrop.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _paste_sign(view: Image.Image, sign: PhysicalSign, rng: np.random.Generator) -> None:
    """The sign in perspective, about 80 % of the frame wide, a little off its centre."""
    yaw, pitch, tilt = (angle + rng.normal(0, 0.05) for angle in (sign.yaw, sign.pitch, sign.tilt))
    yaw = float(np.clip(yaw, -1.0, 1.0))
    half = rng.uniform(0.34, 0.44) * view.width
    center = view.width * (0.5 + rng.normal(0, 0.035, 2))
    corners = []
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        u = x * math.cos(tilt) - y * math.sin(tilt)
        v = x * math.sin(tilt) + y * math.cos(tilt)
        depth = 4 + u * math.sin(yaw) + v * math.sin(pitch)
        flat = np.array([u * math.cos(yaw), v * math.cos(pitch)])
        corners.append(center + half * flat * 4 / depth)
    edge = sign.face.width
    square = ((0, 0), (edge, 0), (edge, edge), (0, edge))
    warped = sign.face.transform(
        view.size,
        Image.Transform.PERSPECTIVE,
        _homography(np.array(corners), np.array(square)),
        Image.Resampling.BILINEAR,
    )
    view.paste(warped, (0, 0), warped)


def _homography(source: np.ndarray, target: np.ndarray) -> list[float]:
    """Eight coefficients of the projective map that takes 4 source points to 4 target points."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    solution: list[float] = np.linalg.solve(np.array(rows), target.reshape(8)).tolist()
    return solution


def _cast_shadow(view: Image.Image, rng: np.random.Generator) -> Image.Image:
    size = view.width
    shade = Image.new("L", view.size, 255)
    angle, reach = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.2) * size
    u, v = math.cos(angle), math.sin(angle)
    x, y = size / 2 + reach * u, size / 2 + reach * v
    far = 2 * size
    polygon = [(x - v * far, y + u * far), (x + v * far, y - u * far)]
    polygon += [(px + u * far, py + v * far) for px, py in reversed(polygon)]
    ImageDraw.Draw(shade).polygon(polygon, fill=int(rng.integers(90, 190)))
    shade = shade.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 3)))
    return ImageChops.multiply(view, shade.convert("RGB"))


def _occlude(view: Image.Image, rng: np.random.Generator) -> None:
    """Leaves or a pole in front of the sign, from one side."""
    size = view.width
    draw = ImageDraw.Draw(view)
    angle = rng.uniform(0, 2 * math.pi)
    center = size * (0.5 + 0.42 * np.array([math.cos(angle), math.sin(angle)]))
    if rng.random() < 0.25:
        x, half = rng.uniform(0.15, 0.85) * size, rng.uniform(0.015, 0.05) * size
        draw.rectangle((x - half, 0, x + half, size), fill=_random_color(rng, 40, 160))
        return
    green = np.array([45, 75, 35]) + rng.normal(0, 15, 3)
    for x, y in center + rng.normal(0, 0.09 * size, (int(rng.integers(4, 14)), 2)):
        r, g, b = np.clip(green + rng.normal(0, 12, 3), 0, 255).astype(int).tolist()
        w, h = (size * rng.uniform(0.02, 0.08, 2)).tolist()
        draw.ellipse((x - w, y - h, x + w, y + h), fill=(r, g, b))


def _blur(view: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Defocus, and at times motion along a line (as two shifted copies, halved and again)."""
    view = view.filter(ImageFilter.BoxBlur(view.width / 64 * rng.gamma(1.6, 0.22)))
    if rng.random() < 0.2:
        angle, length = rng.uniform(0, math.pi), rng.uniform(0.02, 0.09) * view.width
        for part in (0.5, 0.25, 0.125):
            dx, dy = round(length * part * math.cos(angle)), round(length * part * math.sin(angle))
            view = Image.blend(view, ImageChops.offset(view, dx, dy), 0.5)
    return view


def _expose(view: Image.Image, sign: PhysicalSign, rng: np.random.Generator) -> Image.Image:
    """Light, colour cast, haze and glare, then the sensor's noise and clipping."""
    pixels = np.asarray(view, dtype=np.float32) / 255
    light = sign.light * float(np.exp(rng.normal(0, 0.2)))
    haze = rng.uniform(0, 0.45) ** 2
    pixels = pixels * (1 - haze) + haze * rng.uniform(0.4, 0.9)
    pixels = pixels ** rng.uniform(0.85, 1.2) * (light * np.array(sign.cast, dtype=np.float32))
    if rng.random() < 0.04:
        ys, xs = np.mgrid[0 : view.height, 0 : view.width] / view.width
        x, y = rng.uniform(0.2, 0.8, 2)
        spot = np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / rng.uniform(0.01, 0.05))
        pixels = pixels + (rng.uniform(0.3, 0.9) * spot)[..., None]
    sigma = rng.uniform(0.005, 0.03)
    pixels = pixels + rng.normal(0, sigma, pixels.shape)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


def _compress(view: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    view.save(buffer, "JPEG", quality=int(rng.integers(40, 95)))
    return Image.open(buffer, formats=("JPEG",)).convert("RGB")


def _random_color(rng: np.random.Generator, low: int, high: int) -> Color:
    r, g, b = rng.integers(low, high, 3).tolist()
    return r, g, b
