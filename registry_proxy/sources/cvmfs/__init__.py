"""CVMFS over HTTP: a read-only client of the repository format, without FUSE and without privileges.

Trust goes down a chain, and nothing is used before its link is checked: a configured master key signs the whitelist
(``letters``), which names the certificate that signs the manifest, which names the root catalog by its hash; catalogs name
further catalogs and the hashes of all data (``catalog``). So any server and any cache on the way may be anybody's.
"""
