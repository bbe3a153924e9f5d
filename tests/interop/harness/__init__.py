"""The real programs around the proxy, each started on loopback, stopped by its own process id, its log kept."""
