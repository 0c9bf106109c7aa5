"""Train or load: every network is asked for by its configuration, and kept in a folder or at an address."""

from kdrepro.store.entries import RECIPE_VERSION, Missing, Store, build

__all__ = ["RECIPE_VERSION", "Missing", "Store", "build"]
