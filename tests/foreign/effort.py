"""The least effort with which every attack still runs."""

from deqpipe.foreign import plan
from deqpipe.foreign.plan import Effort

TINY = Effort(plan._suite(2, 2, 2, (2, 3), 4), (3, 2, 5), 2, (1, 3), (0.5,), (0.5, 2.0))
