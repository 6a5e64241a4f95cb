"""The network that pyautoattack brings along as its example."""

from pyautoattack.examples.resnet import ResNet18

model = ResNet18()
