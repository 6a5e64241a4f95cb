"""Models trained, and training timed."""

import argparse
from typing import Any

from deqpipe.cli.arguments import add, add_budget, add_job, add_paths, not_negative, ways
from deqpipe.workflow.stages import StageName

_TRAININGS: tuple[tuple[str, StageName, str, tuple[str, ...]], ...] = (
    ("pretrain", "pretrain", "Train the trunk that all DEQs start from.", ("handoff",)),
    ("train-deq", "train_deq", "Train a DEQ adversarially from the trunk.", ("trunk",)),
    ("train-feedforward", "train_feedforward", "Train a network without states adversarially.", ()),
    ("train-own", "train_own", "Train a model that a user's file defines adversarially.", ()),
)
"""Command, stage, what it does, and the files that it reads or writes beside those of every training."""


def register(commands: Any) -> None:
    """Add pretrain, train-deq, train-feedforward, train-own and time-training."""
    for name, stage, text, more in _TRAININGS:
        parser = add(commands, name, _train, text)
        parser.set_defaults(stage=stage)
        add_job(parser, stage)
        add_paths(parser, "data", "state", "best", "last", "history", *more)
        add_budget(parser)
        interval = "seconds between two saves within an epoch"
        parser.add_argument("--save-interval", type=not_negative, default=300.0, metavar="SECONDS", help=interval)
    timing = add(commands, "time-training", _time_training, "Time training steps of the four methods (Table 9).")
    add_job(timing, "time_training")
    add_paths(timing, "data", "trunk", "state", "output")
    add_budget(timing)


def _train(options: argparse.Namespace) -> int:
    from deqpipe.machine import device
    from deqpipe.training import run

    outputs = ("best", "last", "history", "handoff")
    job = run.TrainingJob(
        spec=options.spec,
        inputs={name: getattr(options, name) for name in ("data", "trunk") if name in options},
        outputs={name: getattr(options, name) for name in outputs if name in options},
        state=options.state,
        device=device.choose(options.device),
        threads=options.threads,
        ways=ways(options),
        budget_minutes=options.time_budget_minutes,
        save_interval=options.save_interval,
    )
    train = {
        "pretrain": run.pretrain, "train_deq": run.train_deq, "train_feedforward": run.train_feedforward,
        "train_own": run.train_own,
    }  # fmt: skip
    return train[options.stage](job)


def _time_training(options: argparse.Namespace) -> int:
    from deqpipe.machine import device
    from deqpipe.training import timing

    job = timing.TimingJob(
        spec=options.spec,
        data=options.data,
        trunk=options.trunk,
        output=options.output,
        device=device.choose(options.device),
        threads=options.threads,
        state=options.state,
        budget_minutes=options.time_budget_minutes,
        ways=ways(options),
    )
    return timing.time_training(job)
