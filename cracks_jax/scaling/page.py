"""Records as text for a person and as a Markdown page; no figure of the page is typed by hand."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError
from cracks_jax.runtime.records import read_json, write_text
from cracks_jax.scaling.machines import CHIPS, LINKS, Chip, Link
from cracks_jax.scaling.predict import sent

PAGE = "README.md"
Record = dict[str, Any]
METHODS = {"upcracknet": "UP-CrackNet", "crackseg": "CrackSeg"}
LIMITS = {
    "compute": "arithmetic",
    "memory": "memory traffic",
    "transfer": "bytes on the link",
    "latency": "hops on the link",
    "input": "input",
    "capacity": "memory is too small",
    "batch": "batch: less than one image each",
}
_MEASURED = "The rates of input were measured, and what stands under *Checked*."
_UNMEASURED = (
    "The rates of input\nwere measured, nothing else: no check of the model (`python tools/scaling.py check`) is on "
    "record yet."
)
_HEAD = """# Beyond this machine: a training step on 1 to 512 devices

Made by `python tools/scaling.py` from the records beside it, which hold the command, the programs' facts, versions and
revision; no figure is typed. **Predictions, not measurements**: the programs are compiled, for devices that exist in
name only, and never run; chips and links are as their makers state them, with assumed shares (below). {measured}

How a row comes about: operations of the step in an accelerator's form / devices / (the chip's rate x share) is the
arithmetic; bytes that the partitioned program reads and writes / (bandwidth x share) is the memory traffic (as fused
for a processor, its copies for layouts left out: an accelerator's compiler fuses more, so this is rather too
high); every collective of the program costs its bytes and hops on the link. *Without overlap* these are added, *with
full overlap* the largest counts: two bounds, the truth lies between. Input is read meanwhile, and a step takes no less
than its input. What limits is the largest term. An image is {side} x {side} px. *Strong*: one batch over all devices.
*Weak*: the same batch on each device. Efficiency is images/s against as many times one such chip.

A batch above the paper's {batch} is another experiment: other statistics in each batch norm, fewer steps an epoch, a
learning rate to be found anew. Strong scaling at the paper's batch ends at {batch} devices, one image each; rows of
*weak* say what the machine could do, not that training would end the same.
"""


def write_page(folder: Path) -> Path:
    """The folder's page, anew from its records."""
    records = [read_json(path) for path in sorted(folder.glob("*.json"))]
    plans = sorted((r for r in records if r.get("kind") == "plan"), key=_order)
    checks = sorted((r for r in records if r.get("kind") == "check"), key=_order)
    if not plans:
        raise CracksError(f"{folder}: holds no records; `python tools/scaling.py --out {folder.name}` makes them")
    told = {"batch": plans[0]["paper_batch"], "side": plans[0]["programs"][0]["side"]}
    parts = [_HEAD.format(**told, measured=_MEASURED if checks else _UNMEASURED), programs_table(plans)]
    parts += [part for record in plans for part in (f"## {title(record)}", predictions_table(record["predictions"]))]
    parts += [input_table(plans)]
    parts += [checked(checks)] if checks else []
    parts += [assumptions(plans)]
    path = folder / PAGE
    write_text(path, "\n\n".join(part.strip() for part in parts) + "\n")
    return path


def lines(record: Record) -> str:
    """One record for a person to read."""
    if record["kind"] == "check":
        return checked([record])
    return f"{title(record)}\n\n{programs_table([record])}\n\n{predictions_table(record['predictions'])}"


def title(record: Record) -> str:
    _, _, extra = record["label"].partition(record["precision"])
    words = [
        f"{word.removeprefix('shard_')} sharded" if word.startswith("shard_") else f"{word} form"
        for word in extra.split("-")[1:]
    ]
    return ", ".join([METHODS[record["method"]], record["precision"], *words])


def programs_table(plans: Iterable[Record]) -> str:
    rows: list[tuple[str, ...]] = [
        ("program", "devices", "images over all", "GFLOP an image", "collectives", "in a chain", "MB in them")
        + ("GB read and written", "memory of a device", "of it state", "compiled in")
    ]
    revisions = set()
    for record in plans:
        for one in record["programs"]:
            revisions.add(_revision({**record, **one}))
            rows.append(
                (
                    title(record),
                    str(one["devices"]),
                    str(one["batch"]),
                    f"{one['flop'] / one['batch'] / 1e9:.1f}",
                    str(len(one["collectives"])),
                    str(one["rounds"]),
                    f"{sent(one) / 1e6:.1f}",
                    f"{one['traffic']['computing'] / 1e9:.2f}",
                    _gb(one["memory"]["total"]),
                    _gb(one["state_bytes"]),
                    f"{one['seconds']['compiling']:.0f} s",
                )
            )
    device = next(iter(plans))["device"]["kind"]
    note = (
        f"Compiled on {device}; revision {', '.join(sorted(revisions))}. Operations in the form for accelerators, taps "
        "on padding left out. *In a chain*: collectives that must follow one another, most of them sums of batch "
        "statistics over all devices, in each norm forward and backward. Combining, fusion and temporary memory are "
        "this platform's compiler's; another's differ. It widens bfloat16 to float32 around what a processor cannot do "
        "in it, so that bytes and memory of bfloat16 are the least certain, and too high."
    )
    return f"## What is compiled\n\n{_table(rows)}\n\n{note}"


def predictions_table(predictions: Iterable[Record]) -> str:
    rows: list[tuple[str, ...]] = [
        ("chip", "scaling", "devices", "images over all", "ms: arithmetic", "memory", "bytes on the link", "hops")
        + ("input", "ms a step, full to no overlap", "images/s", "efficiency", "memory of a device", "limit")
    ]
    alone = set()
    for one in predictions:
        single, who = one["devices"] == 1, (one["chip"], one["batch"])
        if single and who in alone:
            continue  # both ways of scaling begin with it
        alone |= {who} if single else set()
        scaling = "one device" if single else one["plan"]
        head = (CHIPS[one["chip"]].title.partition(":")[0], scaling, str(one["devices"]), str(one["batch"]))
        if one["limit"] == "batch":
            rows.append((*head, *("-",) * 9, LIMITS["batch"]))
            continue
        seconds, step, rate, share = (one[k] for k in ("seconds", "step", "images_per_second", "efficiency"))
        cells = [_ms(seconds[k]) for k in ("compute", "memory", "transfer", "latency", "input")]
        cells += [f"{_ms(step['full'])} to {_ms(step['none'])}", f"{_count(rate['none'])} to {_count(rate['full'])}"]
        low, high = sorted(100 * value for value in share.values())
        cells += [f"{low:.0f} to {high:.0f} %" if one["devices"] > 1 else "-"]
        fits = _gb(one["memory_bytes"]) + ("" if one["fits"] else f" of {_gb(int(CHIPS[one['chip']].memory))}")
        rows.append((*head, *cells, fits, LIMITS[one["limit"]]))
    return _table(rows)


def input_table(plans: Iterable[Record]) -> str:
    rows: list[tuple[str, ...]] = [("method", "data", "one core decodes", "with decoded images", "record")]
    found = {record["method"]: record["input"] for record in plans}
    for method, one in found.items():
        rate = one["images_per_second_per_core"]
        cells = (f"{rate['decoding']:.0f} images/s", f"{rate['cached']:.0f} images/s", one["record"])
        rows.append((METHODS[method], one["data"], *cells))
    needs: list[tuple[str, ...]] = [("program", "chip", "cores that a device needs", "it is taken to have")]
    for record in plans:
        each = record["input"]["images_per_second_per_core"][record["input"]["way"]]
        alone = {one["chip"]: one for one in record["predictions"] if one["devices"] == 1}
        for chip, one in alone.items():
            low, high = (one["images_per_second"][how] / each for how in ("none", "full"))
            has = one["batch"] / one["seconds"]["input"] / each
            needs.append((title(record), CHIPS[chip].title.partition(":")[0], f"{low:.2g} to {high:.2g}", f"{has:.3g}"))
    note = (
        "Measured on one machine's cores ([benchmarks](../benchmarks/README.md)); another host's may be faster. With "
        "fewer cores for each device than it needs (without and with full overlap, decoding every image anew), input "
        "is what limits: `--cores-per-device N` says the step then. More devices need as many cores each."
    )
    return f"## Input: when it becomes the limit\n\n{_table(rows)}\n\n{note}\n\n{_table(needs)}"


def checked(checks: Iterable[Record]) -> str:
    parts = ["## Checked: 1 to 8 devices that are threads of one machine"]
    for record in checks:
        machine = f"{record['device']['kind']}, {record['threads']} threads"
        what = f"batch {record['batch']}, {record['side']} px; revision {_revision(record)}"
        parts += [f"**{title(record)}** on {machine}; {what}"]
        parts += [_counts_table(record), _times_table(record)]
    return "\n\n".join(parts)


def _counts_table(record: Record) -> str:
    counts = record["counts"]
    gradients = counts["kernel_gradient_bytes"] + counts["other_gradient_bytes"]
    rows: list[tuple[str, ...]] = [
        ("devices", "collectives", "MB in them", "MB of gradients by hand", "more", "MB given to a device")
        + ("by hand", "GFLOP of a device", "by the split", "differs by")
    ]
    for n, memory in counts["memory"].items():
        sums, operations = counts["collective_bytes"].get(n, 0), counts["operations"][n]
        wrong = operations["found"] / operations["expected"] - 1
        alone = n == "1"
        rows.append(
            (
                n,
                str(counts["collectives"].get(n, 0)),
                f"{sums / 1e6:.3f}",
                "-" if alone else f"{gradients / 1e6:.3f}",
                "-" if alone else f"{100 * (sums / gradients - 1):+.2f} %",
                f"{memory['arguments'] / 1e6:.3f}",
                f"{memory['expected'] / 1e6:.3f}",
                f"{operations['found'] / 1e9:.2f}",
                f"{operations['expected'] / 1e9:.2f}",
                f"{100 * wrong:+.2f} %",
            )
        )
    placed = all(memory["placed"] == memory["expected"] + memory["unread"] for memory in counts["memory"].values())
    share = counts["operations"][max(counts["operations"], key=int)]["own_share"]
    exactly = "have exactly the bytes counted by hand, and the masks of what was removed, which a step does not read"
    notes = (
        "*Gradients by hand*: every trained array once, the discriminator's twice (real and restored images apart); "
        "more than these are statistics of the norms and losses. *By the split*: what every device does for itself, "
        f"mostly the optimiser ({100 * share:.1f} % of the operations of the largest mesh), and the rest divided, told "
        "from the first and the last row. Real arrays that training places on a device "
        f"{exactly if placed else 'do NOT have the bytes counted by hand'}."
    )
    return f"{_table(rows)}\n\n{notes}"


def _times_table(record: Record) -> str:
    rows: list[tuple[str, ...]] = [
        ("devices", "s a step, measured", "of all repeats", "model", "of it one device's step", "repeated work")
        + ("hops", "bytes", "measured / model")
    ]
    for n, one in record["times"].items():
        parts, taken = one["model_parts"], one["seconds_all"]
        cells = (parts["one_device"], parts["repeated"], parts["latency"], parts["transfer"])
        rows.append(
            (
                n,
                f"{one['seconds']:.3g}",
                f"{min(taken):.3g} to {max(taken):.3g}",
                f"{one['model']:.3g}",
                *(f"{value:.2g}" for value in cells),
                f"{one['ratio']:.2f}",
            )
        )
    links = ", ".join(
        f"{n} devices {1e6 * link['latency']:.0f} us and {link['bandwidth'] / 1e9:.2f} GB/s"
        for n, link in record["links"].items()
    )
    worst = max((one["ratio"] for one in record["times"].values()), key=lambda ratio: abs(ratio - 1))
    note = (
        f"An all-reduce alone, measured: {links}; memory {record['memory_bandwidth'] / 1e9:.1f} GB/s. These devices "
        f"share cores, so no step gets faster; the model is off by {100 * abs(worst - 1):.0f} % at most. That says "
        "nothing about links between machines, nor about a chip's shares."
    )
    return f"{_table(rows)}\n\n{note}"


def assumptions(plans: Iterable[Record]) -> str:
    rows = [one for record in plans for one in record["predictions"]]
    return f"## What is assumed\n\n{known({one['chip'] for one in rows}, {one['link'] for one in rows})}"


def known(chips: Collection[str] = CHIPS.keys(), links: Collection[str] = LINKS.keys()) -> str:
    """Chips and links, these or all, with their sources."""
    head = ("chip", "TFLOP/s", "share", "memory", "bandwidth", "share", "host cores a device", "from")
    rows = [head, *(_chip_row(chip) for name, chip in CHIPS.items() if name in chips)]
    used = [_link_line(link) for name, link in LINKS.items() if name in links and link.levels]
    return f"{_table(rows)}\n\n" + "\n".join(used)


def _chip_row(chip: Chip) -> tuple[str, ...]:
    rates = ", ".join(f"{rate / 1e12:.3g} {precision}" for precision, rate in chip.flops.items())
    memory = (f"{chip.memory / 1e9:.0f} GB", f"{chip.bandwidth / 1e9:.0f} GB/s", f"{chip.memory_share:g}")
    return (chip.title, rates, f"{chip.share:g}", *memory, f"{chip.cores:g}", chip.source)


def _link_line(link: Link) -> str:
    levels = "; ".join(
        f"{level.name}: {'any number' if level.size is None else level.size} at {level.bandwidth / 1e9:.3g} GB/s, "
        f"{1e6 * level.latency:g} us a hop"
        for level in link.levels
    )
    return f"- {link.title} (`--link {link.name}`). {levels}; {1e6 * link.launch:g} us to begin. {link.source}."


def _revision(record: Record) -> str:
    """The commit, and whether the package's own files differed from it."""
    commit, plus, changes = (record["git_revision"] or "unknown").partition("+")
    return commit[:10] + plus + changes


def _order(record: Record) -> tuple[Any, ...]:
    return (record["method"] != "upcracknet", record["method"], record["precision"] != "float32", record["label"])


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 10 else f"{1e3 * seconds:.0f}"


def _count(rate: float) -> str:
    return f"{rate:.2f}" if rate < 10 else f"{rate:,.0f}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *body))
