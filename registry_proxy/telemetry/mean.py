"""An average that is kept up as values come."""


class Mean:
    """The mean of what was added; None of nothing."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        """One more value."""
        self._sum += value
        self._count += 1

    @property
    def value(self) -> float | None:
        """The mean so far."""
        return self._sum / self._count if self._count else None
