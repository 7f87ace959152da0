"""Records as text for a person and as a Markdown page; no figure of the page is typed by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError
from cracks_jax.runtime.records import read_json

PAGE = "README.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
_PREAMBLE = f"""# Benchmarks: seconds, operations and the distance to the machine's limit

Made by `python tools/benchmark.py all --out experiments/benchmarks`: one JSON record for each line, and this page. Each
record holds every repeat, the command, the settings, the versions and the revision. Contenders take turns on the same
fresh inputs, each turn an untimed run and a timed one (as a step follows a step); *seconds* are medians with their
quartiles, *ratio* is the best peer's seconds / ours, pair by pair (above 1 we are ahead). GFLOP per image are counted
by hand from the layers' shapes (convolutions, 2 operations per multiply-add, taps on padding included, what a step
needs and no more; `cracks-jax systems` leaves out taps on padding) and as the compiler counts its own program. *Share*
is the hand count per second over the rate of the machine's best large matrix product, measured in the same process.
Members at a time and whole sweeps are no part of `all`: their records hold their own commands.

{BEGIN}
{END}
"""
Record = dict[str, Any]


def write_page(folder: Path) -> Path:
    """The folder's page with the tables of its records between the two markers; the rest stays as it is."""
    page = folder / PAGE
    text = page.read_text() if page.exists() else _PREAMBLE
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise CracksError(f"{page}: has no lines {BEGIN} and {END}; add both where the tables belong")
    page.write_text(f"{head}{BEGIN}\n\n{tables(folder)}\n\n{END}{tail}")
    return page


def tables(folder: Path) -> str:
    """Every record of a folder, by machine, software and revision, then by kind."""
    records = [read_json(path) for path in sorted(folder.glob("*.json"))]
    records = [record for record in records if record.get("kind") in _SHOWN]
    if not records:
        raise CracksError(f"{folder}: holds no records; `python tools/benchmark.py all --out {folder.name}` makes them")
    parts = []
    for machine in sorted({_machine(record) for record in records}):
        found = sorted((record for record in records if _machine(record) == machine), key=_order)
        revisions = sorted({(record["git_revision"] or "unknown")[:10] for record in found})
        parts.append(f"## {machine[0]}\n\n{machine[1]}; revision {', '.join(revisions)}")
        for title, kinds, table in _SECTIONS:
            lines = table([record for record in found if record["kind"] in kinds])
            parts += [f"**{title}**\n\n{lines}"] if lines else []
    return "\n\n".join(parts)


def lines(record: Record) -> str:
    """One record for a person to read."""
    alone = {"detect": _detections, "forms": _forms, "members": _members, "sweep": _sweeps}
    if record["kind"] in alone:
        return alone[record["kind"]]([record])
    q1, q3 = record["seconds_quartiles"]
    found = [f"{record['label']}: {record['seconds']:.4g} s (quartiles {q1:.4g} to {q3:.4g}), {record['batch']} images"]
    found.append(f"  {record['images_per_second']:.4g} images/s, {_device(record)}, precision {record['precision']}")
    if "gflop_per_image" in record:
        found += _computed_lines(record)
    for name, peer in record.get("peers", {}).items():
        found.append(f"  {name}: " + (peer["missing"] if "missing" in peer else f"{peer['seconds']:.4g} s"))
    if record.get("ratio") is not None:
        low, high = record["ratio_quartiles"]
        found.append(f"  ratio {record['ratio']:.3f} ({low:.3f} to {high:.3f}): {record['best_peer']} / ours")
    if record["kind"] == "input":
        found += _input_lines(record)
    if record["kind"] == "pipeline":
        found.append(f"  waiting for input: {_percent(record['waiting_share'])} of a step's time")
        if "input_cost" in record:
            found.append(f"  {record['compute']['seconds']:.4g} s a step on batches in memory")
    return "\n".join(found)


def _computed_lines(record: Record) -> list[str]:
    gflop, compiled = record["gflop_per_image"], record["compile_seconds"]
    counted = "unknown" if gflop["compiled"] is None else f"{gflop['compiled']:.2f}"
    rate = record["matrix_gflops"]["float32"]
    return [
        f"  {gflop['hand']:.2f} GFLOP per image by hand, {counted} in the compiled program",
        f"  {_percent(record['matrix_share'])} of the machine's {rate:.0f} GFLOP/s in float32 matrix products",
        f"  compiled in {compiled['cold']:.1f} s, {compiled['warm']:.1f} s from the cache",
        f"  memory: program {_gib(record['memory']['program'].get('total'))}, process "
        f"{_gib(record['memory'].get('process_peak_ours_alone', record['memory']['process_peak']))}",
    ]


def _input_lines(record: Record) -> list[str]:
    found = [
        f"  decoding: {_rate(record['images_per_second_per_core'])} images/s for each core",
        f"  decoded before: {_rate(record['cached']['images_per_second'])} images/s, "
        f"{_rate(record['cached']['images_per_second_per_core'])} for each core",
    ]
    if "plan" in record:
        asked = record["plan"]
        workers = ", ".join(f"{'unknown' if n is None else n} {way}" for way, n in asked["workers"].items())
        found.append(
            f"  workers to wait under {_percent(asked['waiting'])} at {asked['target_images_per_second']:g} images/s: "
            f"{workers} ({asked['cores']} cores here)"
        )
    return found


def _computed(records: list[Record]) -> str:
    rows: list[tuple[str, ...]] = [
        ("what", "images/s", "seconds", "best peer", "its seconds", "ratio", "GFLOP/image by hand", "compiled")
        + ("share", "memory, ours alone", "compile cold, warm")
    ]
    for r in records:
        best = r.get("best_peer")
        rows.append(
            (
                _what(r),
                f"{r['images_per_second']:.2f}",
                _seconds(r),
                best or "-",
                _seconds(r["peers"][best]) if best else "-",
                "-" if r.get("ratio") is None else f"**{r['ratio']:.2f}** ({_range(r['ratio_quartiles'], '.2f')})",
                f"{r['gflop_per_image']['hand']:.1f}",
                "-" if r["gflop_per_image"]["compiled"] is None else f"{r['gflop_per_image']['compiled']:.1f}",
                _percent(r["matrix_share"]),
                _gib(r["memory"].get("process_peak_ours_alone")),
                f"{r['compile_seconds']['cold']:.1f} s, {r['compile_seconds']['warm']:.1f} s",
            )
        )
    return _table(rows)


def _peers(records: list[Record]) -> str:
    records = [record for record in records if "peers" in record]
    names = list(dict.fromkeys(name for r in records for name in r["peers"]))
    rows = [("what", "ours", *names)]
    missing = []
    for r in records:
        cells = []
        for name in names:
            peer = r["peers"].get(name)
            if peer is not None and "missing" in peer:
                missing.append(f"- {_what(r)}, {name}: {peer['missing']}")
            cells.append("-" if peer is None else "missing" if "missing" in peer else _seconds(peer))
        rows.append((_what(r), _seconds(r), *cells))
    return "\n".join([_table(rows), *([""] if missing else []), *missing])


def _inputs(records: list[Record]) -> str:
    rates = ("images/s decoding", "for each core", "images/s decoded before", "for each core")
    plans = ("a training's images/s", "workers for it, decoding", "decoded before")
    rows: list[tuple[str, ...]] = [("what", "data", "workers", *rates, *plans)]
    for r in records:
        found = [one[f"images_per_second{per}"] for one in (r, r["cached"]) for per in ("", "_per_core")]
        plan = ("-",) * len(plans)
        if "plan" in r:
            needed = r["plan"]["workers"]
            plan = (_rate(r["plan"]["target_images_per_second"]), str(needed["decoding"]), str(needed["cached"]))
        rows.append((_what(r), f"{r['data']}, {r['images']} images", str(r["workers"]), *map(_rate, found), *plan))
    if not records:
        return ""
    note = (
        "*Workers for it*: processes, one core each, with which a training of so many images/s (35 % of the 989 "
        "TFLOP/s that an H100 or H200 is sold for, in bfloat16; aimed at, not measured) waits for less than 5 % of its "
        "time."
    )
    return f"{_table(rows)}\n\n{note}"


def _pipelines(records: list[Record]) -> str:
    rows: list[tuple[str, ...]] = [
        ("what", "data", "workers", "images/s", "seconds", "waiting", "seconds on batches in memory")
    ]
    for r in records:
        alone = _seconds(r["compute"]) if "compute" in r else "-"
        data = r["data"] or "batches in memory"
        cells = (f"{r['images_per_second']:.2f}", _seconds(r), _percent(r["waiting_share"], 2), alone)
        rows.append((_what(r), data, str(r["workers"]), *cells))
    return _table(rows)


def _forms(records: list[Record]) -> str:
    rows: list[tuple[str, ...]] = [
        ("system", "layer: input by kernel", "form", "XLA's, ms", "ours, ms")
        + ("with gradients: XLA's, ms", "ours, ms", "gain")
    ]
    for r in records:
        for one in r["layers"]:
            cells = []
            for what in ("value", "gradients"):
                cells += [_milliseconds(one[what].get(who)) for who in ("xla", "ours")]
            both = one["gradients"]
            gain = f"{both['xla']['seconds'] / both['ours']['seconds']:.2f}" if "ours" in both else "-"
            rows.append((r["system"], one["layer"], one["form"], *cells, gain))
    return _table(rows)


def _detections(records: list[Record]) -> str:
    rows: list[tuple[str, ...]] = [
        (
            "what",
            "photographs",
            "images/s",
            "seconds per megapixel",
            "megapixels that the network sees",
            "in the network",
            "peak memory",
        )
    ]
    notes = []
    for r in records:
        folder = [r["folder"][name] for name in ("small", "one_large")] if "folder" in r else []
        for one in (*r["sizes"], *folder):
            photographs = f"{one['images']} of {one['width']}x{one['height']}"
            found = (f"{one['images_per_second']:.3g}", f"{one['seconds_per_megapixel']:.3g}")
            cost = (f"{one['scored_megapixels']:.1f}", _percent(one["network_share"]), _gib(one["peak_memory"]))
            rows.append((f"detect, {r['system']}", photographs, *found, *cost))
        if r["fit"] is not None:
            slope, rest, r2 = (r["fit"][k] for k in ("slope_seconds_per_megapixel", "intercept_seconds", "r2"))
            notes.append(f"- {r['system']}: seconds = {rest:.2f} + {slope:.3f} x megapixels (R^2 {r2:.4f})")
        if folder:
            notes.append(f"- {r['system']}, {_small_beside_large(*folder)}")
    return "\n".join([_table(rows), *([""] if notes else []), *notes]) if records else ""


def _members(records: list[Record]) -> str:
    rows: list[tuple[str, ...]] = [
        ("what", "members at a time", "way", "seconds for a step of each", "member steps/s", "against in turn")
        + ("loss off: first step, last",)
    ]
    for r in records:
        for way, one in r["ways"].items():
            if "missing" in one:
                rows.append((_what(r), str(r["members"]), way, f"missing: {one['missing']}", "-", "-", "-"))
                continue
            speed = (f"{one['member_steps_per_second']:.3g}", f"{one['speed']:.2f}")
            off = ", ".join(f"{error:.0e}" if error else "0" for error in one["loss_error"])
            rows.append((_what(r), str(r["members"]), way, _seconds(one), *speed, off))
    return _table(rows)


def _sweeps(records: list[Record]) -> str:
    rows: list[tuple[str, ...]] = [
        ("sweep", "members x steps", "who", "seconds in all", "steps", "compiling", "validation", "checkpoints")
        + ("ratio",)
    ]
    for r in records:
        what = (f"{r['experiment']} {' '.join(r['settings'])}".strip(), f"{r['members']} x {r['steps']}")
        for name, one in {"cracks_jax": r, **r["peers"]}.items():
            parts = (f"{one['spent'].get(part, 0):.1f}" for part in ("step", "compile", "evaluation", "checkpoint"))
            ratio = "1" if one is r else f"**{one['seconds'] / r['seconds']:.2f}**"
            rows.append((*what, name, f"{one['seconds']:.1f}", *parts, ratio))
    if not records:
        return ""
    note = (
        "Whole sweeps without scoring, each started once with nothing compiled; peers are Optuna's grid over PyTorch "
        "twins (`tests/reference/sweep_torch.py`), which leave a loss of weight 0 out; *compile* compiles within its "
        "steps. *Ratio*: seconds in all / ours. Ours takes, validations and checkpoints apart, "
        + ", ".join(f"{r['overhead']:.3f} times its steps and compilations ({r['experiment']})" for r in records)
        + "."
    )
    return f"{_table(rows)}\n\n{note}"


def _small_beside_large(small: Record, large: Record) -> str:
    """What many small photographs cost, and what part of it is that they are padded to the network's sides."""
    pixels = small["seconds_per_megapixel"] / large["seconds_per_megapixel"]
    seen = (
        pixels * (small["megapixels"] / small["scored_megapixels"]) * (large["scored_megapixels"] / large["megapixels"])
    )
    return (
        f"{small['images']} photographs of {small['width']}x{small['height']}: {pixels:.2f} times the seconds per "
        f"megapixel of one of {large['width']}x{large['height']}; {seen:.2f} times per megapixel that the network sees"
    )


def _machine(record: Record) -> tuple[str, str]:
    """(device, versions): what a group of records has in common."""
    versions = {k: v for k, v in record["software"].items() if k in ("python", "jax", "flax", "cracks-jax")}
    settings = [f"{name}={value}" for name, value in record["environment"].items()]
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    return _device(record), "; ".join([software, f"matrix precision {record['precision']}", *settings])


def _device(record: Record) -> str:
    device = record["device"]
    name = device["kind"] + (f" ({device['processor']})" if device.get("processor") else "")
    return f"{name}, {device['threads']} threads"


def _order(record: Record) -> tuple[Any, ...]:
    return (record["kind"] == "infer", record["system"] != "upcracknet", record["system"], -record.get("batch", 0))


def _what(record: Record) -> str:
    parts = [record["kind"], record["system"], f"batch {record['batch']}", f"{record['size']} px"]
    parts += [record["losses"]] if record["kind"] == "step" and record["system"] == "upcracknet" else []
    parts += [f"{record['batch_norm']} norm"] if "batch_norm" in record else []
    return ", ".join(parts + ([f"1/{record['narrow']} of the channels"] if record["narrow"] > 1 else []))


def _seconds(times: Record) -> str:
    return f"{times['seconds']:.3g} ({_range(times['seconds_quartiles'], '.3g')})"


def _milliseconds(times: Record | None) -> str:
    return "-" if times is None else f"{1e3 * times['seconds']:.1f}"


def _range(pair: list[float], form: str) -> str:
    return f"{pair[0]:{form}} to {pair[1]:{form}}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**30:.2f} GiB"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(rows: list[tuple[str, ...]]) -> str:
    """Markdown; nothing where there is a head alone."""
    head, *body = rows
    if not body:
        return ""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *body))


_SECTIONS: tuple[tuple[str, tuple[str, ...], Callable[[list[Record]], str]], ...] = (
    ("Training step and forward pass", ("step", "infer"), _computed),
    ("Every peer", ("step", "infer"), _peers),
    ("Input alone", ("input",), _inputs),
    ("Training with its input", ("pipeline",), _pipelines),
    ("Detection from file to file", ("detect",), _detections),
    ("Convolutions one by one", ("forms",), _forms),
    ("Members of a sweep at a time", ("members",), _members),
    ("Whole sweeps", ("sweep",), _sweeps),
)
# Other records of the folder have a form of their own (`tools/accelerator_check.py`).
_SHOWN = {kind for _, kinds, _ in _SECTIONS for kind in kinds}
