"""Random faults under clients that check every byte."""
