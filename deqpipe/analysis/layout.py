"""A results folder: where the files of a repetition lie, and which of them are of the configuration."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from deqpipe.analysis import reading
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.reading import Files, Judge, RowQuery, Rows, Source
from deqpipe.config import Config
from deqpipe.statistics.intervals import Bootstrap
from deqpipe.workflow import gridpoints, specs, vocabulary
from deqpipe.workflow.defences import DefenceName
from deqpipe.workflow.layout import files, needed
from deqpipe.workflow.products import Need
from deqpipe.workflow.stages import STAGES, StageName, training_stage

AttacksOf: TypeAlias = Literal["grid", "sweep"]
"""Which attacks race: those of the grid, or those of Table 5."""


@dataclass(frozen=True)
class Tree:
    """A results folder, the configuration that it must match, and a repetition in it."""

    root: Path
    config: Config
    seed: int

    def files(
        self, stage: StageName, model: str | None = None, *, below: int | None = None, **fixed: str
    ) -> tuple[Path, ...]:
        """The files of a stage, as `workflow.layout.files` has them."""
        return tuple(self.root / path for path in files(stage, self.config, model, self.seed, below=below, **fixed))

    def file(self, stage: StageName, model: str | None = None) -> Path:
        """The file of a stage that has one for each model and repetition."""
        (only,) = self.files(stage, model)
        return only

    def history(self, model: str) -> Path:
        """The training history of a model."""
        return self.weights(model).with_name("history.csv")

    def weights(self, model: str) -> Path:
        """The weights that were kept."""
        return self.file(training_stage(model), model)

    def select(self, model: str) -> Path:
        """The early states of a model."""
        return self.file("select", model)

    def clean(self, model: str) -> Path:
        """Records of a model on clean images."""
        return self.file("clean", model)

    def attacked(self, model: str, *, below: int | None = None) -> tuple[Path, ...]:
        """Records of a model under attack: the shards of the grid, or of its images below one; or ready-made PGD."""
        if not vocabulary.MODELS[model].is_deq:
            return (self.file("attack_pgd", model),)
        return self.files("attack_grid", model, below=below)

    def autoattack(self, decision: Decision) -> tuple[Path, ...]:
        """Records of AutoAttack on a decision."""
        return self.files("autoattack", decision.model, defence=decision.defence)

    def top(self, model: str) -> tuple[Path, ...]:
        """Records of APGD-CE and Square at the strongest points (Table 4)."""
        return self.files("attack_top", model)

    def in_loop(self, model: str) -> tuple[Path, ...]:
        """Records of points crafted through Sec. 3.2 (Table 3)."""
        return self.files("attack_in_loop", model)

    def sweep(self, model: str, *, below: int | None = None) -> tuple[Path, ...]:
        """Records of attacks scored on Sec. 3.2 with every T_f and R (Table 5); or those of images below one."""
        return self.files("attack_sweep", model, below=below)

    def example(self, model: str) -> Path:
        """The images of Figure 2 (c)."""
        return self.file("attack_example", model)

    def strongest(self, model: str) -> Path:
        """The ranked points of the grid."""
        return self.file("strongest", model)

    def race(self, kind: AttacksOf, model: str) -> Path:
        """The points that a race left."""
        return self.file("race_sweep" if kind == "sweep" else "race", model)

    @property
    def timed_training(self) -> Path:
        """Speed of training steps (Table 9)."""
        return self.file("time_training")

    def timed_inference(self, model: str) -> Path:
        """Speed of inference (Table 10)."""
        return self.file("time_inference", model)

    def opened(
        self,
        stage: StageName,
        model: str,
        paths: Sequence[Path],
        *,
        defence: DefenceName | None = None,
        attack: str | None = None,
    ) -> Files:
        """Records of a stage that were seen to be of the configuration.

        Raises:
            UserError: a file is missing, no records file, or of another configuration.
        """
        seed = self.seed if STAGES[stage].seeded else None
        spec = specs.build(stage, self.config, model=model, seed=seed, defence=defence, attack=attack)
        return reading.opened(paths, spec, root=self.root)

    def rows(
        self,
        files: Files,
        asked: Mapping[Judge, RowQuery],
        *columns: str,
        grid: bool = True,
        crafted_on: str | None = None,
    ) -> dict[Judge, Rows]:
        """Rows of the evaluated images, by decision; of the grid's attacks, or of one whatever its surrogate is called.

        Raises:
            UserError: as `reading.read`.
        """
        points = gridpoints.grid_points(self.config) if grid else None
        return reading.read(
            files, asked, columns, grid=points, images=self.config.evaluation.images, crafted_on=crafted_on
        )

    def source(self, path: Path, provenance: Mapping[str, Any]) -> Source:
        """A file of this tree, with the provenance that it was read with."""
        return Source(str(path.relative_to(self.root)), dict(provenance))

    def checked_source(self, stage: StageName, model: str | None, path: Path, provenance: Mapping[str, Any]) -> Source:
        """A file of a stage that was seen to be of the configuration.

        Raises:
            UserError: its provenance is of another configuration.
        """
        spec = specs.build(stage, self.config, model=model, seed=self.seed)
        reading.refuse_other_spec(provenance, spec, path)
        return self.source(path, provenance)

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals of minima and differences are made."""
        settings = self.config.statistics
        return Bootstrap(resamples=settings.resamples, confidence=settings.confidence, seed=self.seed)

    def complete(self, needs: Iterable[Need]) -> bool:
        """Whether the files of some needs all exist; of speeds only the first repetition has any."""
        first = self.seed == self.config.seeds[0]
        return all((need.every_seed or first) and all(map(Path.exists, self._needed(need))) for need in needs)

    def _needed(self, need: Need) -> Iterator[Path]:
        return (self.root / path for path in needed(need, self.config, self.seed))
