"""What a check of a family found: methods that were compared, and by how much they differ."""

import dataclasses
from typing import NamedTuple

import numpy as np


class Finding(NamedTuple):
    """One comparison.

    Attributes:
        method: The method that is wrong if it fails; several where one of them is.
        what: What was compared with what.
        gap: By how much they differ.
        limit: The largest difference that rounding, or chance, explains.
    """

    method: str
    what: str
    gap: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within its limit."""
        return bool(self.gap <= self.limit)


@dataclasses.dataclass(frozen=True)
class FamilyCheck:
    """All comparisons of a check.

    Attributes:
        family: The name of the family.
        findings: The comparisons, in the order in which they were made.
    """

    family: str
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The comparisons that failed."""
        return tuple(finding for finding in self.findings if not finding.passed)

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.failures

    def __repr__(self) -> str:
        width = max(len(finding.method) for finding in self.findings)
        lines = [f"FamilyCheck({self.family}, {len(self.failures)} of {len(self.findings)} comparisons failed)"]
        for method, what, gap, limit in self.findings:
            verdict = "ok   " if gap <= limit else "WRONG"
            lines.append(f"{verdict}  {method:{width}s}  {what}: off by {gap:.2g}, {limit:.2g} allowed")
        return "\n".join(lines)


def equal(method: str, what: str, found: object, expected: object, limit: float) -> Finding:
    """Numbers that differ by rounding alone, relative to one and to their size; what is not finite must agree."""
    left, right = (np.asarray(value, np.float64) for value in (found, expected))
    with np.errstate(invalid="ignore"):
        gaps = np.where(left == right, 0.0, np.abs(left - right) / (1 + np.minimum(np.abs(left), np.abs(right))))
    return Finding(method, what, float(np.nan_to_num(gaps, nan=np.inf, posinf=np.inf).max(initial=0.0)), limit)
