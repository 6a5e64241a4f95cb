"""Defences at test time: other dynamics, and the choice of the state that decides."""
