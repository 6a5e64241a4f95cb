"""The speeds that a plan of a profile may be made with. The command line reads this; no torch."""

from typing import Literal, TypeAlias, get_args

SpeedName: TypeAlias = Literal["paper", "rates", "here"]
"""As the paper's tables say, by the rates of one GPU, as measured on this machine."""
SPEEDS: tuple[SpeedName, ...] = get_args(SpeedName)
