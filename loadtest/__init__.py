"""Load tests: each prints its figure beside that of a peer, measured in the same run."""
