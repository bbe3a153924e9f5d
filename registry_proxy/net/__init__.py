"""The one HTTP client of everything: timeouts, redirects, limits, registry auth."""
