"""What every store, trainer, tracker, model source and Thing source promises, as suites for pytest: prove that yours keeps it.

Each suite is a class. Subclass it in a test file of yours, override its hooks, and run pytest; each case is one promise, and its name
and docstring say which. Only tests import this package: it needs the extra ``testing``.
"""

from __future__ import annotations

import pytest

# So that a failing case of an installed suite shows the values that it compared.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("stores", "trainers", "trackers", "model_sources", "thing_sources"))
)
