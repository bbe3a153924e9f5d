"""The HTTP client of everything: timeouts, redirects, limits, registry authentication."""
