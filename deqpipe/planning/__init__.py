"""What a run would cost on this machine or on a cluster: work from the configuration, prices from a measurement."""
