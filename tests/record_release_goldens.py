"""Cuts recordings of the authors' release down to tests/golden/release.

Use: `python tests/record_release_goldens.py FOLDER`. The folder holds `<model>.pth.tar`, `<model>_eval.npz`
and, of one model, `<model>_train.npz`.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GOLDEN = Path(__file__).parent / "golden" / "release"
MODELS = ("small", "rough", "contractive")
STRIDE = 31  # prime, so that what is kept wanders over rows, columns and channels


def cut(key: str, value: NDArray[np.generic]) -> NDArray[np.generic]:
    """Every 31st entry of flattened states (step, batch, entries) and gradients (batch, entries); others whole."""
    if key == "states":
        return value[:, :, ::STRIDE]
    if key.startswith("grad_"):
        return value.reshape(len(value), -1)[:, ::STRIDE]
    return value


def recorded(folder: Path, model: str) -> dict[str, NDArray[np.generic]]:
    """All that was recorded of a model, cut.

    Raises:
        FileNotFoundError: there is no recording.
        ValueError: two recordings have a key in common.
    """
    values: dict[str, NDArray[np.generic]] = {}
    if not (paths := sorted(folder.glob(f"{model}_*.npz"))):
        raise FileNotFoundError(f"no {model}_*.npz in {folder}")
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            if twice := values.keys() & set(file.files):
                raise ValueError(f"{path} repeats {sorted(twice)}, but every key may be recorded once")
            values |= {key: cut(key, file[key]) for key in file.files}
    return values


def main() -> None:
    """Write the archives and copy the checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the recordings are")
    folder: Path = parser.parse_args().folder
    for model in MODELS:
        checkpoint = folder / f"{model}.pth.tar"
        np.savez_compressed(GOLDEN / f"{model}.npz", allow_pickle=False, **recorded(folder, model))
        shutil.copyfile(checkpoint, GOLDEN / checkpoint.name)


if __name__ == "__main__":
    main()
