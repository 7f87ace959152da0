"""The page is made of the records and of nothing else."""

import json

import pytest

from cracks_jax.benchmark import page, suite
from cracks_jax.errors import CracksError


def _record(kind="step", **changes):
    computed = {
        "gflop_per_image": {"hand": 70.25, "compiled": None},
        "matrix_gflops": {"float32": 200.0},
        "matrix_share": 0.375,
        "compile_seconds": {"cold": 12.0, "warm": 3.0},
        "memory": {"program": {"total": 2**30}, "process_peak": 2**32, "process_peak_ours_alone": 2**31},
    }
    return {
        "label": f"{kind}-upcracknet",
        "kind": kind,
        "system": "upcracknet",
        "batch": 4,
        "size": 256,
        "losses": "core4",
        "narrow": 1,
        "precision": "highest",
        "environment": {"XLA_FLAGS": "--flag"},
        "software": {"python": "3.11", "jax": "0.10.2", "flax": "0.12", "cracks-jax": "0.1.0", "numpy": "2"},
        "device": {"kind": "CPU, 2 cores", "processor": "Some Processor", "threads": 2},
        "git_revision": "abcdef0123456789",
        "seconds": 1.25,
        "seconds_quartiles": [1.2, 1.3],
        "images_per_second": 3.2,
        **(computed if kind in ("step", "infer") else {}),
        **changes,
    }


PEERS = {
    "peers": {
        "eager": {"seconds": 1.5, "seconds_quartiles": [1.4, 1.6]},
        "compile": {"missing": "RuntimeError: no compiler"},
    },
    "best_peer": "eager",
    "ratio": 1.2,
    "ratio_quartiles": [1.1, 1.3],
}


def _write(folder, *records):
    for number, record in enumerate(records):
        (folder / f"{number}.json").write_text(json.dumps(record))


def test_every_kind_of_record_has_its_line_with_device_and_versions(tmp_path):
    cached = {"images_per_second": 2000.0, "images_per_second_per_core": 1000.0}
    plan = {"target_images_per_second": 3989, "waiting": 0.05, "workers": {"decoding": 13, "cached": 7}, "cores": 2}
    read = {"images": 48, "workers": 1, "images_per_second_per_core": 7.5, "cached": cached, "plan": plan}
    input_ = _record("input", data="drawn:train", **read)
    fed = _record("pipeline", data="drawn:train", workers=0, waiting_share=0.0123, compute={**PEERS["peers"]["eager"]})
    _write(tmp_path, _record(**PEERS), _record("infer", batch_norm="window"), input_, fed)
    text = page.write_page(tmp_path).read_text()
    parts = ("## CPU, 2 cores (Some Processor), 2 threads", "jax 0.10.2", "revision abcdef0123", "XLA_FLAGS=--flag")
    parts += ("**1.20** (1.10 to 1.30)", "37.5 %", "70.2", "2.00 GiB", "12.0 s, 3.0 s", "1.5 (1.4 to 1.6)")
    parts += ("- step, upcracknet, batch 4, 256 px, core4, compile: RuntimeError: no compiler", "window norm")
    parts += ("drawn:train, 48 images", "2000", "1.23 %", "| 3989 | 13 | 7 |")
    for part in parts:
        assert part in text, part


def test_a_page_is_written_anew_between_its_markers_only(tmp_path):
    _write(tmp_path, _record())
    written = page.write_page(tmp_path)
    written.write_text(written.read_text() + "\nA line of our own.\n")
    _write(tmp_path, _record(seconds=9.75))
    text = page.write_page(tmp_path).read_text()
    assert "9.75" in text and "1.25" not in text and text.endswith("\nA line of our own.\n")


def test_records_of_two_machines_stand_apart(tmp_path):
    other = {"kind": "NVIDIA", "processor": None, "threads": 16}
    _write(tmp_path, _record(), _record(device=other))
    assert page.tables(tmp_path).count("## ") == 2


def test_a_folder_without_records_or_a_page_without_markers_is_refused(tmp_path):
    with pytest.raises(CracksError, match="holds no records"):
        page.write_page(tmp_path)
    _write(tmp_path, _record())
    (tmp_path / "README.md").write_text("nothing\n")
    with pytest.raises(CracksError, match="README.md: has no lines"):
        page.write_page(tmp_path)


def test_the_text_for_a_person_names_ratio_and_limit():
    text = page.lines(_record(**PEERS))
    parts = ("1.25 s", "3.2 images/s", "37.5 % of the machine's 200 GFLOP/s", "ratio 1.200 (1.100 to 1.300): eager")
    for part in parts:
        assert part in text, part


def test_the_full_table_holds_what_the_issue_lists():
    names = suite.entries(quick=False, data="drawn")
    assert {"step-upcracknet-b4", "step-crackseg-r50-b4", "infer-crackseg-r50-b1-running"} <= set(names)
    assert {"infer-upcracknet-b1-window", "input-crackseg-r50", "pipeline-upcracknet"} <= set(names)
    # By hand: 346,150 GFLOP/s over the 86.8 GFLOP of a step of UP-CrackNet and the 133.2 of one of CrackSeg.
    rates = [int(names[f"input-{system}"][-1]) for system in ("upcracknet", "crackseg-r50")]
    assert rates == pytest.approx([346150 / 86.8, 346150 / 133.2], rel=1e-3)
    assert all("--peer" in words for name, words in names.items() if name.startswith(("step", "infer")))


def test_small_photographs_beside_a_large_one_by_pixel_and_by_what_the_network_sees():
    """By hand: 2 s and 1 s for each megapixel; the network sees 2 and 1.25 times the pixels, so 1 s and 0.8 s."""
    small = {"images": 10, "width": 192, "height": 192, "megapixels": 0.4, "scored_megapixels": 0.8}
    large = {"images": 1, "width": 2000, "height": 2000, "megapixels": 4.0, "scored_megapixels": 5.0}
    text = page._small_beside_large(small | {"seconds_per_megapixel": 2.0}, large | {"seconds_per_megapixel": 1.0})
    assert text == (
        "10 photographs of 192x192: 2.00 times the seconds per megapixel of one of 2000x2000; "
        "1.25 times per megapixel that the network sees"
    )
