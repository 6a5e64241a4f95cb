"""Early-state defence (Yang et al., 2022): which intermediate state decides."""

from collections.abc import Sequence


def best_state(accuracies: Sequence[float]) -> int:
    """The state, counted from 1, with the highest accuracy; of equals the later one.

    Args:
        accuracies: of z^[1] .. z^[N], under ready-made PGD on the validation split.

    Raises:
        ValueError: there is no state.
    """
    if not accuracies:
        raise ValueError("no accuracies were given, but at least one state is needed")
    return max(range(len(accuracies)), key=lambda n: (accuracies[n], n)) + 1
