"""One instance in several processes: a supervisor, a fetcher, and the servers of one port (docs/workers.md)."""
