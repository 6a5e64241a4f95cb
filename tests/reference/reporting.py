"""Tables 1, 2, 4 and 8 once more, slowly: one data frame, one loop, no intervals."""

import json
from pathlib import Path

import pandas as pd

METHODS = {
    ("base", "plain"): "baseline",
    ("base", "entropy"): "+ Sec. 3.2",
    ("random_states", "plain"): "+ Sec. 3.3",
    ("random_states", "entropy"): "+ Secs. 3.2 & 3.3",
}
CONTROLS = {
    "entropy_zero_steps": "control: R = 0",
    "entropy_restart_only": "control: restart only",
    "entropy_one_round": "control: T_f = N",
}
FRAMEWORKS = {"pgd_at": "PGD-AT", "trades": "TRADES"}

Attacks = dict[tuple[float, int, int], list[bool]]
"""Right or wrong per image, by (lambda, i, K_a)."""


def frame(path: Path) -> pd.DataFrame:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def early(results: Path, model: str, defence: str, *, seed: int) -> int:
    chosen = json.loads((results / "select" / model / f"seed{seed}.json").read_text())
    return int(chosen["plain" if defence == "plain" else "entropy"]["state"])


def deq(results: Path, model: str, defence: str, *, seed: int, state: int | None = None) -> tuple[list[bool], Attacks]:
    """Answers at the early state, of a control at that of Sec. 3.2: on clean images, and under every attack."""
    state = state or early(results, model, defence, seed=seed)
    clean = frame(results / "attacks" / "clean" / model / f"seed{seed}.parquet")
    attacked = frame(results / "attacks" / "grid" / model / f"seed{seed}")
    right: Attacks = {}
    judged = attacked[(attacked["defence"] == defence) & (attacked["model"] == model)]
    for row in judged.sort_values("image").to_dict("records"):
        point = (float(row["damping"]), int(row["state"]), int(row["steps"]))
        right.setdefault(point, []).append(row["predicted"][state - 1] == row["label"])
    ours = clean[clean["defence"] == defence].sort_values("image")
    return [row["predicted"][state - 1] == row["label"] for row in ours.to_dict("records")], right


def single(results: Path, model: str, *, seed: int) -> tuple[float, float]:
    """Accuracy (%) at the final state of a ResNet or the trunk: clean, and under ready-made PGD."""
    parts = [frame(results / "attacks" / kind / model / f"seed{seed}.parquet") for kind in ("clean", "pgd")]
    clean, attacked = (percent([r["predicted"][-1] == r["label"] for _, r in part.iterrows()]) for part in parts)
    return clean, attacked


def percent(right: list[bool]) -> float:
    return 100 * sum(right) / len(right)


def decisions(results: Path, *, seed: int) -> dict[str, tuple[list[bool], Attacks]]:
    return {
        f"{name} {method}": deq(results, f"deq_{framework}_{training}", defence, seed=seed)
        for framework, name in FRAMEWORKS.items()
        for (training, defence), method in METHODS.items()
    }


def controls(results: Path, *, seed: int) -> dict[str, tuple[list[bool], Attacks]]:
    return {
        f"{name} {METHODS[training, 'entropy']}, {control}": deq(
            results, f"deq_{framework}_{training}", defence, seed=seed
        )
        for framework, name in FRAMEWORKS.items()
        for training in ("base", "random_states")
        for defence, control in CONTROLS.items()
    }


def autoattack(results: Path, model: str, defence: str, *, seed: int) -> tuple[dict[str, dict[int, bool]], int]:
    """Right or wrong by attack (clean included) and image, and how many images there are."""
    state = 0
    if not model.startswith("resnet"):
        state = json.loads((results / "select" / model / f"seed{seed}.json").read_text())[defence]["state"]
    folder = results / "attacks" / "autoattack" / model / f"seed{seed}"
    found: dict[str, dict[int, bool]] = {}
    for path in folder.glob(f"{defence}_*.parquet"):
        for row in pd.read_parquet(path).to_dict("records"):
            found.setdefault(row["attack"], {})[row["image"]] = row["predicted"][state - 1] == row["label"]
    return found, len(found["clean"])


def library(answers: dict[str, dict[int, bool]], n: int, *, mode: str) -> tuple[float, list[bool]]:
    """AA, and which images are right whatever was done to them."""
    survived = [all(of.get(image, True) for of in answers.values()) for image in range(n)]
    if mode == "standard":
        return percent(survived), survived
    whole = [list(of.values()) for name, of in answers.items() if name != "clean" and len(of) == n]
    return min(map(percent, whole)), survived


def table1(results: Path, *, seed: int, pgd_steps: int, mode: str = "standard") -> dict[tuple[str, str], float]:
    values: dict[tuple[str, str], float] = {}
    minima: dict[str, float] = {}
    for row, (clean, attacks) in {**decisions(results, seed=seed), **controls(results, seed=seed)}.items():
        minima[row] = min(percent(right) for right in attacks.values())
        values[row, "Clean"] = percent(clean)
        values[row, "PGD"] = minima[row]
        values[row, "PGD per image"] = percent([all(answers) for answers in zip(*attacks.values(), strict=True)])
    for row, minimum in minima.items():
        if not row.endswith("baseline") and "control" not in row:
            values[row, "PGD gain"] = minimum - minima[f"{row.split()[0]} baseline"]
        if "control" in row:
            values[row, "method's gain"] = minima[row.partition(", control")[0]] - minimum
    for framework, name in FRAMEWORKS.items():
        row = f"{name} ResNet"
        values[row, "Clean"], values[row, "PGD"] = single(results, f"resnet18_{framework}", seed=seed)
        attacked = frame(results / "attacks" / "pgd" / f"resnet18_{framework}" / f"seed{seed}.parquet")
        answers = [row["predicted"][-1] == row["label"] for row in attacked.sort_values("image").to_dict("records")]
        found = library(*autoattack(results, f"resnet18_{framework}", "plain", seed=seed), mode=mode)
        values |= both(row, values[row, "PGD"], answers, found)
    for framework, name in FRAMEWORKS.items():
        for (training, defence), method in METHODS.items():
            row = f"{name} {method}"
            right = deq(results, f"deq_{framework}_{training}", defence, seed=seed)[1]
            found = library(*autoattack(results, f"deq_{framework}_{training}", defence, seed=seed), mode=mode)
            values |= both(row, minima[row], [all(a) for a in zip(*right.values(), strict=True)], found)
    for framework, name in FRAMEWORKS.items():
        values |= parts(results, framework, name, seed=seed)
    trunk = single(results, "deq_pretrain", seed=seed)
    values["pretrained trunk", "Clean"], values["pretrained trunk", f"PGD-{pgd_steps}, final state"] = trunk
    return values


def parts(results: Path, framework: str, name: str, *, seed: int) -> dict[tuple[str, str], float]:
    """What gains are made of, one change at a time; Algorithm 1, which restarts nothing."""

    def lowest(training: str, defence: str, state_of: tuple[str, str]) -> float:
        state = early(results, f"deq_{framework}_{state_of[0]}", state_of[1], seed=seed)
        attacks = deq(results, f"deq_{framework}_{training}", defence, seed=seed, state=state)[1]
        return min(percent(right) for right in attacks.values())

    values: dict[tuple[str, str], float] = {}
    for (training, defence), method in METHODS.items():
        row, here = f"{name} {method}", (training, defence)
        at_the_end = lowest(*here, here)
        if defence == "entropy":
            start, moved = lowest(training, "plain", (training, "plain")), lowest(training, "plain", here)
            values |= {(row, "gain of Sec. 3.2"): at_the_end - start, (row, "3.2: state"): moved - start}
            values[row, "3.2: descent"] = at_the_end - moved
        if training == "random_states":
            start, moved = lowest("base", defence, ("base", defence)), lowest("base", defence, here)
            values |= {(row, "gain of Sec. 3.3"): at_the_end - start, (row, "3.3: state"): moved - start}
            values[row, "3.3: weights"] = at_the_end - moved
    return values


def both(row: str, pgd: float, answers: list[bool], found: tuple[float, list[bool]]) -> dict[tuple[str, str], float]:
    accuracy, survived = found
    together = [ours and theirs for ours, theirs in zip(answers, survived, strict=True)]
    return {(row, "AA"): accuracy, (row, "ALL"): min(pgd, accuracy), (row, "ALL per image"): percent(together)}


def table2(results: Path, *, seed: int, ready_made: tuple[float, int, int]) -> dict[tuple[str, str], float]:
    values: dict[tuple[str, str], float] = {}
    for row, (_, attacks) in decisions(results, seed=seed).items():
        final = percent(attacks[ready_made])
        inter = min(percent(right) for right in attacks.values())
        values |= {(row, "FINAL"): final, (row, "INTER"): inter, (row, "DIFF"): final - inter}
    return values


def table8(results: Path, *, seed: int) -> dict[tuple[str, str], float]:
    attacks = deq(results, "deq_trades_random_states", "entropy", seed=seed)[1]
    values: dict[tuple[str, str], float] = {}
    for damping, state in {(damping, state) for damping, state, _ in attacks}:
        here = {steps: percent(r) for (d, i, steps), r in sorted(attacks.items()) if (d, i) == (damping, state)}
        best = min(here, key=here.__getitem__)
        values[f"lambda = {damping:g} K_a", f"i = {state}"] = best
        values[f"lambda = {damping:g} PGD", f"i = {state}"] = here[best]
    return values


def table4(results: Path, *, seed: int, count: int) -> dict[tuple[str, str], float]:
    model, defence = "deq_trades_random_states", "entropy"
    attacks = deq(results, model, defence, seed=seed)[1]
    state = json.loads((results / "select" / model / f"seed{seed}.json").read_text())[defence]["state"]
    points = sorted((sum(right), point) for point, right in attacks.items() if point[0] == 0.5)[:count]
    rows = frame(results / "attacks" / "top" / model / f"seed{seed}").sort_values("image").to_dict("records")
    values: dict[tuple[str, str], float] = {}
    for _, (damping, i, steps) in points:
        column = f"({i},{steps})"
        here = [row for row in rows if (row["damping"], row["state"], row["steps"]) == (damping, i, steps)]
        apgd, square = (
            [row["predicted"][state - 1] == row["label"] for row in here if row["attack"] == attack]
            for attack in ("apgd_ce", "square")
        )
        pgd, few = attacks[damping, i, steps], len(square)
        values |= {("PGD", column): percent(pgd), ("APGD", column): percent(apgd), ("SQUARE", column): percent(square)}
        if few < len(pgd):
            values["PGD on Square's images", column] = percent(pgd[:few])
            values["APGD on Square's images", column] = percent(apgd[:few])
    return values
