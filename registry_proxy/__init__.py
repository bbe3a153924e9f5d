"""A pull-through lazy OCI registry proxy: byte ranges and a chunk cache in front of any registry."""

__version__ = "0.1.0"
