"""One canonical spec per job: all that its output depends on, and nothing else.

The spec is what Snakemake compares to decide about running again, what names a job's folder of resumable state, and
what provenance records. It is built from the stage's value (deqpipe/workflow/stages.py). Package code is not part of
it; a stage whose results would change has its revision raised instead, and tests/test_revisions.py fails when a stage's
code changes and neither its revision nor the recorded hash does.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from deqpipe import extending
from deqpipe.config import Config, DeqName, known_images
from deqpipe.errors import UserError
from deqpipe.workflow.defences import DefenceName, defence_of
from deqpipe.workflow.layout import Job
from deqpipe.workflow.products import Definition
from deqpipe.workflow.stages import PRODUCTS, RULES, STAGES, Made, ProductName, Stage, StageName
from deqpipe.workflow.vocabulary import MODELS


def build(
    stage: StageName,
    config: Config,
    *,
    model: str | None = None,
    seed: int | None = None,
    defence: DefenceName | None = None,
    attack: str | None = None,
) -> dict[str, Any]:
    """The spec of a job.

    Args:
        stage: what kind of job.
        config: the resolved configuration.
        model: name in `vocabulary.MODELS`, for stages that concern one.
        seed: the repetition, for all stages but data.
        defence: the attacked decision, for stages whose jobs attack one each.
        attack: of a user's file, for the stage of these.

    Raises:
        UserError: model is not one of the stage's, or a seed is missing.
    """
    _check_model_and_seed(stage, model, seed)
    value = STAGES[stage]
    keys, upstream = value.keys(config, model or ""), value.upstream(config, model or "")
    spec: dict[str, Any] = {
        "stage": stage,
        "revision": value.revision,
        "config": _dump(value.adapt(config, model or ""), *keys),
        "upstream": {role: fingerprint_of(made, config, seed) for role, made in upstream.items()},
    }
    if judged := value.decisions(config, model or ""):
        spec["decisions"] = list(judged)
    if any(defence_of(name).decide for name in judged):
        spec["rules"] = RULES
    own = _own_attack(stage, config, attack)
    spec["config"] |= _dump(config, *(own.keys if own else ()))
    if files := extending.digests(
        (*_extensions(value, config, model), _file_of_piece(extending.Attack, attack, config))
    ):
        spec["extensions"] = files
    whose = {"model": model, "seed": seed, "defence": _attacked(value, config, model, defence), "attack": attack}
    return spec | {name: value for name, value in whose.items() if value is not None}


def _extensions(value: Stage, config: Config, model: str | None) -> tuple[str, ...]:
    """The users' files whose code a job runs."""
    keys = value.keys(config, model or "")
    files = [_file_of_piece(extending.Solver, config.solver.name, config)] if "solver" in keys else []
    files += [_file_of_piece(extending.DataSource, config.data.source, config)] if "data.source" in keys else []
    return (*files, MODELS[model].origin if model else "")


def _own_attack(stage: StageName, config: Config, attack: str | None) -> extending.Attack | None:
    """The attack of a job that runs one from a user's file.

    Raises:
        UserError: no file of the configuration defines it, or the stage runs none.
    """
    known = extending.pieces(extending.Attack, config.extensions)
    if stage != "attack_own":
        if attack is not None:
            raise UserError(f"attack is {attack!r}, but stage {stage} runs none of a user's file")
        return None
    if attack not in known:
        raise UserError(f"attack is {attack!r}, but must be one of {', '.join(known) or 'none: no extension has any'}")
    return known[attack][0]


def _file_of_piece(kind: type[extending.Piece], name: str | None, config: Config) -> str:
    """The user's file that defines a piece; "" where the package does."""
    known = extending.pieces(kind, config.extensions).get(name or "")
    return "" if known is None else known[1].path


def _attacked(value: Stage, config: Config, model: str | None, defence: DefenceName | None) -> DefenceName | None:
    """The decision that a job attacks, of stages whose jobs attack one each."""
    allowed = value.attacked(config, model or "")
    if not allowed:
        return None
    if defence not in allowed:
        raise UserError(f"defence is {defence!r}, but must be one of {', '.join(allowed)} for {model}")
    return defence


def fingerprint_of(made: Made, config: Config, seed: int | None = None) -> str:
    """The fingerprint of the spec of a file that a job reads.

    Args:
        made: the file.
        config: the resolved configuration.
        seed: that of the job, for a file that has none of its own.
    """
    return _remembered(made, _Itself(config), seed)


@dataclass(frozen=True, eq=False)
class _Itself:
    """A configuration as a key: equal to itself alone, as parts of it have no hash, and none of it ever changes."""

    config: Config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.config is self.config

    def __hash__(self) -> int:
        return id(self.config)


@functools.lru_cache(maxsize=4096)  # most jobs of a workflow read files that others read as well
def _remembered(made: Made, whose: _Itself, seed: int | None) -> str:
    return fingerprint(_made(made, whose.config, seed))


def _made(made: Made, config: Config, seed: int | None) -> dict[str, Any]:
    """The spec of a file that a job reads."""
    stage = made.stage
    if stage == "import":
        assert made.model is not None
        return build_import(config, made.model)
    whose = seed if made.seed is None else made.seed
    return build(
        stage,
        config,
        model=made.model,
        seed=whose if STAGES[stage].seeded else None,
        defence=made.defence,
        attack=made.attack,
    )


def _check_model_and_seed(stage: StageName, model: str | None, seed: int | None) -> None:
    allowed = STAGES[stage].models
    if allowed is None and model is not None:
        raise UserError(f"model is {model!r}, but stage {stage} has no model")
    if allowed is not None and not STAGES[stage].may_concern(model):
        allowed = (*allowed, *(name for name in MODELS if MODELS[name].origin and STAGES[stage].may_concern(name)))
        raise UserError(f"model is {model!r}, but stage {stage} needs one of {', '.join(allowed)}")
    if seed is None and STAGES[stage].seeded:
        raise UserError(f"stage {stage} needs a seed")


def build_import(config: Config, model: str) -> dict[str, Any]:
    """The spec of a model that is taken from a file: which file, for which architecture."""
    settings = {"imported": config.imported[cast(DeqName, model)], **_dump(config, "model")}
    upstream = {"data": fingerprint_of(Made("data", None), config)}
    seed = config.seeds[0]
    return {"stage": "import", "revision": 1, "config": settings, "upstream": upstream, "model": model, "seed": seed}


def of_job(job: Job, config: Config) -> dict[str, Any]:
    """The spec of the job that makes a file."""
    return _made(_file_of(job), config, job.seed)


def fingerprint_of_job(job: Job, config: Config) -> str:
    """The fingerprint of the spec of the job that makes a file."""
    return fingerprint_of(_file_of(job), config, job.seed)


def _file_of(job: Job) -> Made:
    return Made(job.stage, job.model, job.defence, attack=job.attack)


def build_product(product: ProductName, config: Config, definition: Definition | None = None) -> dict[str, Any]:
    """The spec of what is made from records: tables and figures state the conditions that they were made under.

    Args:
        product: a table, a figure or the report.
        config: the resolved configuration.
        definition: which table, if a user's file may make it.
    """
    spec = {"stage": product, "revision": PRODUCTS[product].revision, "config": conditions(config), "upstream": {}}
    piece = None if definition is None else definition.piece
    file = "" if piece is None else _file_of_piece(extending.Table, piece.name, config)
    return spec | ({"extensions": extending.digests([file])} if file else {})


def conditions(config: Config) -> dict[str, Any]:
    """The configuration but for what neither influences results nor says in which files they are kept."""
    exclude: dict[str, Any] = {"device": True, "gpu_request": True, "pathvars": True, "compile": True, "graphs": True}
    if not config.couples_images:
        exclude["evaluation"] = {"batch_size"}
    if known_images(config.data.source):
        exclude["data"] = {"root"}
    if not config.extensions:
        exclude["extensions"] = True  # as of before there was such a key, as the next one
    if not config.weight_perturbation.enabled:
        exclude["weight_perturbation"] = True
    return config.model_dump(mode="json", exclude=exclude)


def dumps(spec: Mapping[str, Any]) -> str:
    """Canonical JSON: equal specs give equal text."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)


def loads(text: str) -> dict[str, Any]:
    """A spec from its canonical JSON."""
    spec: dict[str, Any] = json.loads(text)
    return spec


def fingerprint(spec: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for a spec."""
    return hashlib.sha256(dumps(spec).encode()).hexdigest()[:16]


def difference(told: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In what a spec differs from the one that is wanted, in words."""
    said = [
        _changed(name, told.get(name), wanted.get(name)) for name in _unequal(told, wanted, but=("config", "upstream"))
    ]
    before, now = told.get("config", {}), wanted.get("config", {})
    said += [_changed(key, before.get(key), now.get(key)) for key in _unequal(before, now)]
    said += [f"from another {role}" for role in _unequal(told.get("upstream", {}), wanted.get("upstream", {}))]
    return "; ".join(said)


def _unequal(before: Mapping[str, Any], now: Mapping[str, Any], *, but: tuple[str, ...] = ()) -> list[str]:
    """The keys that do not stand in both with the same value."""
    return [key for key in dict.fromkeys((*before, *now)) if key not in but and before.get(key) != now.get(key)]


def _changed(key: str, before: Any, now: Any) -> str:
    """A key with both values; of a section the keys in it that differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return "; ".join(_changed(f"{key}.{name}", before.get(name), now.get(name)) for name in _unequal(before, now))
    return f"{key} {json.dumps(before)} instead of {json.dumps(now)}"


def point_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What one finished point of the attack grid depends on: the grid's spec without its lists of points."""
    lists = ("attack.grid.", "racing")
    settings = {key: value for key, value in spec["config"].items() if not key.startswith(lists)}
    return {**spec, "stage": "attack_point", "config": settings}


def state_key(spec: Mapping[str, Any]) -> str:
    """Name of the folder of a job's resumable state.

    Jobs of the attack grid keep finished points, which outlive a change of the list of points.
    """
    return fingerprint(point_spec(spec) if spec["stage"] == "attack_grid" else spec)


def _dump(config: Config, *keys: str) -> dict[str, Any]:
    """The named parts of the config (dotted), as JSON values."""
    return pick(config.model_dump(mode="json"), *keys)


def pick(nested: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The named parts (dotted) of nested settings, by these names."""
    parts: dict[str, Any] = {}
    for key in keys:
        node: Any = nested
        for part in key.split("."):
            node = node[part]
        parts[key] = node
    return parts
