"""Real, in-memory stand-ins for what lives outside this program."""
