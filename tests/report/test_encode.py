"""Pictures small enough for a page: hairlines stay, colours are pure, a thousand images fit into 30 MB."""

import dataclasses
import functools

import cv2
import numpy as np
import pytest

from cracks_jax.data.synthetic import draw_pavement
from cracks_jax.report import page, pictures
from cracks_jax.report.encode import LADDER, Budget, Scale, in_page
from cracks_jax.report.model import Picture
from tests.report import made, sample

GREEN, BLUE, RED = (0, 255, 0), (0, 0, 255), (255, 0, 0)
WHOLE = Scale(4096, 90)


def decoded(data: bytes) -> np.ndarray:
    """RGB, or RGBA where there is alpha, or grey."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]


def line(kind: str, offset: int, shape=(200, 300)) -> np.ndarray:
    """A crack of one pixel."""
    mask = np.zeros(shape, np.uint8)
    ends = {
        "horizontal": ((0, 60 + offset), (299, 60 + offset)),
        "vertical": ((60 + offset, 0), (60 + offset, 199)),
        "diagonal": ((offset, 0), (199 + offset, 199)),
        "slanted": ((0, 20 + offset), (299, 130 + offset)),
    }[kind]
    cv2.line(mask, *ends, 1)
    return mask > 0


# ---------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("factor", [2, 4, 5, 6.25, 10])
@pytest.mark.parametrize("kind", ["horizontal", "vertical", "diagonal", "slanted"])
@pytest.mark.parametrize(("case", "colour"), [("found", GREEN), ("alarm", BLUE), ("missed", RED)])
def test_a_crack_of_one_pixel_stays_a_line_in_its_colour(factor, kind, case, colour):
    scale = Scale(round(300 / factor), 80)
    for offset in range(8):
        mask, nothing = line(kind, offset), np.zeros((200, 300), bool)
        found, truth = {"found": (mask, mask), "alarm": (mask, nothing), "missed": (nothing, mask)}[case]
        shown = decoded(scale.answer(found, truth, "", "").image)
        opaque = shown[..., 3] > 0
        assert set(map(tuple, shown[opaque][:, :3])) == {colour}
        across = opaque.any(0) if kind != "vertical" else opaque.any(1)
        start, end = {"vertical": (0, 200), "diagonal": (offset, 200 + offset)}.get(kind, (0, 300))
        expected = np.unique((np.arange(start, end) * shown.shape[1] / 300).astype(int))[1:-1]
        assert across[expected].all(), "no gap along it"
        white = decoded(scale.mask(mask, "").image)
        np.testing.assert_array_equal(white > 0, opaque)
        assert set(np.unique(white)) == {0, 255}


def test_colours_are_pure_and_at_full_size_every_pixel_has_its_case(rng):
    found, truth = rng.random((61, 83)) < 0.4, rng.random((61, 83)) < 0.3
    shown = decoded(WHOLE.answer(found, truth, "photo", "words").image)
    assert shown.shape == (61, 83, 4) and set(np.unique(shown[..., 3])) == {0, 255}
    for colour, case in ((GREEN, found & truth), (BLUE, found & ~truth), (RED, truth & ~found)):
        np.testing.assert_array_equal((shown == (*colour, 255)).all(-1), case)
    assert not shown[~found & ~truth].any(), "nothing else is there"
    small = decoded(Scale(20, 50).answer(found, truth, "photo", "words").image)
    assert set(map(tuple, small[small[..., 3] > 0])) <= {(*colour, 255) for colour in (GREEN, BLUE, RED)}


def test_a_crack_that_is_half_found_is_shown_whole_when_it_is_shrunk():
    """A line of found, false and missed pixels in turn, each case too little to be seen alone."""
    truth, found = np.zeros((120, 600), bool), np.zeros((120, 600), bool)
    truth[59, ::3], truth[59, 2::3] = True, True
    found[59, ::3], found[59, 1::3] = True, True
    shown = decoded(Scale(60, 80).answer(found, truth, "", "").image)
    assert (shown[..., 3].max(0) == 255).all()


@pytest.mark.parametrize("shape", [(200, 300, 3), (300, 200, 3), (1, 700, 3), (48, 64, 3)])
@pytest.mark.parametrize("rung", [0, -1])
def test_a_picture_keeps_its_proportions_and_is_never_enlarged(shape, rung, rng):
    scale = Scale(*LADDER[rung])
    image = rng.integers(0, 256, shape, np.uint8)
    one = scale.picture(image, "it")
    assert decoded(one.image).shape == (one.height, one.width, 3)
    assert max(one.width, one.height) == min(max(shape), scale.side) and min(one.width, one.height) >= 1
    assert one.width / one.height == pytest.approx(shape[1] / shape[0], rel=0.04) or 1 in (one.width, one.height)
    assert (one.width, one.height) == (scale.photo(shape, "p", "").width, scale.photo(shape, "p", "").height)


def test_a_map_goes_from_black_to_its_own_greatest_value():
    ramp = np.tile(np.linspace(0, 0.02, 256, dtype=np.float32), (64, 1))
    shown = decoded(WHOLE.heat(ramp, "").image).astype(int).sum(-1).mean(0)
    assert shown[2] < 40 and shown[-3] > 560 and (np.diff(shown[::16]) > 0).all()
    assert decoded(WHOLE.heat(np.zeros((64, 64), np.float32), "").image).max() < 15, "nothing is not enlarged"


# ----------------------------------------------------------------------------------------------------- budget


def test_the_ladder_goes_down_in_size_and_quality():
    assert all(a[0] > b[0] and a[1] >= b[1] for a, b in zip(LADDER, LADDER[1:], strict=False))


@pytest.mark.parametrize("rows", [1, 3, 100, 1000])
@pytest.mark.parametrize("late", [False, True], ids=["mixed", "heavy-last"])
def test_rows_of_any_size_stay_within_the_budget(rows, late, rng):
    """Rows that differ tenfold, in any order or the heavy ones last: what is taken is counted by hand."""
    total, sides = 40_000 * rows, []
    weights = np.repeat([0.8, 5], (rows // 2, rows - rows // 2)) if late else rng.uniform(0.2, 2, rows)
    budget = Budget(total, rows)
    taken = 0
    for weight in weights:
        def make(scale: Scale, weight: float = weight):
            data = bytes(int(weight * scale.side**2 * scale.quality / 200))
            return [Picture("", scale.side, scale.side, data), None], {"p": data[: len(data) // 2]}

        drawn, photos = budget.fit(make)
        taken += in_page(drawn, photos)
        sides.append(drawn[0].width)
    assert sides == sorted(sides, reverse=True), "a figure does not grow back"
    assert taken <= total and sides[-1] > LADDER[-1][0]
    assert taken > 0.4 * total, "and it is used"


def test_a_budget_that_is_too_small_ends_at_the_smallest_scale():
    budget = Budget(1000, 10)
    for _ in range(10):
        drawn, _ = budget.fit(lambda scale: ([Picture("", scale.side, scale.side, bytes(500))], {}))
        assert drawn[0].width == LADDER[-1][0]


# ---------------------------------------------------------------------------------------- a thousand photographs

WHO = [f"upcracknet_deepcrack-cpu-masks-acce672{n}" for n in range(4)]


@functools.cache
def _pavement(position: int):
    return draw_pavement(0, position, (320, 384), cracked=True)


def _photographs(kind: str, count: int, side: int):
    """(photograph, labelled crack), each photograph another: crops of six drawn pavements, or noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (side, side, 3), np.uint8)
    for number in range(count):
        if kind == "noise":
            yield np.roll(noise, (number, number // side), (0, 1)), rng.random((side, side)) < 0.5
        else:
            image, mask = _pavement(number % 6)
            y, x = (number * 7) % (321 - side), (number * 11) % (385 - side)
            yield image[y : y + side, x : x + side], mask[y : y + side, x : x + side]


def _figure(kind: str, rows: int, side: int, budget: Budget, name: str, many: int = 4):
    """As `method_grid` draws it. Every photograph is encoded; of masks and answers a dozen, whose bytes rows share."""
    known: dict[tuple[int, int], list[Picture]] = {}

    def drawings():
        for number, (image, truth) in enumerate(_photographs(kind, rows, side)):
            def draw(scale: Scale, number: int = number, truth: np.ndarray = truth) -> list[Picture]:
                stem = f"20160222_081031_{number:04d}"
                key = (number % 12, scale.side)
                if key not in known:
                    rng = np.random.default_rng(number)
                    share = 0.5 if kind == "noise" else 0.002
                    found = [np.roll(truth, 1 + n, 0) ^ (rng.random(truth.shape) < share) for n in range(many)]
                    known[key] = [scale.mask(truth, ""), *(scale.answer(one, truth, stem, "") for one in found)]
                label, *answers = known[key]
                named = [dataclasses.replace(one, photo=stem, alt=f"{who} on {stem}: F1 49.0")
                         for one, who in zip(answers, WHO, strict=False)]  # fmt: skip
                return [dataclasses.replace(label, alt=f"labelled crack of {stem}"), *named]

            note = "; ".join(f"{who} F1 49.0" for who in WHO)
            yield pictures._Drawing(f"20160222_081031_{number:04d}", note, image, draw)

    return pictures._figure(name, ("photograph", "labelled", *WHO[:many]), "Caption.", budget, drawings())


@pytest.fixture(scope="module")
def other():
    """A figure beside method-grid, of photographs of noise, which no JPEG makes small."""
    return _figure("noise", 6, 480, Budget(pictures.OTHER_BYTES, 6), "failures", 3)


@pytest.mark.parametrize(("kind", "least"), [("pavement", 96), ("noise", LADDER[-1][0])])
def test_a_report_of_a_thousand_photographs_stays_below_30_mb(kind, least, other):
    """Four methods on 1,000 photographs of 256 x 256, with room for the two other figures and 2 MB of tables."""
    grid = _figure(kind, 1000, 256, Budget(pictures.GRID_BYTES, 1000), "method-grid")
    last = grid.rows[-1].pictures[0]
    assert last is not None and max(last.width, last.height) >= least
    assert len(set(grid.photos.values())) == 1000, "no two photographs are the same"
    empty, alone = (len(page.html(made.empty_report(*figures))) for figures in ((), (grid,)))
    assert alone - empty <= pictures.GRID_BYTES or max(last.width, last.height) == LADDER[-1][0]
    whole = len(page.html(dataclasses.replace(sample.report(), figures=(grid, other))))
    assert whole + 2 * pictures.OTHER_BYTES < 30_000_000 - 2_000_000


def test_what_a_picture_takes_in_the_page_is_counted_in_full(other):
    empty = len(page.html(made.empty_report()))
    counted = sum(in_page(row.pictures, {}) for row in other.rows) + in_page([], other.photos)
    assert len(page.html(made.empty_report(other))) - empty <= counted + 3000, "its head, legend and colours"
    assert 0.4 * pictures.OTHER_BYTES < counted <= pictures.OTHER_BYTES
