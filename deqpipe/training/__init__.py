"""Training: pretraining, PGD-AT and TRADES, with exact resumption."""
