"""What Sec. 3.2 with every T_f and R says of the same attacked images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deqpipe.analysis import answers, reading
from deqpipe.analysis.answers import AttackAnswers
from deqpipe.analysis.attacks import attacks, strongest_present
from deqpipe.analysis.early_states import early_states, selection_source
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Files, Source
from deqpipe.errors import UserError
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Estimate
from deqpipe.workflow import gridpoints, vocabulary
from deqpipe.workflow.defences import ENTROPY
from deqpipe.workflow.gridpoints import EntropySetting


@dataclass(frozen=True)
class Sweep:
    """Every T_f and R, and their controls, on the same images.

    Attributes:
        by_setting: the answers with each.
        state: that all of them decide at: the early state of the default T_f and R.
        bootstrap: how intervals are made.
        dropped: how many attacks of the grid lost a race.
        sources: the files behind it.
    """

    by_setting: Mapping[EntropySetting, AttackAnswers]
    state: int
    bootstrap: Bootstrap
    dropped: int
    sources: tuple[Source, ...]

    @property
    def best(self) -> tuple[EntropySetting, ...]:
        """The T_f and R with the highest minimum; controls are none. Several where these are equal."""
        lowest = {one: scored.right.sum(axis=1).min() for one, scored in self.by_setting.items() if one.input_steps}
        return tuple(one for one, correct in lowest.items() if correct == max(lowest.values()))

    def gain(self, setting: EntropySetting) -> Estimate:
        """Minimum with a setting minus that with R = 0 and the same T_f, paired by image."""
        zero = self.by_setting[EntropySetting(setting.solver_steps, 0)]
        return intervals.minimum_difference(self.by_setting[setting].right, zero.right, self.bootstrap)


def sweep(tree: Tree) -> Sweep:
    """The records of Table 5.

    Raises:
        UserError: they are missing, incomplete, doubled, or of another configuration.
    """
    config, where = tree.config, "records of T_f and R"
    model, settings = vocabulary.SWEEP_MODEL, gridpoints.entropy_settings(config)
    files = tree.opened("attack_sweep", model, tree.sweep(model))
    _refuse_other_settings(files, settings, where)
    most = config.entropy_sweep.points
    state = early_states(tree, model)[ENTROPY.name].state
    judges = {(model, setting.defence): state for setting in settings}
    rows = answers.read(tree, files, judges, crafter=model)
    ran = (
        attacks(tree, model, "sweep") if most == "all" else strongest_present(rows.values(), most, config, where=where)
    )
    by_setting = {
        one: answers.score(
            rows[model, one.defence], ran, state=state, config=config, where=f"{where}, of {one.defence},"
        )
        for one in settings
    }
    behind = (*files.sources, selection_source(tree, model), *ran.sources)
    return Sweep(by_setting, state, tree.bootstrap, len(ran.dropped), behind)


def _refuse_other_settings(files: Files, settings: Sequence[EntropySetting], where: str) -> None:
    foreign = sorted(set(reading.defences(files)) - {setting.defence for setting in settings})
    if foreign:
        raise UserError(f"{where} hold the setting {foreign[0]}, which the configuration does not ask for")
