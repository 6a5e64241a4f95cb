"""A decision that the networks of all seeds take together, as the suite attacks it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deqpipe import build
from deqpipe.attack.suite import Victim
from deqpipe.defence.ensemble import Ensemble, Member
from deqpipe.errors import UserError
from deqpipe.evaluation.batching import Batching
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob
from deqpipe.evaluation.judge import NetworkJudge
from deqpipe.evaluation.suite_target import SuiteTarget, evaluated_for, targets_of
from deqpipe.model.architecture import Loaded
from deqpipe.workflow.defences import PLAIN, DefenceName
from deqpipe.workflow.stages import role_of_member


def ensemble_of(job: EvaluationJob, images: range, select: Sequence[Path], *, name: DefenceName) -> SuiteTarget:
    """The networks of a job, each undefended and at the state that was selected for it, as one decision.

    Args:
        job: the call.
        images: that will be attacked.
        select: the states of each network, in the order of the spec's seeds, as the weights are.
        name: of the decision, in records.

    Raises:
        UserError: a file is missing, damaged, or of another seed; a network is of another architecture than the first;
            or there are no such images.
    """
    seeds: list[int] = job.spec["config"]["seeds"]
    checkpoints = (job.checkpoint, *job.further)
    _refuse_other_number("checkpoint", checkpoints, seeds)
    _refuse_other_number("select", select, seeds)
    members = [
        _member(job, seed, path, states, images) for seed, path, states in zip(seeds, checkpoints, select, strict=True)
    ]
    _refuse_other_architectures(members, checkpoints)
    return _together(job, members, name)


def _refuse_other_number(option: str, paths: Sequence[Path], seeds: Sequence[int]) -> None:
    if len(seeds) < 2:
        raise UserError(f"spec has the seeds {seeds}, but an ensemble needs at least two")
    if len(paths) != len(seeds):
        raise UserError(f"--{option} has {len(paths)} files, but must have one for each of the seeds {seeds}")


def _member(job: EvaluationJob, seed: int, checkpoint: Path, select: Path, images: range) -> SuiteTarget:
    """One network, with what the suite attacks of it where it is alone."""
    own = replace(job, spec=_spec_of(job.spec, seed), checkpoint=checkpoint, further=())
    return targets_of(evaluated_for(own, [PLAIN.name], images), [PLAIN.name], select)[PLAIN.name]


def _spec_of(spec: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What a job of the ensemble depends on, as far as it concerns the network of one seed."""
    upstream = {role: spec["upstream"][role_of_member(role, seed)] for role in ("model", "select")}
    told = {key: value for key, value in spec.items() if key != "decisions"}
    return {**told, "seed": seed, "upstream": upstream}


def _refuse_other_architectures(members: Sequence[SuiteTarget], checkpoints: Sequence[Path]) -> None:
    first, *others = (member.evaluated.loaded.architecture for member in members)
    for path, other in zip(checkpoints[1:], others, strict=True):
        if other != first:
            raise UserError(f"checkpoint {path} is of another architecture than {checkpoints[0]}: no ensemble of both")


def _together(job: EvaluationJob, members: Sequence[SuiteTarget], name: DefenceName) -> SuiteTarget:
    first = members[0].evaluated
    network = Ensemble([Member(one.victim.deq, one.victim.deciding, one.victim.through()) for one in members])
    loaded = Loaded(network, first.loaded.architecture, first.loaded.provenance, _weights(members))
    judge = NetworkJudge(network, first.name, name)
    evaluated: EvaluatedModel = replace(
        first, loaded=loaded, judges=(judge,), controls=(), job=job, batching=_shared(first.batching, len(members))
    )
    undefended = build.plain_dynamics(first.settings)
    return SuiteTarget(evaluated, judge, Victim(network, first.ball, undefended=undefended))


def _weights(members: Sequence[SuiteTarget]) -> str:
    """Sixteen hexadecimal digits that stand for the weights of all networks."""
    every = "-".join(member.evaluated.weights for member in members)
    return hashlib.sha256(every.encode()).hexdigest()[:16]


def _shared(batching: Batching, networks: int) -> Batching:
    """Images at once where so many networks keep what their gradients need: a number that is asked for stays."""
    return batching if batching.fixed else replace(batching, size=max(1, batching.size // networks))
