"""Benchmarks: one program a table; ``run.py`` runs all and writes ``docs/benchmarks.md``.

``validity/`` judges the judgements, ``quality/`` the models.
"""
