"""Size against latency of every candidate, coloured and shaped by verdict, with the front as a step line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tightship.core.measurement import Measurement
from tightship.core.plan import Plan, Status
from tightship.report import words
from tightship.report.plots.canvas import MARKER_SIZES, MARKERS, new_figure, short
from tightship.report.plots.labels import Box, Label, Placed, boxes_along, place
from tightship.report.plots.svg import COLOURS, drawing, inline, printable
from tightship.report.verdict import STATUSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Point", "n_timed", "pareto", "points"]

LOG_FROM = 8.0
"""Values that differ by more than this factor are drawn on a logarithmic scale."""

FRONT_DASHES = (0, (4, 2))

Spot = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """A candidate in the plane of size and time. `low_ms` and `high_ms` bound its time, both None where unknown."""

    number: int
    name: str
    status: Status
    size_mb: float
    latency_ms: float
    low_ms: float | None
    high_ms: float | None
    on_front: bool

    @property
    def spot(self) -> Spot:
        """Where it is drawn."""
        return self.size_mb, self.latency_ms

    @property
    def bar(self) -> list[Spot]:
        """Ends of its error bar, empty without one."""
        if self.low_ms is None or self.high_ms is None:
            return []
        return [(self.size_mb, self.low_ms), (self.size_mb, self.high_ms)]

    def __str__(self) -> str:
        size, time = words.bytes_text(self.size_mb * 1e6), words.ms_text(self.latency_ms)
        return f"{self.number} {self.name}: {size}, {time}, {self.status}"


def points(plan: Plan) -> tuple[Point, ...]:
    """Return the candidates whose size and time are known.

    Time is the source's median times the ratio of interleaved pairs, as the verdicts take it, with the ratio's
    confidence interval; without a ratio it is the candidate's own median and quartiles.
    """
    source = plan.baseline.measurement
    found = []
    for number, entry in enumerate(plan.candidates, start=1):
        span = _time_span(entry.measurement, source)
        if entry.measurement is not None and span is not None:
            size_mb = entry.measurement.size_bytes / 1e6
            found.append(Point(number, entry.name, entry.status, size_mb, *span, entry.on_front))
    return tuple(found)


def n_timed(plan: Plan) -> int:
    """Return how many candidates the drawing shows."""
    return len(points(plan))


def pareto(plan: Plan) -> str:
    """Draw the candidates whose size and time are known."""
    shown = points(plan)
    if not shown:
        return ""
    with drawing():
        figure, axes = new_figure(5.2)
        _scale_sizes(axes, [point.size_mb for point in shown])
        _scale(axes, "y", [spot[1] for point in shown for spot in (point.spot, *point.bar)])
        corners = _draw_front(axes, shown)
        for point in shown:
            _draw_point(axes, point)
        _draw_legend(figure, shown)
        axes.set_ylabel("latency, ms")
        _draw_labels(figure, axes, shown, corners)
        tips = {f"point-{point.number}": str(point) for point in shown}
        return inline(figure, "pareto", "Size against latency", _description(shown), tips)


def _time_span(
    measured: Measurement | None, source: Measurement | None
) -> tuple[float, float | None, float | None] | None:
    if measured is None:
        return None
    ratio, latency = measured.ratio, measured.latency
    if ratio is not None and source is not None and source.latency is not None:
        unit_ms = source.latency.median_ms
        return ratio.median * unit_ms, ratio.low * unit_ms, ratio.high * unit_ms
    return (latency.median_ms, latency.low_ms, latency.high_ms) if latency is not None else None


def _scale_sizes(axes: Axes, sizes_mb: Sequence[float]) -> None:
    unit, factor = ("kB", 1e3) if max(sizes_mb) < 1 else ("GB", 1e-3) if min(sizes_mb) >= 1e3 else ("MB", 1.0)
    _scale(axes, "x", sizes_mb, factor)
    axes.set_xlabel(f"size, {unit}")


def _scale(axes: Axes, which: str, values: Sequence[float], factor: float = 1.0) -> None:
    """Choose limits and ticks; numbers at the ticks are multiplied by `factor`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis: Any = axes.xaxis if which == "x" else axes.yaxis
    low, high = min(values), max(values)
    if low > 0 and high / low >= LOG_FROM:
        margin = (high / low) ** 0.08
        axes.set(**{f"{which}scale": "log", f"{which}lim": (low / margin, high * margin)})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
        axis.set_minor_locator(NullLocator())
    else:
        axes.set(**{f"{which}lim": (0.0, (high or 1.0) * 1.12)})
    axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value * factor:.5g}"))


def _draw_front(axes: Axes, shown: Sequence[Point]) -> list[Spot]:
    """Draw the front and return the corners of its line; below and left of it there is nothing acceptable."""
    front = sorted(point.spot for point in shown if point.on_front)
    if not front:
        return []
    corners = [(front[0][0], axes.get_ylim()[1]), front[0]]
    for (_, latency_ms), after in pairwise(front):
        corners += [(after[0], latency_ms), after]
    corners.append((axes.get_xlim()[1], front[-1][1]))
    xs, ys = zip(*corners, strict=True)
    axes.plot(xs, ys, color=COLOURS["chosen"], linewidth=1.1, linestyle=FRONT_DASHES, zorder=2)
    return corners


def _draw_point(axes: Axes, point: Point) -> None:
    colour, level = COLOURS[point.status], 10 - STATUSES.index(point.status)
    if point.bar:
        xs, ys = zip(*point.bar, strict=True)
        axes.plot(xs, ys, color=colour, linewidth=1.2, marker="_", markersize=5, zorder=level)
    marker, size = MARKERS[point.status], MARKER_SIZES[point.status]
    style: dict[str, Any] = {"color": colour, "markersize": size, "markeredgecolor": COLOURS["paper"]}
    axes.plot(*point.spot, marker, markeredgewidth=0.8, zorder=level, gid=f"point-{point.number}", **style)


def _draw_legend(figure: Figure, shown: Sequence[Point]) -> None:
    from matplotlib.lines import Line2D

    def key(status: Status) -> Line2D:
        style: dict[str, Any] = {"color": COLOURS[status], "markeredgecolor": COLOURS["paper"], "linestyle": "none"}
        return Line2D([], [], marker=MARKERS[status], markersize=MARKER_SIZES[status], label=status, **style)

    keys = [key(status) for status in STATUSES if any(point.status == status for point in shown)]
    if any(point.on_front for point in shown):
        keys.append(Line2D([], [], color=COLOURS["chosen"], linewidth=1.1, linestyle=FRONT_DASHES, label="front"))
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), columnspacing=1.6)


def _draw_labels(figure: Figure, axes: Axes, shown: Sequence[Point], corners: Sequence[Spot]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    figure.draw(canvas.get_renderer())
    figure.set_layout_engine("none")  # the layout that labels are placed in must stay as it is
    order = sorted(shown, key=lambda point: (not point.on_front, STATUSES.index(point.status), point.number))
    window = axes.get_window_extent()
    lines = [corners, *(point.bar for point in shown)]
    placed = place(
        [Label(*_pixels(axes, point.spot), _forms(axes, point, canvas)) for point in order],
        Box(window.x0, window.y0, window.x1, window.y1),
        [Box.around(*_pixels(axes, point.spot), 4.5) for point in shown],
        [box for line in lines for box in boxes_along([_pixels(axes, spot) for spot in line])],
    )
    for point, text in zip(order, placed, strict=True):
        _write(axes, point, text)


def _forms(axes: Axes, point: Point, canvas: Any) -> tuple[tuple[str, float, float], ...]:
    texts = [str(point.number)]
    if point.on_front or point.status in ("baseline", "chosen"):
        texts.insert(0, f"{point.number} {short(point.name)}")
    return tuple((text, *_extent(axes, text, canvas)) for text in texts)


def _extent(axes: Axes, text: str, canvas: Any) -> tuple[float, float]:
    artist = axes.text(0, 0, text, weight="bold")
    box = artist.get_window_extent(canvas.get_renderer())
    artist.remove()
    return box.width, box.height


def _write(axes: Axes, point: Point, placed: Placed) -> None:
    x, y = _pixels(axes, point.spot)
    box = placed.box
    if placed.tied:
        near = min(max(x, box.left), box.right), min(max(y, box.bottom), box.top)
        style: dict[str, Any] = {"color": COLOURS["muted"], "linewidth": 0.5, "zorder": 1.5}
        axes.plot([x, near[0]], [y, near[1]], transform=None, **style)
    middle = (box.left + box.right) / 2, (box.bottom + box.top) / 2
    weight = "bold" if point.status == "chosen" else "normal"
    axes.text(*middle, placed.text, transform=None, ha="center", va="center", zorder=20, weight=weight)


def _pixels(axes: Axes, spot: Spot) -> Spot:
    x, y = axes.transData.transform(spot)
    return float(x), float(y)


def _description(shown: Sequence[Point]) -> str:
    best = next((point for point in shown if point.status == "chosen"), None)
    end = f" The chosen one is {best}." if best else ""
    return printable(f"{len(shown)} candidates; the table holds the numbers.{end}")
