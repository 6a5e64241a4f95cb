"""This workflow on a real SLURM, started for it on this machine: jobs are cancelled, requeued, pre-empted, lost.

    python -m tests.slurm [--case NAME ...] [--accounting | --no-accounting] [--seed S] [--scratch FOLDER]

A full run tries every case on a SLURM without accounting, then on one with it those for which that matters, and takes
about a quarter of an hour on two cores (`make test-slurm`). The results must be those of a run without SLURM, bit for
bit. The exit status is 1 if a case went wrong, 2 if SLURM cannot be had.
"""

import argparse
import functools
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deqpipe.machine.stopping import terminable
from tests.slurm import experiment, packages
from tests.slurm.cases import CASES
from tests.slurm.cluster import Cluster, ClusterError, free_port, running
from tests.slurm.trial import Case, Outcome, Reference, Trial, tried


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the cases that were asked for; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        packages.provide(accounting=any(_clusters(options)))
        with terminable():
            return _try_all(options)
    except ClusterError as error:
        print(f"tests.slurm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tests.slurm: interrupted; the cluster is down again", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm", description=(__doc__ or "").split("\n")[0])
    cases = "; ".join(f"{case.name}: {case.does}" for case in CASES.values())
    parser.add_argument("--case", nargs="+", choices=CASES, metavar="NAME", help=f"these alone: {cases}")
    accounting = "only with slurmdbd and MariaDB, for sacct and accounts"
    parser.add_argument("--accounting", action=argparse.BooleanOptionalAction, help=accounting)
    parser.add_argument("--seed", type=int, default=0, help="that the moments of what is done are drawn from")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp"), help="folder for all files, of a short path")
    parser.add_argument("--keep", action="store_true", help="keep the folders of all cases")
    return parser


def _try_all(options: argparse.Namespace) -> int:
    port = free_port()
    scratch = Path(tempfile.mkdtemp(prefix="slurm", dir=options.scratch)).resolve()
    right = False
    try:
        outcomes = _outcomes(options, scratch, port)
        print(*_counts(outcomes), sep="\n")
        right = all(outcome.right for outcome in outcomes)
    except KeyboardInterrupt:
        right = True
        raise
    finally:
        if right and not options.keep:
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            print(f"files of the cases: {scratch}")
    return 0 if right else 1


def _outcomes(options: argparse.Namespace, scratch: Path, port: int) -> list[Outcome]:
    """What the cases come to, each told at once."""
    reference = functools.cache(functools.partial(_reference, scratch))
    outcomes = []
    for accounting in _clusters(options):
        folder = scratch / ("box-accounting" if accounting else "box")
        with running(Cluster(folder, port, accounting=accounting)) as cluster:
            print(packages.versions(cluster), flush=True)
            outcomes += [_outcome(case, cluster, scratch, reference, options) for case in _chosen(options, accounting)]
    return outcomes


def _outcome(case: Case, cluster: Cluster, scratch: Path, reference: Reference, options: argparse.Namespace) -> Outcome:
    """What a case comes to; the folder of one that went wrong stays."""
    draws = random.Random(f"{options.seed}/{case.name}")
    folder = scratch / (f"{case.name}-accounting" if cluster.accounting else case.name)
    outcome = tried(case, Trial(case.name, folder, cluster, draws, reference))
    print(*_told(case, outcome, cluster, options), sep="\n", flush=True)
    if outcome.right and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _clusters(options: argparse.Namespace) -> list[bool]:
    """Whether there is accounting, for each cluster that is wanted."""
    if options.accounting is not None:
        return [options.accounting]
    if options.case:
        return sorted({bool(CASES[name].accounting) for name in options.case})
    return [False, True]


def _chosen(options: argparse.Namespace, accounting: bool) -> list[Case]:
    """The cases that were named, each once; otherwise those that this cluster can tell something new of."""
    if options.case:
        named = [CASES[name] for name in options.case]
        return named if options.accounting is not None else [case for case in named if case.accounting is accounting]
    usual = [case for case in CASES.values() if not case.if_named]
    return [case for case in usual if case.accounting is accounting or (accounting and case.twice)]


def _reference(scratch: Path, what: experiment.Experiment) -> Path:
    """The results of an experiment that ran without SLURM."""
    folder = scratch / f"here-{what.name}"
    experiment.run_here(what, folder)
    return folder / experiment.RESULTS


def _told(case: Case, outcome: Outcome, cluster: Cluster, options: argparse.Namespace) -> list[str]:
    word = "right" if outcome.right else "wrong"
    told = f"{word}  {case.name} ({case.does}): expected: {case.expected}. Seen: {outcome.seen}."
    accounting = "--accounting" if cluster.accounting else "--no-accounting"
    again = f"       again: python -m tests.slurm --case {case.name} --seed {options.seed} {accounting}"
    return [f"{told} {outcome.seconds:.0f} s", *([] if outcome.right else [again])]


def _counts(outcomes: Sequence[Outcome]) -> list[str]:
    """What happened in all cases, in lines."""
    counts = {
        name: sum(getattr(outcome, name) for outcome in outcomes)
        for name in ("jobs", "cancelled", "preempted", "requeued", "lost", "values")
    }
    seconds = [one for outcome in outcomes for one in outcome.sigterms]
    times = (
        f", {min(seconds):.1f} to {max(seconds):.1f} s from what was done to the end of the training" if seconds else ""
    )
    right = sum(outcome.right for outcome in outcomes)
    return [
        f"{counts['jobs']} jobs submitted, {counts['cancelled']} cancelled, {counts['preempted']} pre-empted, "
        f"{counts['requeued']} requeued, {counts['lost']} lost with their node",
        f"SIGTERM seen by the training {len(seconds)} times{times}",
        f"{counts['values']:,} values equal to those of runs without SLURM",
        f"{right} of {len(outcomes)} cases right, {sum(outcome.seconds for outcome in outcomes):.0f} s",
    ]


if __name__ == "__main__":
    sys.exit(main())
