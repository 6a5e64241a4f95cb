"""The columns of Table 1, in its order: an attack of one's own has another beside them. No torch."""

MAIN = ("Clean", "PGD", "AA", "ALL", "PGD per image", "ALL per image", "PGD gain")
"""Beside which attacks of users' files have theirs."""
OVER_CONTROL = "method's gain"
DEFENCE_PARTS = ("gain of Sec. 3.2", "3.2: state", "3.2: restarts", "3.2: descent")
"""The gain of a defence, and what it is made of."""
OWN_PARTS = ("gain of own defence", "own: state", "own: the rest")
"""The same of a defence from a user's file."""
TRAINING_PARTS = ("gain of Sec. 3.3", "3.3: state", "3.3: weights")
EVERY = (*MAIN, OVER_CONTROL, *DEFENCE_PARTS, *OWN_PARTS, *TRAINING_PARTS)
