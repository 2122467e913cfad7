"""Twelve kinds of drawn scene: the classes of the demo's images.

Each kind is a function (rng, u, v) -> a field of heights in about 0..1, float32 [h, w]. u and v
[h, w] are the picture's coordinates in units of one brick, one leaf or one strand. The caller
chooses angle, scale, perspective and warp, and turns the field into a photograph. No kind has a
colour or a brightness of its own, so only its structure reveals it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

Plane = np.ndarray  # float32 [h, w]
Rng = np.random.Generator


def smooth(rng: Rng, h: int, w: int, cells: float) -> Plane:
    """Return smooth noise in 0..1, with about `cells` bumps along the shorter side."""
    step = min(h, w) / max(cells, 0.5)
    grid = rng.random((max(2, round(h / step) + 2), max(2, round(w / step) + 2)), np.float32)
    return np.asarray(Image.fromarray(grid).resize((w, h), Image.Resampling.BICUBIC))


def fractal(rng: Rng, h: int, w: int, cells: float, octaves: int = 5, fall: float = 0.55) -> Plane:
    """Add octaves of smooth noise; each has half the size and `fall` times the height."""
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        total += (smooth(rng, h, w, cells * 2**octave) - 0.5) * fall**octave
    return total + 0.5


def step(x: Plane, low: float, high: float) -> Plane:
    """Return 0 below low, 1 above high, and a smooth rise between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


class Cells:
    """The unit cells that contain a picture's coordinates, with random numbers for each cell."""

    def __init__(self, rng: Rng, u: Plane, v: Plane) -> None:
        self.rng, self.u, self.v = rng, u, v
        i, j = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
        self.i, self.j = i - i.min() + 3, j - j.min() + 3  # room for neighbours on each side
        self.left, self.top = i - self.i, j - self.j
        self.rows = int(self.j.max()) + 4
        self.index = self.i * self.rows + self.j
        self.count = (int(self.i.max()) + 4) * self.rows

    def random(self) -> np.ndarray:
        """Return a uniform number for every cell, in a flat array that self.index looks up."""
        return self.rng.random(self.count, np.float32)

    def around(self, jitter: float, reach: int = 1) -> Iterator[tuple[np.ndarray, Plane, Plane]]:
        """Yield, for each neighbouring offset, the cells' index and the pixels' x and y relative to
        the cells' jittered centres."""
        x, y = (0.5 + jitter * (self.random() - 0.5) for _ in range(2))
        fu, fv = self.u - np.floor(self.u), self.v - np.floor(self.v)
        for di in range(-reach, reach + 1):
            for dj in range(-reach, reach + 1):
                index = self.index + di * self.rows + dj
                yield index, fu - di - x[index], fv - dj - y[index]


def lattice(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Return smooth noise of u and v in 0..1, with one bump per unit."""
    cells = Cells(rng, u, v)
    value = cells.random()
    fu, fv = step(u - np.floor(u), 0, 1), step(v - np.floor(v), 0, 1)
    a = value[cells.index] * (1 - fu) + value[cells.index + cells.rows] * fu
    b = value[cells.index + 1] * (1 - fu) + value[cells.index + cells.rows + 1] * fu
    return a * (1 - fv) + b * fv


def bricks(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Courses of bricks, each course shifted by half a brick, in recessed mortar."""
    v = v * rng.uniform(1.8, 2.6)
    u = u + 0.5 * (np.floor(v) % 2)
    cells = Cells(rng, u, v)
    tint = cells.random()[cells.index]
    gap = rng.uniform(0.05, 0.1)
    edge_u = 0.5 - np.abs(u - np.floor(u) - 0.5)
    edge_v = (0.5 - np.abs(v - np.floor(v) - 0.5)) / 2.2
    face = step(np.minimum(edge_u, edge_v), gap * 0.4, gap)
    rough = lattice(rng, u * 9, v * 4)
    return face * (0.55 + 0.35 * tint + 0.12 * rough) + (1 - face) * 0.1 * rough


def bubbles(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Round bubbles of many sizes: a bright rim, a faint inside, a highlight on each."""
    field = 0.15 * lattice(rng, u, v)
    angle = rng.uniform(0, 2 * math.pi)
    hx, hy = 0.45 * math.cos(angle), 0.45 * math.sin(angle)
    for scale, seldom in ((0.8, 0.35), (1.7, 0.45)):
        cells = Cells(rng, u * scale, v * scale)
        size = 0.2 + 0.5 * cells.random()
        there = cells.random() > seldom
        for index, x, y in cells.around(0.7):
            x, y = x / size[index], y / size[index]
            r = np.sqrt(x * x + y * y)
            rim = np.exp(-(((r - 0.88) / 0.09) ** 2))
            spot = np.exp(-((x - hx) ** 2 + (y - hy) ** 2) / 0.025)
            inside = step(-r, -1.0, -0.94)
            bubble = np.clip(0.2 + 0.75 * rim + 0.8 * spot, 0, 1)
            field = np.where(there[index], field + inside * (bubble - field), field)
    return field


def cracks(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Dried earth: plates with slightly curled edges between thin cracks."""
    near, second, tint = np.full_like(u, 9), np.full_like(u, 9), np.zeros_like(u)
    cells = Cells(rng, u, v)
    shade = cells.random()
    for index, x, y in cells.around(0.9):
        d = np.sqrt(x * x + y * y)
        closer = d < near
        second = np.where(closer, near, np.minimum(second, d))
        tint = np.where(closer, shade[index], tint)
        near = np.where(closer, d, near)
    gap = second - near
    plate = step(gap, 0.02, rng.uniform(0.07, 0.12))
    curl = 0.2 * np.exp(-gap / 0.2)
    rough = lattice(rng, u * 6, v * 6) * 0.5 + lattice(rng, u * 13, v * 13) * 0.3
    return plate * (0.55 + 0.15 * tint + curl + 0.2 * rough)


def crystals(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Facets: flat triangles, each with its own brightness."""
    u, v = u + 0.25 * np.sin(1.7 * v), v + 0.25 * np.sin(1.3 * u)
    u = u + v * 0.577
    cells = Cells(rng, u, v)
    fu, fv = u - np.floor(u), v - np.floor(v)
    lower = fu + fv < 1
    tint = np.where(lower, cells.random()[cells.index], cells.random()[cells.index])
    lean = np.where(lower, cells.random()[cells.index], cells.random()[cells.index])
    sides = np.minimum(0.5 - np.abs(fu - 0.5), 0.5 - np.abs(fv - 0.5))
    edge = np.minimum(np.abs(fu + fv - 1), sides)
    slope = (lean - 0.5) * (fu - fv) * 0.5
    return np.clip(0.1 + 0.8 * tint + slope, 0, 1) + 0.15 * np.exp(-((edge / 0.02) ** 2))


def flowers(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Open blossoms of five to nine petals with a dark heart, strewn over a lawn."""
    field = 0.22 * lattice(rng, u * 5, v * 5) + 0.1 * lattice(rng, u, v)
    petals = int(rng.integers(5, 10))
    cells = Cells(rng, u, v)
    size, turn, tint = 0.38 + 0.25 * cells.random(), cells.random() * 6.28, cells.random()
    there = cells.random() > 0.12
    for index, x, y in cells.around(0.7):
        r = np.sqrt(x * x + y * y) / size[index]
        wave = np.cos(petals * np.arctan2(y, x) + turn[index] * petals)
        petal = step(0.68 + 0.3 * wave - r, 0.0, 0.08)
        light = (0.62 + 0.25 * tint[index]) * (0.7 + 0.3 * r) + 0.12 * wave
        heart = step(-r, -0.27, -0.2)
        light = light * (1 - heart) + 0.3 * heart
        field = np.where(there[index], field + petal * (light - field), field)
    return field


def fur(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Hair: thin strands, in tufts, that follow a curved flow."""
    bend_u, bend_v = lattice(rng, u * 0.5, v * 0.5), lattice(rng, u * 0.5 + 7, v * 0.5)
    u, v = u + 1.6 * (bend_u - 0.5), v + 1.6 * (bend_v - 0.5)
    strands = lattice(rng, u * 5, v * 0.8) + 0.8 * lattice(rng, u * 10, v * 1.2)
    tufts = lattice(rng, u * 2, v * 0.7)
    return 0.3 * tufts + 0.5 * strands


def hills(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Ridge behind ridge, each paler than the one before it."""
    low, high = float(v.min()), float(v.max())
    ridges = int(rng.integers(4, 8))
    field = 0.92 + 0.08 * lattice(rng, u * 0.4, v * 0.8)
    for n in range(ridges):
        near = (n + 1) / ridges
        base = low + (high - low) * (0.12 + 0.8 * n / ridges)
        shift = float(rng.uniform(0, 99))
        zero = np.zeros_like(u)
        line = sum(
            lattice(rng, u * f + shift, zero) * a for f, a in ((0.6, 1.8), (1.7, 0.8), (5, 0.25))
        )
        land = step(v - base - (high - low) * 0.13 * (line - 1.4), 0.0, 0.05)
        tone = 0.85 * (1 - near) + 0.06 * lattice(rng, u * 6, v * 6) * near
        field = field + land * (tone - field)
    return field


def leaves(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Fallen leaves, each pointed at both ends with a midrib and veins, one over another."""
    field = 0.15 * lattice(rng, u * 3, v * 3)
    cells = Cells(rng, u * 1.25, v * 1.25)
    turn, tint = cells.random() * 6.28, cells.random()
    size, slim = 0.7 + 0.35 * cells.random(), rng.uniform(0.3, 0.48)
    veins = rng.uniform(16, 24)
    for index, x, y in cells.around(0.9):
        c, s = np.cos(turn)[index], np.sin(turn)[index]
        along, across = (x * c + y * s) / size[index], (y * c - x * s) / size[index]
        away = np.abs(across)
        outline = slim * (1 - along * along)
        leaf = step(outline - away, 0.0, 0.04)
        rib = np.exp(-((away / 0.025) ** 2))
        vein = np.square(np.square(np.cos(veins * (along - 0.7 * away))))
        light = 0.35 + 0.4 * tint[index] + 0.14 * vein + 0.3 * rib - 0.5 * away
        field = field + leaf * (light - field)
    return field


def ripples(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Rings on water around one to three places, running through each other."""
    total = 0.4 * (lattice(rng, u * 0.7, v * 0.7) - 0.5)
    for n in range(int(rng.integers(1, 4))):
        x = rng.uniform(float(u.min()), float(u.max()))
        y = rng.uniform(float(v.min()), float(v.max()))
        r = np.sqrt((u - x) ** 2 + (v - y) ** 2)
        rings = np.sin(rng.uniform(7, 10) * r + rng.uniform(0, 6))
        total = total + rings * rng.uniform(0.6, 1) / (1 + 0.15 * r) / (1 + n)
    return 0.5 + 0.3 * total


def scales(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Rounded scales or roof tiles in staggered rows, each row over the next."""
    v = v * 1.5
    field = np.zeros_like(u)
    cells = Cells(rng, u, v)
    tint = cells.random()
    row, fv = np.floor(v), v - np.floor(v)
    comb, rim = rng.uniform(15, 30), rng.uniform(0.6, 1.3)
    for above in (-1, 0, 1):  # the row above covers this one
        shifted = u + 0.5 * ((row - above) % 2)
        fu = shifted - np.floor(shifted) - 0.5
        r = np.sqrt(fu * fu + np.maximum((fv + above) / 1.5 - 0.45, 0) ** 2)
        tile = step(-r, -0.52, -0.49)
        index = (np.floor(shifted) - cells.left).astype(np.int32) * cells.rows + cells.j - above
        shade = 0.8 - rim * np.maximum(r - 0.15, 0) + 0.3 * (tint[index] - 0.5)
        field = field + tile * (shade + 0.07 * np.cos(comb * fu) - field)
    return field


def weave(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Plain weave: round threads that pass over and under one another."""
    u, v = u * 1.4, v * 1.4
    cells = Cells(rng, u, v)
    fu, fv = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    over = (np.floor(u) + np.floor(v)) % 2 == 0
    across, along = np.where(over, fu, fv), np.where(over, fv, fu)
    width = rng.uniform(0.4, 0.48)
    thread = np.sqrt(np.clip(1 - (across / width) ** 2, 0, 1))
    arch = 0.55 + 0.45 * np.cos(along * np.pi)
    fibres = 0.12 * np.cos(across * 40 + along * 9)
    return thread * arch * (0.8 + 0.2 * cells.random()[cells.index]) + fibres * thread


def wood(rng: Rng, u: Plane, v: Plane) -> Plane:
    """Sawn wood: long bands of growth that part around a few knots."""
    warp = 1.3 * lattice(rng, u * 0.35, v * 0.12) + 0.25 * lattice(rng, u * 0.9, v * 0.3)
    cells = Cells(rng, u * 0.22, v * 0.14)
    there = cells.random() > 0.35
    knot = np.zeros_like(u)
    for index, x, y in cells.around(0.8):
        d = np.sqrt((x / 0.22) ** 2 + (y / 0.14) ** 2 * 0.45)
        warp = warp + np.where(there[index], 1.9 * np.exp(-d / 0.8), 0)
        knot = np.maximum(knot, np.where(there[index], np.exp(-((d / 0.28) ** 2)), 0))
    phase = u * 1.5 + 1.4 * warp
    band = (phase - np.floor(phase)) ** 1.6
    grain = lattice(rng, u * 14, v * 0.8)
    return (0.25 + 0.55 * band + 0.22 * grain) * (1 - 0.75 * knot)


KINDS: dict[str, Callable[[Rng, Plane, Plane], Plane]] = {
    kind.__name__: kind
    for kind in (
        bricks, bubbles, cracks, crystals, flowers, fur, hills, leaves, ripples, scales, weave, wood
    )
}
