"""Short timings in runs whose times no test reads."""

from collections.abc import Iterator

import pytest

from svdistill.training import results


@pytest.fixture(scope="module", autouse=True)
def short_timings() -> Iterator[None]:
    """Each distillation times its networks once; by default twenty times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "LATENCY_ROUNDS", 1)
        yield
