"""How often a 95 % interval of an error holds the true error."""

from __future__ import annotations

import numpy as np

from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table, progress, random
from complex_system.evaluation.statistics import rmse_interval


def measure(*, quick: bool) -> Table:
    draws = 200 if quick else 2000
    claims = []
    for n in (14, 30, 77, 300):
        numbers = random("intervals", n)
        covered = 0
        for _ in progress(f"intervals, n = {n}", range(draws), draws):
            interval = rmse_interval(numbers.standard_normal(n).astype(np.float32))
            covered += interval.low <= 1.0 <= interval.high
        share = covered / draws
        aim = "92 to 97 %" if n >= 30 else ""
        claims.append(Claim(f"Gaussian errors, n = {n}", f"{share:.1%}", aim, holds=0.92 <= share <= 0.97))
    return claims_table("Intervals", f"{draws} draws each: the share in which the interval holds the true RMSE.", claims)
