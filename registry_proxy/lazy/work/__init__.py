"""Making lazy forms of layers: a queue of jobs, each done by a process of its own at the lowest priority.

``job`` what is to be done; ``queue`` when, and how often it is tried; ``process`` the nearer end of a worker process, ``worker`` the
farther one.
"""
