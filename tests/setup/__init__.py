"""What the interop tests need on the machine: Debian packages, programs built from Go modules, images.

`python -m tests.setup` sees to all of it (root, Debian 12); `python -m tests.setup image NAME` to one image, whose OCI
layout it prints. Everything that is built lies in one cache outside of the tree, keyed by version.
"""
