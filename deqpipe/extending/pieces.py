"""The values that a user's file defines, one class per kind of piece.

What is callable here is called by jobs with the package's own types, which are named in the docstrings: nothing in this
module imports torch.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Piece:
    """What all kinds have in common.

    Attributes:
        kind: what messages call it.
        name: in the configuration, in records and in file names: lower-case letters, digits and underscores.
        label: in tables and figures, each its own among pieces of a kind; of a defence behind a plus, as in
            `TRADES + LABEL`.
    """

    kind: ClassVar[str] = "piece"

    name: str
    label: str

    def __post_init__(self) -> None:
        """Refuse what lacks something.

        Raises:
            ValueError: says which attribute, its value and what is allowed.
        """
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.kind} name is {self.name!r}, but must be lower-case letters, digits and underscores, at most "
                "40, the first a letter"
            )
        if not isinstance(self.label, str) or not self.label.strip() or not self.label.isprintable():
            raise ValueError(f"{self.kind} {self.name}: label is {self.label!r}, but must be a line of text")

    def _check_function(self, attribute: str, *arguments: str) -> None:
        """Refuse what is no function of these arguments."""
        value = getattr(self, attribute)
        if not callable(value):
            raise ValueError(f"{self.kind} {self.name}: {attribute} is {value!r}, but must be a function")
        try:
            signature = inspect.signature(value)
        except ValueError:  # some functions written in C do not say what they take
            return
        try:
            signature.bind(*arguments)
        except TypeError:
            raise ValueError(
                f"{self.kind} {self.name}: {attribute} takes {signature}, but is called with ({', '.join(arguments)})"
            ) from None

    def _check_names(self, attribute: str) -> None:
        """Refuse what is no tuple of names: a text is one of letters."""
        value = getattr(self, attribute)
        if not isinstance(value, tuple | list) or not all(isinstance(one, str) for one in value):
            raise ValueError(
                f"{self.kind} {self.name}: {attribute} is {value!r}, but must be a tuple of names, such as ('a', 'b')"
            )


@dataclass(frozen=True)
class Defence(Piece):
    """A defence at test time: it changes the dynamics, what is decided by, or both.

    Every DEQ that is trained adversarially is evaluated with it as well: rows of their own in Tables 1 and 11, with an
    early state of their own, and the attacks of the grid, AutoAttack and the suite.

    Attributes:
        dynamics: (undefended `PlainDynamics`, `Settings`) -> `Dynamics`; None: the undefended ones.
        decide: logits (n, batch, classes), what the head reads off z^[1] .. z^[n] -> logits (batch, classes), what the
            decision at state n goes by. It must be differentiable, and no image may influence another. None: those of
            z^[n].
        evaluations: how many evaluations of f a decision takes, as a multiple of the undefended one's; the plan prices
            it by this.
        keys: dotted keys of the configuration that `dynamics` reads beside solver and threat_model.
        models: the DEQs that it is evaluated with; none: those of the paper.
    """

    kind: ClassVar[str] = "defence"

    dynamics: Callable[[Any, Any], Any] | None = None
    decide: Callable[[Any], Any] | None = None
    evaluations: float = 1.0
    keys: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a defence that defends by nothing."""
        super().__post_init__()
        if self.dynamics is None and self.decide is None:
            raise ValueError(f"{self.kind} {self.name}: has neither dynamics nor decide, but must change one of them")
        if self.dynamics is not None:
            self._check_function("dynamics", "undefended dynamics", "settings")
        if self.decide is not None:
            self._check_function("decide", "logits")
        self._check_names("keys")
        self._check_names("models")
        if not isinstance(self.evaluations, int | float) or not 0 < self.evaluations < 1e6:
            raise ValueError(
                f"{self.kind} {self.name}: evaluations is {self.evaluations!r}, but must be a number above 0"
            )


@dataclass(frozen=True)
class Solver(Piece):
    """A fixed-point solver, chosen by `solver: {name: ...}`.

    Attributes:
        build: a frozen dataclass with the methods of `deqpipe.solver.base.Solver`. Its fields are keys of the section,
            with their types; of those that every solver's section has (steps, tolerance, ...) it gets the values.
    """

    kind: ClassVar[str] = "solver"

    build: type | None = None

    def __post_init__(self) -> None:
        """Refuse what is no dataclass."""
        super().__post_init__()
        if not isinstance(self.build, type) or not is_dataclass(self.build):
            raise ValueError(f"{self.kind} {self.name}: build is {self.build!r}, but must be a dataclass")
        lacking = [name for name in SOLVER_METHODS if not callable(getattr(self.build, name, None))]
        if lacking:
            raise ValueError(f"{self.kind} {self.name}: {self.build.__name__} lacks {', '.join(lacking)}")


@dataclass(frozen=True)
class DataSource(Piece):
    """Images, chosen by `data: {source: ...}`. What is known of them is said before they are read: the plan needs it.

    Attributes:
        prepare: () -> training images, their classes, test images, their classes: bytes (images, channels, size, size)
            and whole numbers, as tensors or arrays. The same at every call.
        train: how many training images, those included that are held out for selection.
        test: how many test images.
        size: height and width.
        channels: of an image.
        classes: names; class k is classes[k].
    """

    kind: ClassVar[str] = "data source"

    prepare: Callable[[], Any] | None = None
    train: int = 0
    test: int = 0
    size: int = 0
    channels: int = 1
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a source that says too little."""
        super().__post_init__()
        self._check_function("prepare")
        for attribute in ("train", "test", "size", "channels"):
            value = getattr(self, attribute)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{self.kind} {self.name}: {attribute} is {value!r}, but must be at least 1")
        if len(self.classes) < 2 or not all(isinstance(one, str) and one for one in self.classes):
            raise ValueError(f"{self.kind} {self.name}: classes is {self.classes!r}, but must be two names or more")


@dataclass(frozen=True)
class Attack(Piece):
    """An attack on decisions, with a stage of its own, and a column of Table 1 that is there only with it.

    Attributes:
        craft: (`deqpipe.attack.own.Target`, images, their classes) -> images within the target's ball and [0, 1].
        gradients: how many gradients, or queries, it spends on an image; the plan prices it by this.
        keys: dotted keys of the configuration that it depends on beside threat_model; `Target.settings` has them.
    """

    kind: ClassVar[str] = "attack"

    craft: Callable[[Any, Any, Any], Any] | None = None
    gradients: int = 0
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an attack that says too little."""
        super().__post_init__()
        self._check_function("craft", "target", "images", "classes")
        self._check_names("keys")
        if not isinstance(self.gradients, int) or self.gradients < 1:
            raise ValueError(f"{self.kind} {self.name}: gradients is {self.gradients!r}, but must be at least 1")


@dataclass(frozen=True)
class Table(Piece):
    """A table in the report, and a target of its own: it is numbered behind those of the paper, in the order of files.

    Attributes:
        label: its title.
        make: `deqpipe.analysis.layout.Tree`, the results of one seed -> row -> column -> what stands there: a
            `deqpipe.statistics.intervals.Estimate` of a share, shown in percent with its interval, or a number.
        needs: stages whose files it reads, of every model that they concern; `deqpipe spec --help` lists them.
        caption: one or two sentences under the title.
        unit: of the numbers that are no estimates.
    """

    kind: ClassVar[str] = "table"

    make: Callable[[Any], Any] | None = None
    needs: tuple[str, ...] = ()
    caption: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        """Refuse a table of nothing."""
        super().__post_init__()
        self._check_function("make", "results")
        if not self.needs or not all(isinstance(one, str) for one in self.needs):
            raise ValueError(f"{self.kind} {self.name}: needs is {self.needs!r}, but must be the names of stages")


@dataclass(frozen=True)
class Model(Piece):
    """A model with states: trained adversarially from scratch by the keys of `training`, evaluated as all DEQs are.

    Attributes:
        build: (image shape (channels, height, width), number of classes) -> torch.nn.Module with `bind(x) -> f`,
            `initial_state(x)` and `logits(z)` (`deqpipe.model.interface.UserModel`). What it draws for its parameters
            is drawn from the seed.
        frameworks: pgd_at, trades, or both: one model each.
        defences: of the package, that it is evaluated with: plain, entropy.
    """

    kind: ClassVar[str] = "model"

    build: Callable[[Any, Any], Any] | None = None
    frameworks: tuple[str, ...] = ("trades",)
    defences: tuple[str, ...] = ("plain",)

    def __post_init__(self) -> None:
        """Refuse a model that nothing trains or decides by."""
        super().__post_init__()
        self._check_function("build", "image shape", "number of classes")
        for attribute, known in (("frameworks", ("pgd_at", "trades")), ("defences", ("plain", "entropy"))):
            value = getattr(self, attribute)
            if not value or not set(value) <= set(known):
                raise ValueError(
                    f"{self.kind} {self.name}: {attribute} is {value!r}, but must be of {', '.join(known)}"
                )


SOLVER_METHODS = (
    "init", "propose", "step", "advance", "forget", "reevaluate", "rebase", "differentiable", "keep",
)  # fmt: skip
KINDS: tuple[type[Piece], ...] = (Attack, DataSource, Defence, Model, Solver, Table)
