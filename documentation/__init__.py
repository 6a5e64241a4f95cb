"""What writes the generated pages and pictures of docs/, README.md and schemas/ (`make generate`).

No part of the package deqpipe, which imports nothing of it: prose that changes is no code that changed.
"""
