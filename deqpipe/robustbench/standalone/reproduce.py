"""Clean and AutoAttack accuracy of the model that lies beside this file, compared with what its model_info says.

    python reproduce.py                    # all test images, or as many as were measured before
    python reproduce.py --write            # and put the numbers into model_info
    python reproduce.py --images 100 --attacks apgd-ce    # a quick look; compared with nothing

Needs torch, one of pyautoattack and autoattack, and for the images of CIFAR-10 torchvision, for digits scikit-learn.
Exit status: 0 done; 1 an accuracy differs from model_info's by more than the tolerance; 2 something is missing.
"""

import argparse
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The attacks of AutoAttack's standard version, in its order."""
LEAST_CLASSES = 4  # of the targeted loss of apgd-t
SEED = 0  # of AutoAttack; each attack begins each batch with it
TOLERANCE = 0.5  # percentage points
MEASUREMENT = "measurement.json"


class Missing(Exception):
    """Something that is needed is not there, or not what it must be; the message says what."""


@dataclass
class Warnings:
    """Takes the place of AutoAttack's log and keeps what it warns of."""

    messages: list[str] = field(default_factory=list)

    def warning(self, message: str) -> None:
        """Keep a message; those that differ in numbers only are kept once."""
        kinds = {re.sub(r"\d+", "#", one) for one in self.messages}
        if re.sub(r"\d+", "#", message) not in kinds:
            self.messages.append(message)

    def log(self, message: str) -> None:
        """The original package warns through this, and tells its progress."""
        if "See " in message:
            self.warning(message)

    def debug(self, message: str) -> None:
        """Progress is not kept."""

    info = debug


@dataclass(frozen=True)
class Measured:
    """What was counted.

    Attributes:
        images: how many, the first of the test set.
        clean: of them, those that are classified right.
        robust: those that still are after each attack, in the order of the attacks.
        warnings: of AutoAttack.
    """

    images: int
    clean: int
    robust: dict[str, int]
    warnings: list[str]

    @property
    def clean_acc(self) -> float:
        """In percent."""
        return 100 * self.clean / self.images

    @property
    def autoattack_acc(self) -> float:
        """In percent."""
        return 100 * min([self.clean, *self.robust.values()]) / self.images


def model_info_of(folder: Path) -> Path:
    """The only file model_info/DATASET/THREAT_MODEL/NAME.json of a folder."""
    files = sorted(folder.glob("model_info/*/*/*.json"))
    if len(files) != 1:
        raise Missing(f"{folder} holds {len(files)} files model_info/*/*/*.json, but must hold one")
    return files[0]


def load(folder: Path, name: str) -> tuple[Any, nn.Module]:
    """The module NAME.py and its network, with the weights of NAME.pt, in evaluation mode and frozen."""
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), folder / f"{name}.py")
    if spec is None or spec.loader is None or not (folder / f"{name}.py").is_file():
        raise Missing(f"{folder / name}.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = getattr(module, name.replace("-", "_"))()
    with _reading(folder / f"{name}.pt"):
        network.load_state_dict(torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True), strict=True)
    return module, network.eval().requires_grad_(False)


def images_of(dataset: str, data: Path, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """All test images, (batch, channels, height, width) in [0, 1], and their classes.

    Args:
        dataset: "cifar10" in the order of its files, "digits" (the last 360 of scikit-learn's), or another name.
        data: where CIFAR-10 is kept, and downloaded to if it is not there; of another dataset the folder that holds
            test/CLASS/*, or an npz file of x (in [0, 1], or 8 bits) and y.
        classes: their names.
    """
    if data.suffix == ".npz":
        return _of_npz(data)
    if dataset == "cifar10":
        return _of_cifar10(data)
    return _of_digits() if dataset == "digits" else _of_folder(data / "test", classes)


def _of_npz(file: Path) -> tuple[Tensor, Tensor]:
    import numpy as np

    with _reading(file), file.open("rb") as handle, np.load(handle) as arrays:
        if not {"x", "y"} <= set(arrays):
            raise Missing(f"{file} holds no x (images) and y (classes)")
        x, y = arrays["x"], arrays["y"]
    if x.dtype.kind not in "fui" or y.dtype.kind not in "ui":
        raise Missing(f"{file}: x is {x.dtype} and y {y.dtype}, but must be numbers and whole numbers")
    scaled = x / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
    return torch.from_numpy(scaled), torch.from_numpy(y.astype(np.int64))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Answer by one line that a file is missing or damaged: each format fails in ways of its own."""
    if not file.is_file():
        raise Missing(f"{file} is missing")
    try:
        yield
    except (Missing, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        raise Missing(f"{file} cannot be read: {reason}") from None


def _json(file: Path) -> dict[str, Any]:
    with _reading(file):
        values = dict[str, Any](json.loads(file.read_text(encoding="utf-8")))
    return values


def _of_cifar10(root: Path) -> tuple[Tensor, Tensor]:
    datasets = _imported("torchvision.datasets", "torchvision")
    test = datasets.CIFAR10(str(root), train=False, download=True)
    return torch.from_numpy(test.data).permute(0, 3, 1, 2) / 255.0, torch.tensor(test.targets)


def _of_digits() -> tuple[Tensor, Tensor]:
    digits = _imported("sklearn.datasets", "scikit-learn").load_digits()
    x = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None] / 255.0
    return x[-360:], torch.from_numpy(digits.target).long()[-360:]


def _of_folder(folder: Path, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The first image of every class, then the second of every class, and so on; files sorted by name."""
    import numpy as np

    image = _imported("PIL.Image", "pillow")
    files = [
        (number, label, path)
        for label, name in enumerate(classes)
        for number, path in enumerate(sorted(p for p in folder.glob(f"{name}/*") if not p.name.startswith(".")))
    ]
    if not files:
        raise Missing(f"{folder} holds no images CLASS/*: say with --data where the test images are")
    ordered = sorted(files, key=lambda one: one[:2])
    pixels = []
    for *_, path in ordered:
        with _reading(path):
            pixels.append(np.asarray(image.open(path).convert("RGB")))
        if pixels[-1].shape != pixels[0].shape:
            sizes = " and ".join("x".join(map(str, one.shape[:2])) for one in (pixels[-1], pixels[0]))
            raise Missing(f"{path} and {ordered[0][-1]} have {sizes} pixels, but all images must have as many")
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255.0, torch.tensor(
        [label for _, label, _ in ordered]
    )


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Missing(f"the images need the package {package}, which is not installed") from None


def measure(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    attacks: Sequence[str] = STANDARD,
    batch_size: int = 250,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda line: None,
) -> Measured:
    """Clean accuracy, and what AutoAttack leaves of it: attack after attack, on the images that are still right.

    That is how its standard version goes, with the same seeds and batches. An image counts as right only if all of its
    logits are finite; every adversarial image is judged again, within the ball and [0, 1].

    Args:
        network: the logits, in evaluation mode.
        x: images in [0, 1].
        y: their classes.
        epsilon: radius of the l-infinity ball, in units of the pixel range.
        attacks: names of AutoAttack's.
        batch_size: images at once.
        device: where it is computed.
        tell: is told of every attack's end.
    """
    warnings, network = Warnings(), network.to(device)
    classes = _classes(network, x, device)
    _refuse(attacks, classes=classes)
    right = _right(network, x, y, batch_size, device)
    clean, robust = int(right.sum()), {}
    tell(f"clean: {clean} of {len(x)} images right")
    for name in attacks:
        left = right.nonzero().flatten()
        if len(left):
            adversary = _adversary(network, name, epsilon, classes=classes, device=device)
            attacked = _run(adversary, warnings, x[left], y[left], batch_size)
            attacked = attacked.clamp(x[left] - epsilon, x[left] + epsilon).clamp(0, 1)
            right[left] = _right(network, attacked, y[left], batch_size, device)
        robust[name] = int(right.sum())
        tell(f"{name}: {robust[name]} left")
    before = min((robust[name] for name in robust if name != "square"), default=clean)
    if before - robust.get("square", before) > 0.002 * len(x):
        warnings.warning("Square Attack, which uses no gradient, fools images that the other attacks do not")
    return Measured(len(x), clean, robust, warnings.messages)


def _right(network: nn.Module, x: Tensor, y: Tensor, batch_size: int, device: str) -> Tensor:
    """Whether each image is classified right."""
    parts = []
    with torch.no_grad():
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = network(images.to(device)).cpu()
            parts.append((logits.argmax(1) == labels) & logits.isfinite().all(1))
    return torch.cat(parts)


def _classes(network: nn.Module, x: Tensor, device: str) -> int:
    with torch.no_grad():
        return int(network(x[:1].to(device)).shape[1])


def _refuse(attacks: Sequence[str], *, classes: int) -> None:
    """Refuse attacks that there are not, before the first of them takes its hours."""
    for attack in attacks:
        if attack not in STANDARD:
            raise Missing(f"attack {attack!r} is none of {', '.join(STANDARD)}")
    if "apgd-t" in attacks and classes < LEAST_CLASSES:
        raise Missing(
            f"attack apgd-t needs {LEAST_CLASSES} classes, but there are {classes}: reproduce.py --attacks takes others"
        )


def _adversary(network: nn.Module, attack: str, epsilon: float, *, classes: int, device: str) -> Any:
    """The library with one attack, as its standard version sets it up; of fewer than ten classes all are targets."""
    packages = [name for name in ("pyautoattack", "autoattack") if importlib.util.find_spec(name) is not None]
    if not packages:
        raise Missing("AutoAttack needs the package pyautoattack or autoattack, and neither is installed")
    library = importlib.import_module(packages[0])
    adversary = library.AutoAttack(network, norm="Linf", eps=epsilon, seed=SEED, version="standard", device=device)
    adversary.attacks_to_run = [attack]
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(9, classes - 1)
    return adversary


def _run(adversary: Any, warnings: Warnings, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    for part in (adversary, adversary.apgd, adversary.apgd_targeted):
        part.logger = warnings
    name = "batch_size" if adversary.__module__.startswith("pyautoattack") else "bs"
    result = adversary.run_standard_evaluation(x, y, **{name: batch_size})
    attacked: Tensor = result[0] if isinstance(result, tuple) else result
    return attacked.cpu()


def radius(eps: str) -> float:
    """What "8/255" or "0.031" stands for."""
    above, _, below = eps.partition("/")
    return float(above) / float(below or 1)


def write(folder: Path, measured: Measured, *, device: str) -> None:
    """Put the accuracies into model_info, and the counts beside it.

    `unreliable` is set where AutoAttack warned that its number may not be what it seems.
    """
    file = model_info_of(folder)
    info = _json(file)
    info["clean_acc"], info["autoattack_acc"] = f"{measured.clean_acc:.2f}", f"{measured.autoattack_acc:.2f}"
    info["unreliable"] = bool(measured.warnings)
    note = f" Accuracies are of the first {measured.images} test images."
    info["footnote"] = re.sub(r" Accuracies are of the first \d+ test images\.", "", info["footnote"] or "") + note
    counts = {
        "images": measured.images,
        "clean": measured.clean,
        "robust": measured.robust,
        "warnings": measured.warnings,
        "eps": info["eps"],
        "seed": SEED,
        "device": device,
        "torch": torch.__version__,
    }
    _put(file, info)
    _put(folder / MEASUREMENT, counts)


def _put(file: Path, values: dict[str, Any]) -> None:
    """Write a file whole: on a full disk the older one stays."""
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Missing(f"{file} cannot be written: {error.strerror}") from None


def differences(folder: Path, measured: Measured, *, tolerance: float) -> list[str] | None:
    """Accuracies that are not model_info's, in words; None: it has none of so many images.

    Args:
        folder: that of model_info.
        measured: what was counted now.
        tolerance: in percentage points; one image is always allowed.
    """
    info = _json(model_info_of(folder))
    file = folder / MEASUREMENT
    known = _json(file).get("images") if file.is_file() else None
    if known != measured.images or info["clean_acc"] is None or info["autoattack_acc"] is None:
        return None
    allowed = max(tolerance, 100 / measured.images) + 0.005  # model_info has two digits
    return [
        f"{name} is {value:.2f}, but model_info has {info[name]}: more than {allowed:.2f} points apart"
        for name, value in (("clean_acc", measured.clean_acc), ("autoattack_acc", measured.autoattack_acc))
        if abs(value - float(info[name])) > allowed
    ]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--images", type=positive_int, help="only the first so many; by default as many as were measured, or all"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="where CIFAR-10 is, or test/CLASS/*, or an npz file"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=positive_int, default=250, help="images at once")
    parser.add_argument("--attacks", default=",".join(STANDARD), help="of these, only some")
    text = "percentage points that an accuracy may differ by; one image is always allowed"
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help=text)
    parser.add_argument("--write", action="store_true", help="put the accuracies into model_info")
    return parser.parse_args(arguments)


def positive_int(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def run(folder: Path, options: argparse.Namespace) -> int:
    """Measure, print, and write or compare; returns the exit status."""
    measured = counted(folder, options)
    if tuple(options.attacks.split(",")) != STANDARD:
        print("not all of AutoAttack: compared with nothing, and nothing is written")
        return 0
    if options.write:
        write(folder, measured, device=options.device)
        print(f"written into {model_info_of(folder)}")
        return 0
    return _compared(differences(folder, measured, tolerance=options.tolerance))


def counted(folder: Path, options: argparse.Namespace) -> Measured:
    """Measure, and print what is counted."""
    file = model_info_of(folder)
    info = _json(file)
    module, network = load(folder, file.stem)
    x, y = images_of(info["dataset"], options.data, module.CLASSES)
    _refuse_labels(y, len(x), classes=len(module.CLASSES))
    x, y = _chosen(folder, options.images, (x, y))
    if x.shape[1:] != module.IMAGE_SHAPE:
        raise Missing(f"images are {tuple(x.shape[1:])}, but the network takes {module.IMAGE_SHAPE}")
    if not (x.min() >= 0 and x.max() <= 1):
        raise Missing(f"images are from {x.min():g} to {x.max():g}, but must be in [0, 1]")
    measured = measure(
        network, x, y, epsilon=radius(info["eps"]), attacks=options.attacks.split(","), batch_size=options.batch_size,
        device=options.device, tell=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(f"clean_acc {measured.clean_acc:.2f}, autoattack_acc {measured.autoattack_acc:.2f} of {len(x)} images")
    for message in measured.warnings:
        print(f"AutoAttack warns: {message}")
    return measured


def _refuse_labels(y: Tensor, images: int, *, classes: int) -> None:
    """Refuse classes that would make an accuracy say nothing."""
    if y.shape != (images,) or not images:
        raise Missing(f"y has shape {tuple(y.shape)} for {images} images, but must hold one class for each")
    wrong = y[(y < 0) | (y >= classes)]
    if len(wrong):
        raise Missing(f"class {int(wrong[0])} is in y, but the network has classes 0 to {classes - 1}")


def _chosen(folder: Path, count: int | None, images: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    file, (x, y) = folder / MEASUREMENT, images
    if count is None and file.is_file():
        count = _json(file).get("images")
    if count is not None and not 1 <= count <= len(x):
        raise Missing(f"{count} images were asked for, but there are 1 to {len(x)}")
    return x[:count], y[:count]


def _compared(lines: list[str] | None) -> int:
    if lines is None:
        print("model_info has no accuracies of so many images to compare with; --write puts these there")
        return 0
    print(*(lines or ["the same as model_info's"]), sep="\n")
    return 1 if lines else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on the folder of this file."""
    try:
        return run(Path(__file__).parent, parsed(arguments))
    except Missing as error:
        print(f"reproduce.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
