"""Names of files that could steer a terminal, forge a line or break a record: refused, and shown escaped."""

import os
import shutil

import pytest

from tests.tiny_runs import command, finish, first, labelled, pavements, photo, start  # noqa: F401

FLOOR = ("--method", "background_difference")
NAMES = {
    "colours": ("a\x1b[31mroad", r"a\x1b[31mroad"),
    "a second line": ("a\ncracks-jax done", r"a\ncracks-jax done"),
    "a carriage return": ("a\rb", r"a\rb"),
    "an 8-bit control": ("a\x9bb", r"a\x9bb"),
    "delete": ("a\x7f", r"a\x7f"),
    "no UTF-8": (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
}


@pytest.fixture(params=NAMES)
def names(request):
    """(a bad name, how it is shown)."""
    return NAMES[request.param]


def is_safe(text: str) -> bool:
    """Text and line ends alone."""
    return all(line.isprintable() for line in text.split("\n"))


def test_a_photograph_of_such_a_name_is_skipped_in_a_folder_and_the_rest_is_done(tmp_path, labelled, names):  # noqa: F811
    name, safe = names
    photographs = labelled / "images"
    os.rename(first(photographs), photographs / f"{name}.png")
    (photographs / name).mkdir()
    shutil.copy(first(labelled / "masks"), photographs / name / "inner.png")
    answer = command("detect", photographs, "--out", tmp_path / "out", *FLOOR).ok()
    assert answer.out == f"2 written to {tmp_path / 'out'}, 2 skipped\n"
    for skipped in (f"{safe}.png", f"{safe}/inner.png"):
        assert f"skipped {photographs}/{skipped}: its name holds control characters, or bytes that are" in answer.err
    assert is_safe(answer.err.replace("\r", ""))  # the progress bar's own
    table = (tmp_path / "out" / "measurements.csv").read_text(encoding="utf-8")
    assert is_safe(table) and len(table.splitlines()) == 3
    assert all(path.name.isprintable() for path in (tmp_path / "out").rglob("*"))


def test_alone_it_is_refused(tmp_path, photo, names):  # noqa: F811
    name, safe = names
    for suffix in (".png", ".mp4"):
        shutil.copy(photo, tmp_path / f"{name}{suffix}")
        answer = command("detect", tmp_path / f"{name}{suffix}", "--out", tmp_path / "out", *FLOOR)
        answer.refused(1, f"{safe}{suffix}", "its name holds control characters", "rename it")
        assert is_safe(answer.err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["images", "masks", "both"])
def test_in_a_data_set_it_is_refused_and_listed(labelled, names, which):  # noqa: F811
    name, safe = names
    for part in ("images", "masks") if which == "both" else (which,):
        os.rename(first(labelled / part), labelled / part / f"{name}.png")
    evaluated = command("evaluate", *FLOOR, "--data", labelled, "--json")
    alone = "0000.png" if which == "images" else f"{safe}.png"
    evaluated.refused(1, *((f"{safe}.png: its name", "rename") if which == "both" else (alone, "data check")))
    checked = command("data", "check", labelled)
    assert checked.code == 1 and f"{safe}.png: " in checked.out and "broken" in checked.out.splitlines()[-1]
    assert is_safe(checked.out) and is_safe(evaluated.err.replace("\r", ""))


def test_in_folders_of_predictions_and_masks_it_is_refused(tmp_path, labelled, names):  # noqa: F811
    name, safe = names
    shutil.copytree(labelled / "masks", tmp_path / "found")
    for folder in (labelled / "masks", tmp_path / "found"):
        os.rename(first(folder), folder / f"{name}.png")
    answer = command("score", tmp_path / "found", labelled / "masks", "--workers", "0")
    answer.refused(1, f"{safe}.png: its name holds control characters")
    os.rename(labelled / "masks" / f"{name}.png", labelled / "masks" / "other.png")
    answer = command("score", tmp_path / "found", labelled / "masks", "--unmatched", "--workers", "0")
    assert answer.code == 0 and safe in answer.out and is_safe(answer.out)


def test_wherever_a_command_names_it_it_is_escaped(tmp_path, photo, names):  # noqa: F811
    name, safe = names
    odd = tmp_path / name
    said = [
        command("data", "check", odd),
        command("data", "check", tmp_path, odd),
        command("report", odd, "--out", tmp_path / "out"),
        command("evaluate", odd, "--data", pavements() / "test"),
        command("evaluate", *FLOOR, "--data", f"{pavements()}:{name}"),
        command("train", odd),
        command("detect", photo, "--out", tmp_path / "out", *FLOOR, "--set", f"detection.{name}=1"),
        command("detect", photo, "--out", tmp_path / "out", *FLOOR, "--rule", name),
        command("data", "prepare", name, pavements(), "--out", tmp_path / "out"),
    ]
    for answer in said:
        assert answer.code in (1, 2) and safe in answer.err.replace("\\\\", "\\") and is_safe(answer.err), answer
    placed = command("detect", photo, "--out", odd, *FLOOR).ok()
    assert placed.out == f"1 written to {tmp_path}/{safe}, 0 skipped\n"


def test_a_terminal_that_cannot_show_a_name_is_no_reason_to_fail(labelled, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    shutil.copy(first(labelled / "masks"), labelled / "images" / "stra\u00dfe.png")
    os.rename(first(labelled / "masks"), labelled / "masks" / os.fsdecode(b"caf\xe9.png"))
    answer = finish(start("data", "check", labelled))
    assert answer.code == 1 and "Traceback" not in answer.err
    assert r"stra\xdfe.png: image without mask" in answer.out and r"caf\udce9.png: mask without image" in answer.out
