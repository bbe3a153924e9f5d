"""The words of the OCI specs: digests, names, descriptors, manifests."""
