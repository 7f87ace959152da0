"""What a report holds, before it becomes a page: tables, plots and rows of pictures.

Who makes it: `report/gather.py`, `tables.py`, `plots.py`, `pictures.py`. Who shows it: `report/page.py`, as HTML and as
Markdown. Nothing here knows of files, runs or browsers.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One place of a table.

    Attributes:
      text: as shown.
      value: what it sorts by; None sorts last, whichever way.
      note: small print under it, such as an interval.
    """

    text: str
    value: float | str | None = None
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      label: its head.
      key: a metric's exact name, "" for what is no metric.
      definition: what it means, with formula and source; shown on one click.
      group: the metric convention that it belongs to (`Table.groups`), "" where it is always shown.
    """

    label: str
    key: str = ""
    definition: str = ""
    group: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table; `kind` is `ours`, `floor` or `paper` (printed there, not measured here)."""

    cells: tuple[Cell, ...]
    kind: str = "ours"


@dataclass(frozen=True)
class Table:
    """A table; `name` is its anchor. `groups`: the conventions to choose from, the first is shown."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What is known of one run.

    Attributes:
      state: `finished`, or what it is instead ("stopped at step 120 of 2,400").
      facts: (name, value), in order.
      settings: (setting, value, default) of what differs from the defaults.
      command: that repeats it.
    """

    name: str
    state: str
    finished: bool
    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str, str], ...] = ()
    command: str = ""


@dataclass(frozen=True)
class Plot:
    """A drawing as SVG whose lines and letters take the page's colour. `alt` says in words what it shows."""

    name: str
    title: str
    svg: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
      alt: what it is, in words.
      width, height: in pixels.
      image: JPEG or PNG; None where only `photo` is shown.
      photo: the key of a photograph in `Pictures.photos`, shown behind `image`; "" for none. Behind an `answer` it is
        shown dark and grey.
      answer: `image` is a PNG of three pure colours on nothing: green = found, blue = false alarm, red = missed.
    """

    alt: str
    width: int
    height: int
    image: bytes | None = None
    photo: str = ""
    answer: bool = False


@dataclass(frozen=True)
class PictureRow:
    """Pictures side by side; an empty place is None. `label` names the row, `note` is small print under it."""

    label: str
    pictures: tuple[Picture | None, ...]
    note: str = ""


@dataclass(frozen=True)
class Pictures:
    """A figure of rows of pictures; `photos` are the JPEGs that its pictures share, each kept once."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[PictureRow, ...]
    caption: str = ""
    photos: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All of it. `problems`: what could not be read or is not finished, by name, in plain words."""

    title: str
    lead: str
    problems: tuple[str, ...]
    runs: tuple[Facts, ...]
    tables: tuple[Table, ...]
    figures: tuple[Plot | Pictures, ...]
    definitions: tuple[tuple[str, str], ...]
