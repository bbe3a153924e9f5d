"""Where a flight may fetch from, in order."""
