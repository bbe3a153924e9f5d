"""The budget for bytes bought for nobody: range-less streams whose readers have gone."""

from registry_proxy.plan.chunks import Run
from registry_proxy.pull.flight import Flight


class Orphans:
    """Range-less flights without readers; together they may still fetch ``budget`` bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._flights: set[Flight] = set()

    def may_go_on(self, flight: Flight) -> bool:
        """True if what this flight has left fits the budget beside all other orphans."""
        self._flights.add(flight)
        left = sum(len(one.grid.span_of_run(Run(one.next, one.stop))) for one in self._flights)
        if left > self._budget:
            self._flights.discard(flight)
            return False
        return True

    def forget(self, flight: Flight) -> None:
        """The flight ended, or has readers again."""
        self._flights.discard(flight)
