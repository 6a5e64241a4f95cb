"""All tables once more, from the records and by plain counting; nothing of the package is used.

`python -m tests.reference.tables RESULTS` compares RESULTS/tables/table<N>.csv with what stands here. Values only: no
intervals and no notes. Not for races (racing.enabled), in which most images face a part of the grid.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

Values = dict[tuple[str, str], float]
Point = tuple[float, int, int]
"""lambda, i, K_a: ties go to the lowest in this order."""
Answers = dict[Point, dict[int, bool]]
"""Per attack and image: whether the decision is right."""

FRAMEWORKS = {"PGD-AT": "pgd_at", "TRADES": "trades"}
METHODS = {
    "baseline": ("base", "plain"), "+ Sec. 3.2": ("base", "entropy"),
    "+ Sec. 3.3": ("random_states", "plain"), "+ Secs. 3.2 & 3.3": ("random_states", "entropy"),
}  # fmt: skip
CONTROLS = {
    "R = 0": "entropy_zero_steps", "restart only": "entropy_restart_only", "T_f = N": "entropy_one_round",
}  # fmt: skip
METHOD_OF = {kind: method for method, kind in METHODS.items()}
COLUMNS = ["image", "label", "model", "defence", "attack", "damping", "state", "steps", "predicted", "entropy"]
BEST = "deq_trades_random_states"
FINAL = -1  # the last entry of the columns with a value per state


def read(results: Path, folder: str, model: str, seed: int) -> pd.DataFrame:
    """All records of one kind, model and seed: one file or a folder of them."""
    place = results / "attacks" / folder / model / f"seed{seed}"
    files = sorted(place.glob("*.parquet")) if place.is_dir() else [place.with_name(f"{place.name}.parquet")]
    return pd.concat([pd.read_parquet(file, columns=COLUMNS) for file in files], ignore_index=True)


def rows(frame: pd.DataFrame) -> Iterator[Any]:
    """Row by row, with a column as an attribute."""
    yield from frame.itertuples()


def early(results: Path, model: str, defence: str, seed: int) -> int:
    """Where the early state stands in the columns with a value per state (there from 0)."""
    chosen = json.loads((results / "select" / model / f"seed{seed}.json").read_text())
    return int(chosen["plain" if defence == "plain" else "entropy"]["state"]) - 1


def answers(frame: pd.DataFrame, place: int, *, images: int) -> Answers:
    """Row by row. Every attack must have met images 0 .. images - 1, each once."""
    found: Answers = {}
    for row in rows(frame):
        point = (round(float(row.damping), 6), int(row.state), int(row.steps))
        met = found.setdefault(point, {})
        assert int(row.image) not in met, f"image {row.image} stands twice under {point}"
        met[int(row.image)] = bool(row.predicted[place] == row.label)
    for point, met in found.items():
        assert sorted(met) == list(range(images)), f"{point} met {len(met)} of {images} images"
    return dict(sorted(found.items()))


def grid(results: Path, config: Mapping[str, Any], seed: int, crafted_on: str, judge: str, defence: str) -> Answers:
    """What a decision says to the grid's images that were crafted on a model."""
    frame = read(results, "grid", crafted_on, seed)
    frame = frame[(frame["model"] == judge) & (frame["defence"] == defence)]
    return answers(frame, early(results, judge, defence, seed), images=config["evaluation"]["images"])


def accuracies(found: Answers) -> dict[Point, float]:
    return {point: percent(list(met.values())) for point, met in found.items()}


def percent(right: list[bool]) -> float:
    return 100 * sum(right) / len(right)


def ranking(found: Answers) -> list[Point]:
    """From the strongest attack to the weakest; sorting keeps the order of equals."""
    return sorted(found, key=lambda point: sum(found[point].values()))


def always(found: Mapping[Any, Mapping[int, bool]], images: int) -> dict[int, bool]:
    """Per image: right under every attack that met it."""
    return {image: all(met.get(image, True) for met in found.values()) for image in range(images)}


def clean(results: Path, config: Mapping[str, Any], seed: int, model: str, defence: str, place: int) -> float:
    frame = read(results, "clean", model, seed)
    found = answers(frame[frame["defence"] == defence], place, images=config["evaluation"]["images"])
    return percent(list(found[0.0, 0, 0].values()))


def table1(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    values: Values = {}
    for framework, stem in FRAMEWORKS.items():
        add(values, f"{framework} ResNet", resnet(results, config, seed, f"resnet18_{stem}"))
        for method, (training, defence) in METHODS.items():
            name, model = f"{framework} {method}", f"deq_{stem}_{training}"
            add(values, name, deq(results, config, seed, model, defence))
            if method != "baseline":
                values[name, "PGD gain"] = values[name, "PGD"] - values[f"{framework} baseline", "PGD"]
            if defence == "entropy" and config["entropy"]["controls"]:
                for control, decision in CONTROLS.items():
                    row = weak(results, config, seed, model, decision)
                    row["method's gain"] = values[name, "PGD"] - row["PGD"]
                    add(values, f"{name}, control: {control}", row)
            add(values, name, parts(results, config, seed, stem, training, defence))
    trunk = {"Clean": clean(results, config, seed, "deq_pretrain", "plain", FINAL)}
    attacked = answers(read(results, "pgd", "deq_pretrain", seed), FINAL, images=config["evaluation"]["images"])
    trunk[f"PGD-{config['attack']['pgd']['steps']}, final state"] = min(accuracies(attacked).values())
    add(values, "pretrained trunk", trunk)
    return values


def add(values: Values, row: str, columns: Mapping[str, float]) -> None:
    values.update({(row, column): value for column, value in columns.items()})


def parts(
    results: Path, config: Mapping[str, Any], seed: int, stem: str, training: str, defence: str
) -> dict[str, float]:
    """What the gains of a decision are made of, one change at a time."""

    def lowest(weights: str, dynamics: str, place: int) -> float:
        frame = read(results, "grid", f"deq_{stem}_{weights}", seed)
        frame = frame[(frame["model"] == f"deq_{stem}_{weights}") & (frame["defence"] == dynamics)]
        return min(accuracies(answers(frame, place, images=config["evaluation"]["images"])).values())

    def place(weights: str, dynamics: str) -> int:
        return early(results, f"deq_{stem}_{weights}", dynamics, seed)

    mine = place(training, defence)
    end = lowest(training, defence, mine)
    found: dict[str, float] = {}
    if defence == "entropy":
        start, moved = lowest(training, "plain", place(training, "plain")), lowest(training, "plain", mine)
        found |= {"gain of Sec. 3.2": end - start, "3.2: state": moved - start}
        if config["entropy"]["resolve"] == "quasi_newton" and config["entropy"]["controls"]:
            without = lowest(training, "entropy_zero_steps", mine)
            found["3.2: restarts"], moved = without - moved, without
        found["3.2: descent"] = end - moved
    if training == "random_states":
        start, moved = lowest("base", defence, place("base", defence)), lowest("base", defence, mine)
        found |= {"gain of Sec. 3.3": end - start, "3.3: state": moved - start, "3.3: weights": end - moved}
    return found


def resnet(results: Path, config: Mapping[str, Any], seed: int, model: str) -> dict[str, float]:
    images = config["evaluation"]["images"]
    pgd = answers(read(results, "pgd", model, seed), FINAL, images=images)
    row = {"Clean": clean(results, config, seed, model, "plain", FINAL), "PGD": min(accuracies(pgd).values())}
    return row | with_library(row["PGD"], pgd, library(results, config, seed, model, "plain", FINAL), config)


def deq(results: Path, config: Mapping[str, Any], seed: int, model: str, defence: str) -> dict[str, float]:
    row = weak(results, config, seed, model, defence)
    found = grid(results, config, seed, model, model, defence)
    place = early(results, model, defence, seed)
    attacks = library(results, config, seed, model, defence, place, point=ranking(found)[0])
    return row | with_library(row["PGD"], found, attacks, config)


def weak(results: Path, config: Mapping[str, Any], seed: int, model: str, defence: str) -> dict[str, float]:
    """The columns that controls have as well."""
    found = grid(results, config, seed, model, model, defence)
    return {
        "Clean": clean(results, config, seed, model, defence, early(results, model, defence, seed)),
        "PGD": min(accuracies(found).values()),
        "PGD per image": percent(list(always(found, config["evaluation"]["images"]).values())),
    }


def library(results: Path, config: Mapping[str, Any], seed: int, model: str, defence: str, place: int,
            point: Point = (0.0, 0, 0)) -> dict[str, dict[int, bool]]:  # fmt: skip
    """Per attack of AutoAttack and "clean", per image that it met: whether the decision is right."""
    frame = read(results, "autoattack", model, seed)
    found: dict[str, dict[int, bool]] = {}
    for row in rows(frame[frame["defence"] == defence]):
        met = found.setdefault(str(row.attack), {})
        assert int(row.image) not in met, f"image {row.image} stands twice under {row.attack}"
        used = (round(float(row.damping), 6), int(row.state), int(row.steps))
        assert row.attack == "clean" or used == point, f"{model} {defence}: {row.attack} at {used}, not {point}"
        met[int(row.image)] = bool(row.predicted[place] == row.label)
    assert len(found["clean"]) == config["evaluation"]["images"]
    return found


def with_library(
    pgd: float, grid: Answers, attacks: dict[str, dict[int, bool]], config: Mapping[str, Any]
) -> dict[str, float]:
    """AA, ALL and the worst case per image."""
    images = config["evaluation"]["images"]
    union = percent(list(always({**grid, **attacks}, images).values()))
    if config["autoattack"]["mode"] == "standard":  # images leave: only the union says something
        value = percent(list(always(attacks, images).values()))
    else:
        means = [percent(list(met.values())) for name, met in attacks.items() if name != "clean" and len(met) == images]
        value = min(means)
    return {"AA": value, "ALL": min(pgd, value), "ALL per image": union}


def table2(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    values: Values = {}
    ready = (0.5, config["solver"]["steps"], config["evaluation"]["final_unroll_steps"])
    for name, model, defence in decisions():
        found = accuracies(grid(results, config, seed, model, model, defence))
        final, inter = found[ready], min(found.values())
        add(values, name, {"FINAL": final, "INTER": inter, "DIFF": final - inter})
    return values


def decisions(*frameworks: str) -> Iterator[tuple[str, str, str]]:
    """Name of the row, model and defence."""
    for framework in frameworks or FRAMEWORKS:
        for method, (training, defence) in METHODS.items():
            yield f"{framework} {method}", f"deq_{FRAMEWORKS[framework]}_{training}", defence


def table3(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    values: Values = {}
    for row, judge, defence in decisions("TRADES"):
        for source, crafted_on, crafted_with in decisions("TRADES"):
            blind = accuracies(grid(results, config, seed, crafted_on, judge, defence))
            if blind:  # without attack.transfer the other model's images are not judged
                values[row, f"from {source}"] = min(blind.values())
            if crafted_with == "entropy":
                seeing = in_loop(results, config, seed, crafted_on, judge, defence)
                columns = {"in the loop": min(seeing.values())}
                if blind:
                    columns["same points blind"] = min(blind[point] for point in seeing)
                    columns["in the loop minus blind"] = columns["in the loop"] - columns["same points blind"]
                add(values, row, {f"from {source}, {column}": value for column, value in columns.items()})
    return values


def in_loop(
    results: Path, config: Mapping[str, Any], seed: int, crafted_on: str, judge: str, defence: str
) -> dict[Point, float]:
    """Accuracy of a decision under the strongest points, crafted again through Sec. 3.2."""
    own = grid(results, config, seed, crafted_on, crafted_on, "entropy")
    points = ranking(own)[: config["attack"]["in_loop_points"]]
    frame = read(results, "in_loop", crafted_on, seed)
    frame = frame[(frame["model"] == judge) & (frame["defence"] == defence)]
    found = answers(frame, early(results, judge, defence, seed), images=config["evaluation"]["images"])
    assert set(found) == set(points), f"{crafted_on}: in the loop {sorted(found)}, strongest {sorted(points)}"
    return accuracies(found)


def table4(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    values: Values = {}
    images, few = config["evaluation"]["images"], config["autoattack"]["square_images"]
    pgd = grid(results, config, seed, BEST, BEST, "entropy")
    points = [point for point in ranking(pgd) if point[0] == 0.5][: config["autoattack"]["top_points"]]
    frame = read(results, "top", BEST, seed)
    place = early(results, BEST, "entropy", seed)
    apgd = answers(frame[frame["attack"] == "apgd_ce"], place, images=images)
    square = answers(frame[frame["attack"] == "square"], place, images=min(few, images))
    assert set(apgd) == set(square) == set(points), f"Table 4: {sorted(apgd)}, strongest {sorted(points)}"
    for point in points:
        column = f"({point[1]},{point[2]})"
        for name, found in (("PGD", pgd), ("APGD", apgd)):
            values[name, column] = percent(list(found[point].values()))
            if few < images:
                first = [found[point][image] for image in range(few)]
                values[f"{name} on Square's images", column] = percent(first)
        values["SQUARE", column] = percent(list(square[point].values()))
    return values


def table5(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    values: Values = {}
    sweep, place = config["entropy_sweep"], early(results, BEST, "entropy", seed)
    points = ranking(grid(results, config, seed, BEST, BEST, "entropy"))
    if sweep["points"] != "all":
        points = points[: sweep["points"]]
    frame = read(results, "sweep", BEST, seed)
    for every in sweep["solver_steps"]:
        names = {f"R = {steps}": f"entropy_every{every}_steps{steps}" for steps in {0, *sweep["input_steps"]}}
        for column, defence in {"restart only": f"restart_only_every{every}", **names}.items():
            part = frame[frame["defence"] == defence]
            found = accuracies(answers(part, place, images=config["evaluation"]["images"]))
            assert set(found) == set(points), f"Table 5: {sorted(found)}, strongest {sorted(points)}"
            values[f"T_f = {every}", column] = min(found.values())
    return values


def entropies(results: Path, seed: int, model: str, place: int) -> Iterator[list[tuple[float, float]]]:
    """Per attack of the grid: clean and attacked entropy of every image, of the undefended model."""
    before = read(results, "clean", model, seed)
    before = before[before["defence"] == "plain"]
    unattacked = {int(row.image): float(row.entropy[place]) for row in rows(before)}
    after = read(results, "grid", model, seed)
    after = after[(after["model"] == model) & (after["defence"] == "plain")]
    for _, part in after.groupby(["damping", "state", "steps"]):
        pairs = [(unattacked[int(row.image)], float(row.entropy[place])) for row in rows(part)]
        yield [pair for pair in pairs if np.isfinite(pair).all()]


def over_attacks(results: Path, config: Mapping[str, Any], seed: int, number: int) -> Values:
    """Tables 6 (share of images that gained entropy, %) and 7 (mean difference)."""
    values: Values = {}
    for name, model, defence in decisions():
        if defence == "entropy":
            continue
        for suffix, place in (("", config["solver"]["steps"] - 1), (", final state", FINAL)):
            found = []
            for pairs in entropies(results, seed, model, place):
                if number == 6:
                    found.append(percent([clean < attacked for clean, attacked in pairs]))
                else:
                    found.append(sum(clean - attacked for clean, attacked in pairs) / len(pairs))
            summary = {"AVG": sum(found) / len(found), "MIN": min(found), "MAX": max(found)}
            add(values, name, {f"{column}{suffix}": value for column, value in summary.items()})
    return values


def table6(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    return over_attacks(results, config, seed, 6)


def table7(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    return over_attacks(results, config, seed, 7)


def table8(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    values: Values = {}
    for (damping, state, steps), value in accuracies(grid(results, config, seed, BEST, BEST, "entropy")).items():
        row, column = f"lambda = {damping:g}", f"i = {state}"
        if value < values.get((f"{row} PGD", column), 101):
            values[f"{row} PGD", column] = value
            values[f"{row} K_a", column] = steps
    return values


def table9(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    values: Values = {}
    methods = json.loads((results / "timing" / "training" / f"seed{seed}.json").read_text())["methods"]
    for framework, stem in FRAMEWORKS.items():
        base, random = (speed(methods[f"deq_{stem}_{training}"]) for training in ("base", "random_states"))
        values[f"{framework} baseline", "images/s"] = base
        add(values, f"{framework} + Sec. 3.3", {"images/s": random, "times the baseline": random / base})
    return values


def speed(repeats: Mapping[str, Any]) -> float:
    return float(np.median(repeats["images_per_second"]))


def table10(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    settings = json.loads((results / "timing" / "inference" / BEST / f"seed{seed}.json").read_text())["settings"]
    plain = speed(settings["plain"])
    values: Values = {("any T_f", "R = 0"): plain}
    for every in config["entropy_sweep"]["solver_steps"]:
        for steps in config["entropy_sweep"]["input_steps"]:
            defended = speed(settings[f"entropy_every{every}_steps{steps}"])
            add(values, f"T_f = {every}", {f"R = {steps}": defended, f"R = 0 over R = {steps}": plain / defended})
    return values


GROUPS = {
    "Exact": ("exact_",), "Unrolled": ("unrolled_",), "Adjoint": ("adjoint_",), "BPDA": ("bpda_",),
    "Updates": ("straight_through", "smoothed"), "Trajectory": ("average_", "before_update", "low_entropy"),
    "Features": ("features",), "Warm": ("warm",), "Long": ("pgd_",), "Queries": ("square", "rays"),
}  # fmt: skip
"""The groups of attacks in their order, by how the names of their attacks begin."""


def table11(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    """With the gains over all seeds together, where there are several."""
    values, seeds = alone11(results, config, seed), config["seeds"]
    if len(seeds) > 1:
        every = [alone11(results, config, one) for one in seeds]
        gains = [name for name in values if name[1].startswith(("Sec. ", "Union gain", "Gain"))]
        values |= {
            (row, f"{name}, seeds pooled"): float(np.mean([one[row, name] for one in every])) for row, name in gains
        }
    return values


def alone11(results: Path, config: Mapping[str, Any], seed: int) -> Values:
    """Images as sets: those that a decision is still right about."""
    values: Values = {}
    for framework, stem in FRAMEWORKS.items():
        faced = {f"{framework} ResNet": facing(results, config, seed, f"resnet18_{stem}", "plain")}
        for method, (training, defence) in METHODS.items():
            model, name = f"deq_{stem}_{training}", f"{framework} {method}"
            faced[name] = facing(results, config, seed, model, defence)
            if defence == "entropy" and config["suite"]["controls"]:
                control = facing(results, config, seed, model, "entropy_zero_steps")
                faced[f"{name}, control: R = 0"] = control
            if defence == "entropy" and config["suite"]["static"]:
                plain = f"{framework} {METHOD_OF[training, 'plain']}"
                faced[f"{plain}, longer solve"] = facing(results, config, seed, model, "longer_solve")
                if len(config["seeds"]) > 1:
                    faced[f"{plain}, ensemble"] = facing(results, config, seed, model, "ensemble")
        for name, (columns, _, _) in faced.items():
            add(values, name, columns)
        for method, (training, defence) in METHODS.items():
            name, plain = f"{framework} {method}", f"{framework} {METHOD_OF[training, 'plain']}"
            without = f"{framework} {METHOD_OF['base', defence]}"
            if method != "baseline":
                base = f"{framework} baseline"
                values |= fallen(name, "Gain", "Union gain", values[name, "PGD"] - values[base, "PGD"],
                                 over(faced, name, base, config))  # fmt: skip
            if defence == "entropy":
                values |= fallen(name, "Sec. 3.2", "Sec. 3.2 under union", values[name, "PGD"] - values[plain, "PGD"],
                                 over(faced, name, plain, config))  # fmt: skip
                rival = f"{name}, control: R = 0"
                if config["suite"]["controls"]:
                    values[name, "Sec. 3.2 over R = 0"] = over(faced, name, rival, config)
                if (rival, "PGD") in values:
                    values |= fallen(name, "Sec. 3.2 over R = 0", "Sec. 3.2 over R = 0",
                                     values[name, "PGD"] - values[rival, "PGD"],
                                     values[name, "Sec. 3.2 over R = 0"])  # fmt: skip
                if config["suite"]["static"]:
                    values[name, "Sec. 3.2 over longer solve"] = over(faced, name, f"{plain}, longer solve", config)
                    if len(config["seeds"]) > 1:
                        values[name, "Sec. 3.2 over ensemble"] = over(faced, name, f"{plain}, ensemble", config)
            if training == "random_states":
                values |= fallen(name, "Sec. 3.3", "Sec. 3.3 under union", values[name, "PGD"] - values[without, "PGD"],
                                 over(faced, name, without, config))  # fmt: skip
    return values


def fallen(name: str, gain: str, left: str, before: float, after: float) -> Values:
    """A gain by the paper's figure, what is left of it, and the fall."""
    return {(name, f"{gain} by PGD"): before, (name, left): after, (name, f"{gain}: fall"): before - after}


Facing = tuple[dict[str, float], dict[str, set[int]], int]
"""Columns of a decision; the images that are right under each part of the union; how many there are."""


def over(faced: Mapping[str, Facing], name: str, other: str, config: Mapping[str, Any]) -> float:
    """A union minus another one, over the parts that both have."""
    (_, mine, n), (_, theirs, _) = faced[name], faced[other]
    shared = mine.keys() & theirs.keys()
    return 100 * (len(everywhere(mine, shared)) - len(everywhere(theirs, shared))) / n


def everywhere(parts: Mapping[str, set[int]], names: Iterable[str]) -> set[int]:
    return set.intersection(*(parts[name] for name in names))


def facing(results: Path, config: Mapping[str, Any], seed: int, model: str, defence: str) -> Facing:
    n = min(config["suite"]["images"], config["evaluation"]["images"])
    place = FINAL if model.startswith("resnet") or defence == "ensemble" else early(results, model, defence, seed)
    if defence == "longer_solve":
        place = config["solver"]["steps"] - 1
    frame, foreign = made(results, seed, model, defence)
    turned: dict[str, set[int]] = {}
    for row in rows(frame):
        if row.predicted[place] != row.label:
            turned.setdefault(str(row.attack), set()).add(int(row.image))
    clean_images = set(range(n)) - turned.get("clean", set())
    columns = {"Clean": 100 * len(clean_images) / n}
    columns |= {f"turned by {name}": len(turned.get(name, ())) for name in set(frame["attack"]) - {"clean"}}
    lost = {int(row.image) for row in rows(foreign) if row.predicted[place] != row.label}
    parts = {"suite": clean_images - set().union(*turned.values()), "transferred": set(range(n)) - lost}
    left = clean_images
    for group, begin in GROUPS.items():
        names = {str(name) for name in frame["attack"] if str(name).startswith(begin)}
        if names:
            before = left if config["suite"]["mode"] == "standard" else clean_images
            left = before - set().union(*(turned.get(name, set()) for name in names))
            columns[group] = 100 * len(left) / n
    crafted = parts["suite"] if config["suite"]["mode"] == "standard" else clean_images
    columns["Transfer"] = 100 * len(crafted & parts["transferred"]) / n
    if not model.startswith("resnet"):
        spent = frame[~frame["attack"].isin(["clean", "noise"])]
        columns["f per image"] = float((spent["taken"] * spent["per_step"]).sum()) / n
    return blind(results, config, seed, (model, defence, place), (columns, parts, n))


def made(results: Path, seed: int, model: str, defence: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of what the suite made against a decision, and of what was made against others."""
    if defence == "ensemble":
        every = pd.read_parquet(results / "attacks" / "ensemble" / model)
        return every[every["crafted_seed"] == -1], every[every["crafted_seed"] != -1]
    folder = results / "attacks" / "suite" / model / f"seed{seed}"
    frame = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob(f"{defence}_images*.parquet"))])
    foreign = pd.read_parquet(results / "attacks" / "transferred" / model / f"seed{seed}")
    return frame, foreign[foreign["defence"] == defence]


def blind(results: Path, config: Mapping[str, Any], seed: int, whose: tuple[str, str, int], found: Facing) -> Facing:
    """With the grid and AutoAttack on the same images."""
    (model, defence, place), (columns, parts, n) = whose, found
    images, point = config["evaluation"]["images"], (0.0, 0, 0)
    if model.startswith("resnet"):
        attacks = answers(read(results, "pgd", model, seed), FINAL, images=images)
    elif defence in ("longer_solve", "ensemble") or (
        defence == "entropy_zero_steps" and not config["entropy"]["controls"]
    ):
        attacks = {}
    else:
        attacks = grid(results, config, seed, model, model, defence)
        point = ranking(attacks)[0]
    if attacks:
        first = {name: {image: met[image] for image in range(n)} for name, met in attacks.items()}
        parts["grid"] = {image for image, right in always(first, n).items() if right}
        columns |= {"PGD": min(accuracies(first).values()), "PGD per image": 100 * len(parts["grid"]) / n}
    if defence in ("plain", "entropy"):
        met = library(results, config, seed, model, defence, place, point=point)
        parts["AutoAttack"] = {image for image, right in always(met, n).items() if right}
        whole = [one for name, one in met.items() if name != "clean" and len(one) == images]
        means = [percent([one[image] for image in range(n)]) for one in whole]
        standard = config["autoattack"]["mode"] == "standard"
        columns["AA"] = 100 * len(parts["AutoAttack"]) / n if standard else min(means)
    columns["Union"] = 100 * len(everywhere(parts, parts)) / n
    return columns, parts, n


TABLES = {
    1: table1, 2: table2, 3: table3, 4: table4, 5: table5, 6: table6, 7: table7, 8: table8, 9: table9, 10: table10,
    11: table11,
}  # fmt: skip


def written(path: Path) -> Values:
    """The values of a table's csv; cells without one are left out."""
    frame = pd.read_csv(path, keep_default_na=False)
    cells = zip(frame["row"], frame["column"], frame["here"], strict=True)
    return {(str(row), str(column)): float(here) for row, column, here in cells if here != ""}


def digits(value: float) -> float:
    """Six digits, as the csv holds."""
    return float(f"{value:.6g}")


def compare(number: int, results: Path, config: Mapping[str, Any]) -> bool:
    """Print what one table has and what stands here; whether they agree."""
    path = results / "tables" / f"table{number}.csv"
    if not path.is_file():
        print(f"Table {number}: {path} does not exist")
        return False
    there = written(path)
    here = TABLES[number](results, config, config["seeds"][0])
    differences = {name: abs(digits(here[name]) - there[name]) for name in here.keys() & there.keys()}
    largest = max(differences.values(), default=0.0)
    print(f"Table {number}: {len(differences)} cells compared, largest difference {largest:.3g}")
    wrong = {name for name, difference in differences.items() if not difference <= 1e-4}
    for row, column in sorted(wrong):
        print(f"  {row} | {column}: {there[row, column]:g} in the csv, {here[row, column]:.6g} here")
    for side, names in (("in the csv", there.keys() - here.keys()), ("here", here.keys() - there.keys())):
        for row, column in sorted(names):
            print(f"  {row} | {column}: only {side}")
    return not wrong and here.keys() == there.keys()


def main(arguments: list[str]) -> int:
    results = Path(arguments[0])
    config = yaml.safe_load((results / "config.yaml").read_text(encoding="utf-8"))
    racing = config["racing"]
    if racing["enabled"] and racing["images"] < config["evaluation"]["images"]:
        print("in a race most images face a part of the grid: there is nothing here to compare with")
        return 2
    agree = [compare(number, results, config) for number in TABLES]
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
