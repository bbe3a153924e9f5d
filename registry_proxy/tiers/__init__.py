"""Local places that may hold chunks, and the records kept beside them."""
