"""What strangers send, at random: targets, their corpus, and the command that looks for more (`python -m tests.fuzz --help`)."""
