"""An imported model in place of one that the workflow trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deqpipe.config import ModelConfig
from deqpipe.data import Dataset
from deqpipe.errors import UserError
from deqpipe.model import architecture
from deqpipe.results import checkpoint
from deqpipe.settings import Settings

_TRAINING_ONLY = ("dropout", "init")  # of no influence on a model that is trained already


def adopt(source: Path, target: Path, *, spec: Mapping[str, Any], dataset: Dataset) -> None:
    """Copy an imported model to where a trained one would stand, after a check that it is the one that is wanted.

    Args:
        source: written by `deqpipe import-checkpoint --model`.
        target: the copy; its provenance is that of the import.
        spec: as `specs.build_import` makes it.
        dataset: what the model will be evaluated on.

    Raises:
        UserError: it is another model, of another seed or architecture, or made for other images.
    """
    loaded = architecture.fitting(architecture.load_model(source, torch.device("cpu")), dataset, path=source)
    _check_name(loaded.provenance, spec, source)
    _check_architecture(loaded.architecture, Settings(spec["config"]).section("model", ModelConfig), source)
    stored = checkpoint.read(source)
    checkpoint.write(target, stored.tensors, {**stored.metadata, "adopted": {"spec": dict(spec)}})


def _check_name(provenance: Mapping[str, Any], spec: Mapping[str, Any], source: Path) -> None:
    said = provenance.get("spec", {})
    there, wanted = (said.get("model"), said.get("seed")), (spec["model"], spec["seed"])
    if there != wanted:
        known = "without --model" if there[0] is None else f"as {there[0]} of seed {there[1]}"
        raise UserError(
            f"checkpoint {source} was imported {known}, but stands in the configuration for "
            f"{wanted[0]} of seed {wanted[1]}: import it again with --model {wanted[0]} --seed {wanted[1]}"
        )


def _check_architecture(described: Mapping[str, Any], wanted: ModelConfig, source: Path) -> None:
    if described["type"] != "deq":
        raise UserError(f"checkpoint {source} holds a network without states, but must hold a DEQ")
    there = ModelConfig.model_validate(described["model"])
    for key in ModelConfig.model_fields:
        if key not in _TRAINING_ONLY and getattr(there, key) != getattr(wanted, key):
            raise UserError(
                f"checkpoint {source} has model.{key} {_plain(getattr(there, key))}, "
                f"but the configuration has {_plain(getattr(wanted, key))}"
            )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
