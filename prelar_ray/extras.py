"""Packages that only some commands want, and the extras that install them: ``pip install 'prelar-ray[video]'``."""

from __future__ import annotations

import importlib.util
from typing import Final

from prelar_ray.errors import UsageError

__all__ = ["EXTRAS", "PACKAGES", "missing_package", "require", "require_package", "without"]

PACKAGES: Final = {
    "metaworld": "metaworld",
    "mujoco": "metaworld",
    "dm_control": "dmc",
    "av": "video",
    "jinja2": "report",
    "matplotlib": "report",
    "tree": "rllib",
    "ormsgpack": "rllib",
    "h5py": "hdf5",
    "optuna": "optuna",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
"""Import names of packages beyond the required ones, and the extra that has each."""

EXTRAS: Final = tuple(dict.fromkeys(PACKAGES.values()))
"""Names of all extras that add to what commands can do."""


def missing_package(error: ModuleNotFoundError) -> UsageError | None:
    """Return what a user is told whose installation lacks a package of an extra; None where the package is of none."""
    package = (error.name or "").partition(".")[0]
    return _not_installed(package) if package in PACKAGES else None


def require_package(package: str) -> None:
    """Make sure that one of :data:`PACKAGES` is there.

    Raises:
        UsageError: it is not; names its extra.
    """
    if importlib.util.find_spec(package) is None:
        raise _not_installed(package)


def _not_installed(package: str) -> UsageError:
    return UsageError(f"{package} is not installed; {_remedy([PACKAGES[package]])}")


def without(*extras: str) -> list[str]:
    """Return those of the extras of which a package is missing."""
    missing = {extra for package, extra in PACKAGES.items() if importlib.util.find_spec(package) is None}
    return [extra for extra in extras if extra in missing]


def require(what: str, *extras: str) -> None:
    """Make sure that the packages of all these extras are there, before work is done that would be lost.

    Args:
        what: what wants them, with which the message begins.
        extras: their names.

    Raises:
        UsageError: some are missing; says what to install.
    """
    if missing := without(*extras):
        raise UsageError(f"{what} needs packages that are not installed; {_remedy(missing)}")


def _remedy(extras: list[str]) -> str:
    return f"pip install 'prelar-ray[{','.join(extras)}]'"
