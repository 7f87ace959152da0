"""A small report with everything that a report can hold, under names that try to break out of a page."""

import cv2
import numpy as np

from cracks_jax.report.model import Cell, Column, Facts, Picture, PictureRow, Pictures, Plot, Report, Row, Table

NASTY = """<script>alert("x")</script> & 'a' | `b` </title>"""
WIDTH, HEIGHT = 96, 64
# Where the answer below is wholly of one case: (x, y) in its pixels, with the colour that it has there.
BLOCKS = {"found": ((15, 32), (0, 255, 0)), "alarm": ((47, 32), (0, 0, 255)), "missed": ((79, 32), (255, 0, 0))}


def report(rows: int = 3) -> Report:
    """`rows`: of pictures in the first figure."""
    return Report(
        title=f"Cracks found, and missed {NASTY}",
        lead="Two methods on drawn pavement.\nhttps://example.org/ is only named here, and nothing is fetched.",
        problems=(f"runs/{NASTY}: not finished", "runs/lost: records.jsonl is missing"),
        runs=(
            Facts(
                name=f"crackseg {NASTY}",
                state="finished",
                finished=True,
                facts=(("data", "pavement:test"), ("seed", "0"), ("device", f"cpu {NASTY}")),
                settings=(("training.steps", "100", "20,000"), (f"name|{NASTY}", "a\nb", "none")),
                command="cracks-jax train experiments/crackseg_deepcrack.py:smoke --set data.name='a `b`'",
            ),
            Facts(name="up", state="stopped at step 120 of 2,400", finished=False, facts=(("seed", "1"),)),
        ),
        tables=(_scores(), _lengths(), _plain()),
        figures=(_plot("losses", "Losses by step"), _plot(f"losses {NASTY}", NASTY), answers(rows), _shared()),
        definitions=((f"f1 {NASTY}", "2 P R / (P + R)\nSource: Table 1."), ("iou", "TP / (TP + FP + FN)")),
    )


def _scores() -> Table:
    """Two conventions, every kind of row, a number that is missing and one that is none."""
    f1 = Column("F1", "f1", f"Harmonic mean of precision and recall. {NASTY}", "pooled")
    columns = (Column("method"), f1, Column("IoU", "iou", "Jaccard.", "pooled"), Column("ODS", "ods", "Best.", "BSDS"))

    def row(name: str, f1: float | None, iou: float | None, ods: float | None, kind: str) -> Row:
        values = (Cell("missing") if v is None else Cell(f"{v:.1f}", v, "95 %: 1 to 2") for v in (f1, iou, ods))
        return Row((Cell(name, name), *values), kind)

    rows = (
        row("CrackSeg", 49.0, 32.5, 60.0, "ours"),
        row("Zebra", None, 33.0, None, "ours"),
        row("floor", 41.1, 25.9, 9.5, "floor"),
        row(f"UP-CrackNet {NASTY}", 74.0, float("nan"), 100.25, "paper"),
    )
    return Table("scores", "Scores", columns, rows, f"Percent. {NASTY}", ("pooled", "BSDS"))


def _lengths() -> Table:
    """Wider than a phone; its name is taken already."""
    columns = (Column("road"), *(Column(f"length of class {i}", "", "In mm." if i else "") for i in range(12)))
    rows = tuple(
        Row((Cell(name, name), *(Cell(f"{i * k:,} mm", float(i * k)) for i in range(12))))
        for k, name in enumerate(("b road", "A road", "é road", "10 road", "9 road"))
    )
    return Table("scores", "Lengths\nby class", columns, rows)


def _plain() -> Table:
    return Table(f"table/../{NASTY}", NASTY, (Column("a|b"),), (Row((Cell("x\ny | z `q` <b>", "x"),)),))


def _plot(name: str, title: str) -> Plot:
    svg = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="288pt" height="144pt" viewBox="0 0 288 144"
 xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata><a href="http://example.org/"/></metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style>
 <clipPath id="p1"><rect width="288" height="144"/></clipPath>
 <path id="m1" d="M-3 0 L3 0" stroke="currentColor"/></defs>
 <g id="axes_1" clip-path="url(#p1)"><path d="M20 20 V120 H270" fill="none" stroke="currentColor"/>
 <path d="M20 30 C80 110 150 100 270 110" fill="none" stroke="#d55e00" stroke-width="2"/>
 <use xlink:href="#m1" x="20" y="60"/><text x="120" y="138" fill="currentColor" font-size="10">step</text></g>
</svg>"""
    return Plot(name, title, svg, f"A loss that falls, {NASTY}", f"The caption. {NASTY}")


def photo(shade: int) -> bytes:
    ramp = np.full((HEIGHT, WIDTH, 3), shade, np.uint8) + np.arange(WIDTH, dtype=np.uint8)[None, :, None] // 2
    return cv2.imencode(".jpg", ramp)[1].tobytes()


def answer() -> bytes:
    """Three blocks, one of each case, and a hairline of each on nothing."""
    layer = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    for (x, y), (r, g, b) in BLOCKS.values():
        layer[y - 10 : y + 10, x - 10 : x + 10] = (b, g, r, 255)
        layer[5, x - 10 : x + 10] = (b, g, r, 255)
    return cv2.imencode(".png", layer)[1].tobytes()


def _mask() -> bytes:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[30:33] = 255
    return cv2.imencode(".png", mask)[1].tobytes()


def answers(rows: int) -> Pictures:
    """Photograph, mask, answer; in the second row the mask is missing."""
    photos = {f"p{i}": photo(20 + i) for i in range(rows)}
    size = WIDTH, HEIGHT
    return Pictures(
        name="answers",
        title="What was found",
        columns=("photograph", "mask", f"CrackSeg {NASTY}"),
        rows=tuple(
            PictureRow(
                f"road {i} {NASTY if i == 0 else ''}",
                (
                    Picture(f"photograph {i}", *size, photo=f"p{i}"),
                    None if i == 1 else Picture(f"mask {i} {NASTY}", *size, image=_mask()),
                    Picture(f"answer {i}", *size, image=answer(), photo=f"p{i}", answer=True),
                ),
                "F1 49.0",
            )
            for i in range(rows)
        ),
        caption="Rows by name.",
        photos=photos | {"unused": photo(90)},
    )


def _shared() -> Pictures:
    """A photograph that the other figure has too, a score over it, and an answer without a photograph."""
    score = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    score[20:40] = (255, 0, 255, 128)
    pictures = (
        Picture("score over the photograph", WIDTH, HEIGHT, cv2.imencode(".png", score)[1].tobytes(), "same"),
        Picture("answer alone", WIDTH, HEIGHT, answer(), answer=True),
    )
    rows = (PictureRow("one", pictures),)
    return Pictures("figures", "Scores as pictures", ("score", "answer"), rows, photos={"same": photo(20)})
