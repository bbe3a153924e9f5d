"""SOCI's index of an ordinary gzip layer, the zTOC: made in one pass, and read."""
