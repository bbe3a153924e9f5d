"""The HTTP face: routes, the edge of every request, and one module per kind of resource."""
