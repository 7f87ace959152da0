"""A report as one HTML page that needs nothing beside it, and as Markdown with its figures in a folder.

The page asks for nothing from outside: style, script, drawings and pictures stand in it, and its policy forbids every
request. It can be read and printed without its script, which only sorts, filters and enlarges. The same report gives
the same bytes. How it looks is in `report/templates/`.
"""

import base64
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import cv2
import jinja2
import numpy as np
from markupsafe import Markup, escape

from cracks_jax.report import files
from cracks_jax.report.model import Cell, Column, Picture, Pictures, Plot, Report, Table

MARKDOWN_ROWS = 24  # of pictures in a Markdown figure; the page shows all
# Kinds of rows, in words; those of the first carry no mark.
KINDS = {
    "ours": "measured here",
    "floor": "the floor, a filter without a network, measured here",
    "paper": "printed in the paper, not measured here",
}
_GREY = (0.299, 0.587, 0.114)
_DIMMED = 0.4  # of a photograph's brightness behind an answer, as in `cracks_jax/figures.py`
# An answer that is shown smaller than it is loses its hairlines to averaging; opacity is multiplied by this against it.
_GAIN = 6.0


class Palette(NamedTuple):
    """Colours of the three cases of an answer, and what to call them."""

    name: str
    label: str
    words: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    @property
    def matrix(self) -> str:
        """For feColorMatrix: pure green, blue and red, in which answers are drawn, to this palette's colours."""
        green, blue, red = self.colours
        rows = [f"{r / 255:.6f} {g / 255:.6f} {b / 255:.6f} 0 0" for r, g, b in zip(red, green, blue, strict=True)]
        return " ".join([*rows, f"0 0 0 {_GAIN} 0"])


CASES = ("found (true positive)", "false alarm (false positive)", "missed (false negative)")
PALETTES = (
    Palette("paper", "the paper's", ("green", "blue", "red"), ((0, 255, 0), (0, 0, 255), (255, 0, 0))),
    Palette(
        "safe", "colour-blind safe", ("white", "orange", "sky blue"), ((255, 255, 255), (230, 159, 0), (86, 180, 233))
    ),
)


# Names of the page's own parts, which no table or figure may take; its others hold a dot, which an anchor never does.
_RESERVED = {"problems", "runs", "tables", "figures", "definitions", "content", "viewer", "viewer-caption", "to-dim"}
_RESERVED |= {f"{part}-{palette.name}" for part in ("to", "colours") for palette in PALETTES}


def write(report: Report, out: Path) -> tuple[Path, Path]:
    """Writes `report.html`, `report.md` and the figures of the latter into `out`, all of them or none; both paths."""
    text, contents = markdown(report)
    # A name on disk may hold what UTF-8 has no letter for.
    files.write(out, contents | {name: page.encode(errors="backslashreplace")
                                 for name, page in (("report.md", text), ("report.html", html(report)))})  # fmt: skip
    return out / "report.html", out / "report.md"


def html(report: Report) -> str:
    """The whole page."""
    names = [*(run.name for run in report.runs), *(t.name for t in report.tables), *(f.name for f in report.figures)]
    anchors = iter(_anchors(names))
    runs = [(next(anchors), run) for run in report.runs]
    tables = [(next(anchors), _table(table)) for table in report.tables]
    figures = [(next(anchors), figure) for figure in report.figures]
    terms = _terms(report.tables)
    template = _environment().get_template("report.html.jinja")
    return template.render(
        report=report,
        runs=runs,
        tables=tables,
        figures=figures,
        drawings={anchor: _inline_svg(figure, anchor) for anchor, figure in figures if isinstance(figure, Plot)},
        photos=_photos(report.figures),
        terms=terms,
        notes={name: column for column, name in reversed(terms.items())},
        answers=any(_has_answers(figure) for figure in report.figures),
        cases=CASES,
        palettes=PALETTES,
        kinds=KINDS,
        dim=" ".join(["{:.4f} {:.4f} {:.4f} 0 0".format(*(_DIMMED * x for x in _GREY))] * 3) + " 0 0 0 1 0",
    )


def markdown(report: Report) -> tuple[str, dict[str, bytes]]:
    """The text, and the files that it shows by their relative paths."""
    figures: list[tuple[Plot | Pictures, Any]] = []
    contents = {}
    for anchor, figure in zip(_anchors(f.name for f in report.figures), report.figures, strict=True):
        if isinstance(figure, Plot):
            path = f"figures/{anchor}.svg"
            contents[path] = _lone_svg(figure)
            figures.append((figure, path))
        else:
            rows, pictures = _thumbnails(figure, anchor)
            contents |= pictures
            figures.append((figure, rows))
    template = _environment().get_template("report.md.jinja")
    text = template.render(
        report=report,
        tables=[_table(table) for table in report.tables],
        figures=figures,
        legend=", ".join(f"{word}: {case}" for word, case in zip(PALETTES[0].words, CASES, strict=True)),
        kinds=KINDS,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", contents


# --- what templates are given ---


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("cracks_jax.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"sort_key": _sort_key, "data_uri": _data_uri, "md": _md, "fenced": _fenced}
    environment.tests |= {"plot": lambda figure: isinstance(figure, Plot), "with_answers": _has_answers}
    environment.globals["raw"] = lambda name: Markup(loader.get_source(environment, name)[0])
    return environment


def _anchors(names: Iterable[str]) -> list[str]:
    """Each name as a part of an address or path: ASCII letters, digits, - and _; unique even where case is ignored."""
    taken, out = set(_RESERVED), []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "part"
        anchor, count = base, 1
        while anchor.lower() in taken:
            count += 1
            anchor = f"{base}-{count}"
        taken.add(anchor.lower())
        out.append(anchor)
    return out


def _table(table: Table) -> dict[str, Any]:
    """A table with what its look needs: which columns are numbers, which kinds of rows there are, which groups."""
    values = [[row.cells[i].value for row in table.rows] for i in range(len(table.columns))]
    numeric = [any(v is not None for v in column) and not any(isinstance(v, str) for v in column) for column in values]
    kinds = {row.kind for row in table.rows}
    return {
        "table": table,
        "numeric": numeric,
        "kinds": [kind for kind in KINDS if kind in kinds] if kinds != {"ours"} else [],
        # A column of an unknown group would never be seen: it is always shown instead.
        "groups": [column.group if column.group in table.groups else "" for column in table.columns],
        "views": table.groups or ("",),
    }


def _terms(tables: Iterable[Table]) -> dict[Column, str]:
    """Every column that has a definition -> the name of the note that shows it; one note for equal definitions."""
    terms: dict[Column, str] = {}
    names: dict[Column, str] = {}
    for column in (column for table in tables for column in table.columns if column.definition):
        terms[column] = names.setdefault(replace(column, group=""), f"term.{len(names) + 1}")
    return terms


def _sort_key(cell: Cell) -> Markup:
    """What the page's script sorts by. A number that is none (NaN) has no place in any order, like a missing one."""
    if isinstance(cell.value, str):
        return Markup(' data-text="') + escape(cell.value) + Markup('"')
    if cell.value is None or math.isnan(cell.value):
        return Markup("")
    return Markup(f' data-number="{float(cell.value)!r}"'.replace("inf", "Infinity"))


def _shown(figure: Pictures) -> list[Picture]:
    return [picture for row in figure.rows for picture in row.pictures if picture is not None]


def _has_answers(figure: Plot | Pictures) -> bool:
    return isinstance(figure, Pictures) and any(picture.answer for picture in _shown(figure))


def _photos(figures: Iterable[Plot | Pictures]) -> dict[bytes, dict[str, Any]]:
    """Photographs that some picture shows, once each, even where two figures share one."""
    photos: dict[bytes, dict[str, Any]] = {}
    for figure in (figure for figure in figures if isinstance(figure, Pictures)):
        for picture in _shown(figure):
            if picture.photo:
                data = figure.photos[picture.photo]
                size = {"data": data, "width": picture.width, "height": picture.height}
                photos.setdefault(data, {"id": f"photo.{len(photos) + 1}", **size})
    return photos


def _data_uri(data: bytes) -> str:
    return f"data:{_kind(data)[0]};base64,{base64.b64encode(data).decode()}"


def _kind(data: bytes) -> tuple[str, str]:
    """Media type and suffix."""
    return ("image/png", "png") if data.startswith(b"\x89PNG") else ("image/jpeg", "jpg")


# --- drawings ---

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def _inline_svg(plot: Plot, anchor: str) -> Markup:
    """The drawing for a page that holds others: its names are its own, its style reaches no further than itself."""
    root = ElementTree.fromstring(plot.svg)
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag == f"{{{_SVG}}}metadata"]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        element.attrib = {
            key.removeprefix(f"{{{_XLINK}}}"): _renamed(key, value, anchor) for key, value in element.attrib.items()
        }
        if element.tag == "style" and element.text:
            element.text = re.sub(r"(^|[}\s])\*", rf'\1[id="{anchor}.svg"] *', element.text)
    root.attrib.pop("height", None)
    root.attrib |= {"xmlns": _SVG, "id": f"{anchor}.svg", "role": "img", "aria-label": plot.alt}
    return Markup(ElementTree.tostring(root, encoding="unicode").strip())


def _renamed(key: str, value: str, anchor: str) -> str:
    if key == "id":
        return f"{anchor}.{value}"
    if key.removeprefix(f"{{{_XLINK}}}") == "href" and value.startswith("#"):
        return f"#{anchor}.{value[1:]}"
    return re.sub(r"url\(#", f"url(#{anchor}.", value)


def _lone_svg(plot: Plot) -> bytes:
    """The drawing as a file. Alone it does not know the page's colours: dark on white suits every page."""
    return re.sub(r"<svg\b", '<svg style="color:#1b1f24;background:#fff"', plot.svg, count=1).encode()


# --- Markdown ---


def _md(text: str) -> str:
    """Plain text within a line or a cell of a table; a newline would end both."""
    text = re.sub(r"([\\`*\[\]<>|~$])", r"\\\1", " ".join(text.split())).replace("&", "&amp;")
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    # What would open a list or a head, were it the first of its line.
    return re.sub(r"^(\d*)([#+.)-]+)(?=\s|$)", r"\1\\\2", text)


def _fenced(code: str) -> str:
    """A block of code, its fence longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", code)), default=0))
    return f"{fence}sh\n{code}\n{fence}"


def _thumbnails(figure: Pictures, anchor: str) -> tuple[list[list[str]], dict[str, bytes]]:
    """Paths of the first rows' pictures ("" for an empty place), and the files."""
    rows: list[list[str]] = []
    files = {}
    for r, row in enumerate(figure.rows[:MARKDOWN_ROWS], 1):
        rows.append([])
        for c, picture in enumerate(row.pictures, 1):
            data = None if picture is None else _flat(picture, figure.photos)
            path = f"figures/{anchor}/{r}-{c}.{_kind(data)[1]}" if data else ""
            rows[-1].append(path)
            if data:
                files[path] = data
    return rows, files


def _flat(picture: Picture, photos: Mapping[str, bytes]) -> bytes:
    """A picture in one file: as it is, or laid over its photograph."""
    if picture.image is None or not picture.photo:
        return picture.image or photos[picture.photo]
    size = picture.width, picture.height
    layer = _decoded(picture.image, cv2.IMREAD_UNCHANGED)
    layer = cv2.resize(layer, size, interpolation=cv2.INTER_NEAREST)
    if layer.ndim == 2 or layer.shape[2] == 3:
        return picture.image  # covers the photograph
    photo = cv2.resize(_decoded(photos[picture.photo], cv2.IMREAD_COLOR), size, interpolation=cv2.INTER_AREA)
    if picture.answer:
        photo = cv2.cvtColor((_DIMMED * cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    alpha = layer[..., 3:].astype(np.float32) / 255
    flat = np.rint(photo * (1 - alpha) + layer[..., :3] * alpha).astype(np.uint8)
    # Colour at full resolution, for a crack is a pixel wide.
    full = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", flat, full)[1].tobytes()


def _decoded(data: bytes, flags: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("a picture of the report is neither PNG nor JPEG")
    return image
