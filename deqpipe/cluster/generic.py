"""Profiles of the generic executor, which knows of a scheduler but its commands that submit, ask and cancel."""

import shlex
from collections.abc import Iterator

from deqpipe.cluster.asking import there
from deqpipe.cluster.check import Check, ok, wrong
from deqpipe.cluster.profile import Profile
from deqpipe.cluster.submission import PLACEHOLDER

_WITHOUT = {
    "submit": "jobs cannot be submitted",
    "status": "a job that is killed is waited for without end, as only files that it leaves tell of its end",
    "cancel": "jobs go on when Snakemake is stopped",
}


def checks(profile: Profile) -> Iterator[Check]:
    """Whether the commands of a profile are there, and what nobody has filled in."""
    for kind, without in _WITHOUT.items():
        yield _command(kind, profile.value(f"cluster-generic-{kind}-cmd"), without)
    if PLACEHOLDER in str(dict(profile.values)):
        yield wrong("profile", f"{PLACEHOLDER} still stands in {profile.path}", "put in what your cluster wants")


def _command(kind: str, line: str, without: str) -> Check:
    if not line:
        return wrong(kind, f"the profile has no cluster-generic-{kind}-cmd: {without}", "see profiles/ for examples")
    try:
        command = shlex.split(line)[0]
    except ValueError as error:
        return wrong(kind, f"{line}: {error}", f"mend cluster-generic-{kind}-cmd in the profile")
    if there(command):
        return ok(kind, command)
    return wrong(kind, f"{command} cannot be found: {without}", "run this where jobs are submitted, or load its module")
