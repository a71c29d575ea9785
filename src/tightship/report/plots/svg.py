"""A matplotlib figure as inline SVG that takes its fonts and colours from the page around it.

Colours are drawn as placeholders and become CSS variables here, so that one drawing serves light and dark pages.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "drawing", "inline", "printable"]

COLOURS = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "paper": "#040404",
    "baseline": "#050505",
    "chosen": "#060606",
    "accepted": "#070707",
    "refused": "#080808",
    "undecided": "#090909",
    "failed": "#0a0a0a",
}
"""Role of a colour, and the placeholder it is drawn with."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tightship",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw inside this: our style holds, whatever the user's matplotlib is set to, and is undone after it."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts draw the text, not ours
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def inline(figure: Figure, name: str, title: str, description: str, tips: Mapping[str, str]) -> str:
    """Return the figure as an `<svg>` element whose ids all begin with `name`; the same figure, the same text.

    `tips` are hover texts by the gid of the artist they belong to.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in [entry for entry in parent if entry.tag.endswith("}metadata")]:
            parent.remove(child)
    for element in root.iter():
        _localize(element, name)
    for gid, text in tips.items():
        _describe(root, f"{name}-{gid}", printable(text))
    _name(root, name, title, description)
    return ElementTree.tostring(root, encoding="unicode")


def printable(text: str) -> str:
    """Replace characters that XML cannot hold or that no one can see (control characters, lone surrogates)."""
    return "".join("�" if unicodedata.category(char) in ("Cc", "Cs", "Cn") else char for char in text)


def _localize(element: ElementTree.Element, name: str) -> None:
    # Inside HTML an SVG needs no namespaces; ids must differ between the drawings of one page.
    element.tag = element.tag.rpartition("}")[2]
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        plain = key.rpartition("}")[2]
        element.attrib[plain] = _attribute(plain, value, name)


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    value = value.replace("url(#", f"url(#{name}-")
    if key != "style":
        return value
    for role, placeholder in COLOURS.items():
        value = value.replace(placeholder, f"var(--{role})")
    # The page's own font, at our size and weight.
    return re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;]*", _font, value)


def _font(match: re.Match[str]) -> str:
    weight = f"; font-weight: {match[1]}" if match[1] else ""
    return f"font-size: {match[2]}px{weight}"


def _describe(root: ElementTree.Element, identifier: str, text: str) -> None:
    for element in root.iter():
        if element.get("id") == identifier:
            tip = ElementTree.Element("title")
            tip.text = text
            element.insert(0, tip)


def _name(root: ElementTree.Element, name: str, title: str, description: str) -> None:
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "class": "plot", "aria-labelledby": f"{name}-title {name}-description"})
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        entry = ElementTree.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'description'}"})
        entry.text = text
        root.insert(position, entry)
