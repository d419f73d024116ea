"""Where a component of a time course comes from, and what becomes of it."""

import equinox as eqx
import numpy as np


class Lineage(eqx.Module):
    """Where a component comes from, and what becomes of it.

    Attributes:
        time: Index of the component's time.
        component: The component.
        times: All times.
        probabilities: For each time, the probability of every component there: of having been an ancestor before, of
            being a descendant after; shapes ``[K_t]``.
    """

    time: int = eqx.field(static=True)
    component: int = eqx.field(static=True)
    times: np.ndarray
    probabilities: tuple[np.ndarray, ...]

    def __str__(self) -> str:
        lines = [f"component {self.component} at time {self.times[self.time]:g}"]
        for index, (time, values) in enumerate(zip(self.times, self.probabilities, strict=True)):
            if index != self.time:
                order = [k for k in np.argsort(-values, kind="stable") if values[k] >= 0.01]
                listed = ", ".join(f"{k} ({values[k]:.0%})" for k in order)
                lines.append(f"{'from' if index < self.time else 'to':>4} time {time:g}: {listed}")
        return "\n".join(lines)
