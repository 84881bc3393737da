import datasets
import pytest


@pytest.fixture(scope="session", autouse=True)
def no_leftovers(tmp_path_factory):
    """Keep what `datasets` writes while it reads out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("datasets")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        yield
