"""Models of others as their authors would hand them over: a file each, run by `deqpipe evaluate`."""
