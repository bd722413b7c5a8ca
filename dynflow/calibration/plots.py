"""Plots as SVG text, for a page whose style sheet gives the colours, so that they follow its light or dark scheme.

They hold axes alone as text: what lines and points mean stands in a legend of the page, which wraps where it is narrow.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_WIDTH, _HEIGHT = 460, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 26, 12, 52
_LONGEST = 42
"""Characters of a label that fit, on a phone too."""
_MARK = 4.5
Form = Callable[[float], str]
Pair = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A range of numbers, what they are, and how ticks are written."""

    low: float
    high: float
    label: str
    form: Form


def around(values: Iterable[float], label: str, form: Form, low: float = -math.inf, high: float = math.inf) -> Axis:
    """An axis with room for all finite values, within `low` and `high`."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    least, most = min(known), max(known)
    room = 0.06 * (most - least) or max(0.05 * abs(most), 0.05)
    return Axis(max(low, least - room), min(high, most + room), label, form)


def per_cent(value: float) -> str:
    """A share as ticks show it."""
    return f"{100 * value:.0f} %"


def plain(value: float) -> str:
    """A number as ticks show it."""
    return f"{value:.4g}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within a range."""
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


class Plot:
    """One plot; what is drawn later lies on top. `kind` of a line or mark is a class of the style sheet."""

    def __init__(self, name: str, title: str, description: str, x: Axis, y: Axis) -> None:
        """`name` makes ids within the page; `title` and `description` are read out in the picture's place."""
        self._name, self._title, self._description = name, title, description
        self._x, self._y = x, y
        self._drawn: list[str] = []

    def line(self, points: Iterable[Pair], kind: str) -> None:
        """Straight pieces between points (x, y)."""
        placed = " ".join(f"{self._across(x):.1f},{self._up(y):.1f}" for x, y in points)
        self._drawn.append(f'<polyline class="{kind}" points="{placed}"/>')

    def upright(self, x: float, kind: str) -> None:
        """A line from bottom to top, where it is on the plot."""
        if self._x.low <= x <= self._x.high:
            self.line([(x, self._y.low), (x, self._y.high)], kind)

    def bars(self, edges: Sequence[float], heights: Sequence[float], kind: str) -> None:
        """Bars that stand on the axis."""
        for left, right, height in zip(edges, edges[1:], heights, strict=False):
            x, width = self._across(left), self._across(right) - self._across(left)
            top = self._up(height)
            tall, wide = self._up(self._y.low) - top, max(width - 1, 0.5)
            corner = f'x="{x:.1f}" y="{top:.1f}"'
            self._drawn.append(f'<rect class="{kind}" {corner} width="{wide:.1f}" height="{tall:.1f}"/>')

    def mark(self, x: float, y: float, kind: str, round: bool = True) -> None:
        """A point."""
        across, up = self._across(x), self._up(y)
        if round:
            self._drawn.append(f'<circle class="{kind}" cx="{across:.1f}" cy="{up:.1f}" r="{_MARK}"/>')
        else:
            side = 2 * _MARK - 1
            corner = f'x="{across - side / 2:.1f}" y="{up - side / 2:.1f}"'
            self._drawn.append(f'<rect class="{kind}" {corner} width="{side}" height="{side}"/>')

    def interval(self, x: Pair, y: Pair, kind: str) -> None:
        """A straight line over a range, across or upwards."""
        self.line([(x[0], y[0]), (x[1], y[1])], kind)

    def svg(self) -> str:
        """The whole as one element."""
        ids = f"{self._name}-title {self._name}-description"
        frame = "".join([*self._across_ticks(), *self._up_ticks()])
        return (
            f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{ids}">'
            f'<title id="{self._name}-title">{html.escape(self._title)}</title>'
            f'<desc id="{self._name}-description">{html.escape(self._description)}</desc>'
            f"{frame}{''.join(self._drawn)}</svg>"
        )

    def file(self, style: str, legend: str = "") -> str:
        """The whole as an SVG file: `style` is for what was drawn, `legend` holds elements that lie on top."""
        general = "text{font:12px system-ui,sans-serif;fill:#57606a}.grid{stroke:#d0d7de}svg{background:#fff}"
        alone = self.svg().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        alone = alone.replace("<title", f"<style>{general}{style}</style><title", 1)
        return alone.removesuffix("</svg>") + f"{legend}</svg>\n"

    def _across_ticks(self) -> Iterable[str]:
        bottom = _HEIGHT - _BOTTOM
        for value in ticks(self._x.low, self._x.high, 5):
            x = self._across(value)
            yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
            yield _text(x, bottom + 18, self._x.form(value), "middle")
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        yield _text(middle, _HEIGHT - 8, _shortened(self._x.label), "middle", "axis")

    def _up_ticks(self) -> Iterable[str]:
        for value in ticks(self._y.low, self._y.high):
            y = self._up(value)
            yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
            yield _text(_LEFT - 7, y + 4.5, self._y.form(value), "end")
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        yield (
            f'<text class="axis" transform="translate(16 {middle:.1f}) rotate(-90)" text-anchor="middle">'
            f"{html.escape(self._y.label)}</text>"
        )

    def _across(self, value: float) -> float:
        share = (value - self._x.low) / (self._x.high - self._x.low)
        return float(_LEFT + np.clip(share, 0, 1) * (_WIDTH - _LEFT - _RIGHT))

    def _up(self, value: float) -> float:
        share = (value - self._y.low) / (self._y.high - self._y.low)
        return float(_HEIGHT - _BOTTOM - np.clip(share, 0, 1) * (_HEIGHT - _TOP - _BOTTOM))


def key(kind: str, mark: str = "line") -> str:
    """A legend's sample of a line, a bar, or a `round` or `square` point."""
    drawn = {
        "line": f'<line class="{kind}" x1="1" y1="7" x2="27" y2="7"/>',
        "bar": f'<rect class="{kind}" x="9" y="1" width="10" height="12"/>',
        "round": f'<circle class="{kind}" cx="14" cy="7" r="{_MARK}"/>',
        "square": f'<rect class="{kind}" x="10" y="3" width="8" height="8"/>',
    }[mark]
    return f'<svg class="key" viewBox="0 0 28 14" aria-hidden="true">{drawn}</svg>'


def _shortened(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
