"""Metric definitions and the set-up of structured logs; pure observers of the other rooms."""
