"""What the tests of data share."""

import importlib.util

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """The copies of parquet files that `datasets` keeps are removed with the tests."""
    if importlib.util.find_spec("datasets") is None:
        yield
        return
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
