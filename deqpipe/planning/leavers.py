"""Which share of its images each of AutoAttack's attacks is run on: those that no attack before has turned.

With `autoattack.mode: standard` an image leaves once the decision errs, and does not enter when it errs without an
attack. How many do is known when the attacks have run; before that it is assumed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deqpipe.config import AttackName, Config
from deqpipe.counts import Number
from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.workflow import specs
from deqpipe.workflow.defences import defence_of
from deqpipe.workflow.dry_run import PlannedJob
from deqpipe.workflow.library_attacks import LIBRARY_ATTACKS


@dataclass(frozen=True)
class Entering:
    """The share of its images that each attack is run on.

    Attributes:
        shares: per attack.
        source: whence they are known, in words.
    """

    shares: Mapping[AttackName, Number]
    source: str

    @property
    def everybody(self) -> bool:
        """Whether nobody leaves."""
        return all(share == 1 for share in self.shares.values())

    @property
    def words(self) -> str:
        """Such as "assumed: 78 % meet APGD-CE, 52 % APGD-T"."""
        met = ", ".join(f"{100 * share:.0f} % {LIBRARY_ATTACKS[attack].label}" for attack, share in self.shares.items())
        return f"{self.source}: " + met.replace(" % ", " % meet ", 1)


def entering(config: Config, jobs: Sequence[PlannedJob]) -> Entering:
    """What the finished ones of the AutoAttack jobs say; if there is none, what is assumed."""
    attacks = config.autoattack.attacks
    if config.autoattack.mode == "individual":
        return Entering(dict.fromkeys(attacks, 1), "autoattack.mode: individual")
    planned = [job for job in jobs if job.rule == "autoattack"]
    parts = [met for job in planned if (met := _met(config, job)) is not None]
    if not parts:
        return Entering({attack: LIBRARY_ATTACKS[attack].entering for attack in attacks}, "assumed")
    met, exposed = np.sum(parts, axis=0)
    shares: dict[AttackName, Number] = {
        attack: float(met[n] / exposed[n]) for n, attack in enumerate(attacks) if exposed[n]
    }
    return Entering(shares, f"measured in {len(parts)} of {len(planned)} jobs")


def _met(config: Config, job: PlannedJob) -> np.ndarray | None:
    """How many images each attack was run on in a finished job, and could have been: (2, attacks)."""
    path = Path(job.outputs[0])
    if not path.is_file():
        return None
    try:
        rows = records.read(path, ("image", "attack"))
    except UserError:
        return None  # damaged, or of an older version: the workflow makes it again
    if specs.fingerprint(rows.provenance[0]["spec"]) != _fingerprint(config, job):
        return None
    clean, attacks = rows["image"][rows["attack"] == "clean"], config.autoattack.attacks
    for_square = int((clean < config.autoattack.square_images).sum())
    exposed = [for_square if LIBRARY_ATTACKS[attack].first_images_only else len(clean) for attack in attacks]
    return np.array([[int((rows["attack"] == attack).sum()) for attack in attacks], exposed])


def _fingerprint(config: Config, job: PlannedJob) -> str:
    wanted = job.wildcards
    defence = defence_of(wanted["defence"]).name
    spec = specs.build("autoattack", config, model=wanted["model"], seed=int(wanted["seed"]), defence=defence)
    return specs.fingerprint(spec)
