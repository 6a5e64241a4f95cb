"""Classifiers: the multiscale DEQ and the ResNet baseline. A model never knows a solver."""
