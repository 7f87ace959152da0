"""The page as text: whole in itself, safe against what names hold, the same for the same report, and as Markdown."""

import base64
import dataclasses
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from cracks_jax import figures
from cracks_jax.errors import CracksError
from cracks_jax.report import page
from cracks_jax.report.model import Cell, Column, Plot, Report, Row, Table
from tests.report import sample

VOID = {"meta", "input", "br", "hr", "img", "link"}


class Parsed(HTMLParser):
    """Every tag with its attributes and where it stands, the texts, and tags that were not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))


@pytest.fixture(scope="module")
def html() -> str:
    return page.html(sample.report())


@pytest.fixture(scope="module")
def parsed(html) -> Parsed:
    return Parsed(html)


def test_page_is_whole_in_itself(html, parsed):
    assert not parsed.open, "every tag is closed"
    for tag, attributes in parsed.tags:
        assert tag not in {"link", "iframe", "base", "object", "embed", "metadata"}
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name, "")
            assert value == "" or value.startswith(("#", "data:image/")), f"{tag} {name}={value[:60]}"
        assert "http" not in attributes.get("style", "")
    for tag, text in parsed.texts:
        assert tag != "style" or not re.search(r"@import|url\((?!#)", text)
    policy = next(a["content"] for t, a in parsed.tags if t == "meta" and "http-equiv" in a)
    assert policy.split("; ") == [
        "default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", "script-src 'unsafe-inline'"
    ]  # fmt: skip


def test_names_are_text_everywhere(html, parsed):
    assert [text.strip()[:13] for tag, text in parsed.texts if tag == "script"] == ['"use strict";']
    assert "<script>alert" not in html
    assert sum(sample.NASTY in text for _, text in parsed.texts) >= 10
    labels = [a["aria-label"] for t, a in parsed.tags if t == "svg" and "aria-label" in a]
    assert any(label.endswith(sample.NASTY) for label in labels)


def test_anchors_are_unique_and_links_arrive(parsed):
    ids = [a["id"] for _, a in parsed.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for t, a in parsed.tags if t in ("a", "use") and a.get("href", "").startswith("#")]
    targets += [name for _, a in parsed.tags for name in a.get("aria-labelledby", "").split()]
    targets += [a["popovertarget"] for _, a in parsed.tags if "popovertarget" in a]
    assert targets and set(targets) <= set(ids)


@pytest.mark.parametrize("names", [("a", "a", "A", "a-2"), ("", "/", "..", "viewer"), ("to-safe", "é", "Ω" * 99)])
def test_anchors_suit_addresses_and_files(names):
    anchors = page._anchors(names)
    assert len({a.lower() for a in anchors}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", a) for a in anchors)
    assert page._anchors(["f1_by_step"]) == ["f1_by_step"]


def test_every_photograph_is_embedded_once(html):
    for shade in (20, 21, 22):
        assert html.count(base64.b64encode(sample.photo(shade)).decode()) == 1, "two figures share the first"
    assert base64.b64encode(sample.photo(90)).decode() not in html, "nobody shows this one"
    assert len(re.findall(r'<use[^>]*href="#photo\.1"', html)) == 3


def test_every_picture_says_what_it_is(parsed):
    drawings = [a for t, a in parsed.tags if t == "svg" and "store" not in a.get("class", "")]
    assert len(drawings) == 2 + 8 + 2
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)


def test_tables_say_what_is_a_head_and_what_sorts(parsed):
    tables = sum(t == "table" for t, _ in parsed.tags)
    assert tables == 4 and sum(t == "caption" for t, _ in parsed.tags) == tables
    assert all(a.get("scope") in ("row", "col") for t, a in parsed.tags if t == "th")
    numbers = [float(a["data-number"]) for t, a in parsed.tags if t == "td" and "data-number" in a]
    assert {49.0, 33.0, 100.25, 44.0} <= set(numbers) and not np.isnan(numbers).any()
    assert page._sort_key(Cell("", float("-inf"))) == ' data-number="-Infinity"', "as JavaScript reads it"
    assert page._sort_key(Cell("x")) == page._sort_key(Cell("", float("nan"))) == ""


def test_kinds_of_rows_are_said_in_words(parsed):
    texts = " ".join(text for _, text in parsed.texts)
    assert "printed in the paper, not measured here" in texts and "a filter without a network" in texts
    marks = [text for tag, text in parsed.texts if tag == "span" and text in ("ours", "floor", "paper")]
    assert sorted(marks) == ["floor", "floor", "paper", "paper"], "a mark in the row, and one in the legend"


def test_column_of_an_unknown_group_is_always_shown():
    table = Table("t", "t", (Column("a"), Column("b", group="nowhere")), (Row((Cell("x"), Cell("y"))),), "", ("g",))
    report = dataclasses.replace(sample.report(), tables=(table,))
    assert 'data-group="nowhere"' not in page.html(report)
    assert "| x | y |" in page.markdown(report)[0]


def test_drawings_do_not_reach_into_each_other(html):
    assert 'clip-path="url(#losses.p1)"' in html and 'href="#losses.m1"' in html
    assert '[id="losses.svg"] *{stroke-linejoin' in html
    assert not re.search(r"<\?xml|<!DOCTYPE svg|<metadata", html)


def test_palettes_are_those_of_the_sheets():
    assert page.PALETTES[1].colours == (figures.FOUND, figures.FALSE_ALARM, figures.MISSED)
    assert page._DIMMED == figures._DIMMED


def test_same_report_same_bytes(tmp_path):
    for name in ("a", "b"):
        page.write(sample.report(), tmp_path / name)
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in _files(tmp_path / n)} for n in ("a", "b")]
    assert files[0] == files[1] and len(files[0]) == 2 + 2 + 8 + 2 + 1, "and the list of the figures"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_empty_report_is_a_page():
    empty = Report("t", "l", (), (), (), (), ())
    assert not Parsed(page.html(empty)).open
    assert "What is not whole" not in page.html(empty)
    assert page.markdown(empty) == ("# t\n\nl\n", {})


def test_markdown_stays_in_its_cells():
    text, files = page.markdown(sample.report())
    assert not re.search(r"(?<!\\)<", text), "no HTML"
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert r"x y \| z \`q\` \<b\>" in text
    assert "**pooled**" in text and "**BSDS**" in text
    assert "| CrackSeg | 49.0 (95 %: 1 to 2) | 32.5 (95 %: 1 to 2) |" in text
    assert "*74.0*" in text and "[paper]" in text
    shown = re.findall(r"!\[(.*?[^\\])\]\((.*?)\)", text)
    assert {path for _, path in shown} == set(files) and all(alt for alt, _ in shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1. one", r"1\. one"), ("49.0", "49.0"), ("-0.5", "-0.5"), ("- a", r"\- a"), ("# a", r"\# a"), ("a_b", "a_b"),
        ("_a_", r"\_a\_"), ("$x$ & y", r"\$x\$ &amp; y"), ("a\n\n| b", r"a \| b"), ("---", r"\---"), ("\\", r"\\"),
    ],
)  # fmt: skip
def test_markdown_shows_what_was_written(text, shown):
    assert page._md(text) == shown


def test_code_cannot_close_its_fence():
    assert page._fenced("a ```` b") == "`````sh\na ```` b\n`````"


def test_markdown_shows_the_first_rows_and_counts_the_others(monkeypatch):
    monkeypatch.setattr(page, "MARKDOWN_ROWS", 2)
    text, files = page.markdown(sample.report(rows=5))
    assert "3 more rows are in `report.html`." in text
    assert sorted(f for f in files if f.startswith("figures/answers/")) == [
        f"figures/answers/{name}" for name in ("1-1.jpg", "1-2.png", "1-3.jpg", "2-1.jpg", "2-3.jpg")
    ]


def test_markdown_lays_an_answer_over_its_dimmed_photograph():
    _, files = page.markdown(sample.report())
    flat = _rgb(files["figures/answers/1-3.jpg"])
    for (x, y), colour in sample.BLOCKS.values():
        np.testing.assert_allclose(flat[y, x].astype(int), colour, atol=6)
        assert np.argmax(flat[5, x]) == np.argmax(colour), "a hairline keeps its colour"
    photo = _rgb(sample.photo(20))
    np.testing.assert_allclose(flat[55].mean(-1), 0.4 * photo[55].mean(-1), atol=4)
    assert files["figures/answers/1-1.jpg"] == sample.photo(20)


def _rgb(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize("blocked", ["report.html", "report.md", "figures/losses.svg"])
def test_failing_write_leaves_what_was_there(tmp_path, blocked):
    page.write(sample.report(), tmp_path)
    (tmp_path / blocked).unlink()
    (tmp_path / blocked).mkdir()
    before = {path: path.read_bytes() for path in _files(tmp_path)}
    with pytest.raises(CracksError, match=rf"{re.escape(blocked)}: cannot be written .*folder"):
        page.write(dataclasses.replace(sample.report(rows=4), title="new"), tmp_path)
    assert {path: path.read_bytes() for path in _files(tmp_path)} == before


def test_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    page.write(sample.report(), tmp_path)
    before = {path: path.read_bytes() for path in _files(tmp_path)}

    def full(path, data):
        if path.name.startswith("report.html"):
            Path.open(path, "wb").close()
            raise OSError(28, os.strerror(28))
        return real(path, data)

    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CracksError, match=r"report\.html: cannot be written \(No space left on device\); free space"):
        page.write(dataclasses.replace(sample.report(), title="new"), tmp_path)
    assert {path: path.read_bytes() for path in _files(tmp_path)} == before


def test_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text(json.dumps({}))
    with pytest.raises(CracksError, match="out.*cannot be written"):
        page.write(sample.report(), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "{}"


def test_drawing_of_matplotlib_is_taken():
    """The real thing: its header, its metadata, its names, in page and file."""
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 2], [2, 1])
    file = io.StringIO()
    figure.savefig(file, format="svg")
    report = dataclasses.replace(sample.report(), figures=(Plot("real", "Real", file.getvalue(), "a line that falls"),))
    html = page.html(report)
    assert not Parsed(html).open and 'id="real.axes_1"' in html and "purl.org" not in html
    assert b"background:#fff" in page.markdown(report)[1]["figures/real.svg"]
