"""Array types with named axes, as they stand in signatures.

Axes: batch (images), channels, height, width; state (all scales of z, flattened scale by scale in channel, row, column
order, finest scale first); step (states z^[1], z^[2], .. along the dynamics); classes.
"""

from typing import TypeAlias

from jaxtyping import Float, Int, UInt8
from torch import Tensor

Images: TypeAlias = Float[Tensor, "batch channels height width"]
"""Images in [0, 1]."""
Pixels: TypeAlias = UInt8[Tensor, "batch channels height width"]
"""Images as stored."""
Labels: TypeAlias = Int[Tensor, " batch"]
"""Classes, counted from 0."""
State: TypeAlias = Float[Tensor, "batch state"]
"""z."""
Logits: TypeAlias = Float[Tensor, "batch classes"]
PerImage: TypeAlias = Float[Tensor, " batch"]
Scalar: TypeAlias = Float[Tensor, ""]
