"""Models on disk. :mod:`~offgrid.store.catalogue` says which there are."""
