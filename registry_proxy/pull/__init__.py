"""The heart: blobs read through flights, manifests kept under freshness."""
