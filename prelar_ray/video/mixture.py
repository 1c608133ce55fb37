"""Several video stores as one: their episodes side by side, and how much each store counts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from prelar_ray.config import VideoConfig
from prelar_ray.errors import DataError
from prelar_ray.types import IMAGE_SIZE, Frames
from prelar_ray.video.layout import check_image_size
from prelar_ray.video.store import VideoStore

__all__ = ["VideoMixture"]

log = logging.getLogger(__name__)


class VideoMixture:
    """Episodes of one or more stores, which keep their index when stores grow.

    Attributes:
        stores: in the order given.
        image_size: height and width of the frames, pixels.
        weights: share of the clips from each store; empty: episodes count alike, whichever store they are in.
        by_frames: whether an episode counts as many times as it has starts, instead of once.
    """

    def __init__(self, stores: Sequence[VideoStore], weights: Sequence[float] = (), by_frames: bool = False) -> None:
        """Join stores; ``weights``, if any, are one for each.

        Raises:
            DataError: their frames are of different sizes; names two of them.
        """
        for store in stores:
            if store.image_size != stores[0].image_size:
                (one, small), (other, large) = ((each.name, each.image_size) for each in (stores[0], store))
                raise DataError(
                    f"video.path: {one} holds frames of {small} x {small} pixels, {other} of {large} x {large}; leave "
                    "one out, or record or prepare them at one size"
                )
        self.stores = tuple(stores)
        self.image_size = stores[0].image_size if stores else IMAGE_SIZE
        self.weights = tuple(weights)
        self.by_frames = by_frames
        self._known: list[tuple[int, int]] = []  # store and its episode

    @classmethod
    def open(cls, config: VideoConfig, image_size: int, verify_again: bool = False) -> Self:
        """Open the stores of a configuration, whose frames shall be of ``image_size`` pixels.

        With ``verify_again`` all checksums are compared, also those that were before.

        Raises:
            DataError: a store cannot be used, or holds frames of another size.
        """
        stores = [VideoStore.open(path, config, verify_again) for path in config.paths]
        for store in stores:
            check_image_size(store.name, store.image_size, image_size)
        return cls(stores, config.weights, config.weighting == "frames")

    def log_shares(self, paths: Sequence[str], clip_span: int) -> None:
        """Log what each of several stores, named by its path, holds and counts for clips that span so many frames."""
        if len(self.stores) == 1:
            return
        for path, store, share in zip(paths, self.stores, self.shares(clip_span), strict=True):
            said = path, len(store), store.total_frames, 100 * share
            log.info("%s: %d episodes, %d frames, %.0f %% of the clips", *said)

    def __len__(self) -> int:
        """Episodes."""
        return len(self._episodes)

    @property
    def _episodes(self) -> list[tuple[int, int]]:
        """Store and its episode, for each episode; those of stores that have grown come last."""
        if len(self._known) != sum(map(len, self.stores)):
            known = set(self._known)
            pairs = ((number, episode) for number, store in enumerate(self.stores) for episode in range(len(store)))
            self._known += [pair for pair in pairs if pair not in known]
        return self._known

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Frames of each episode, ``(len(self),)``."""
        lengths = [store.lengths for store in self.stores]
        return np.array([lengths[store][episode] for store, episode in self._episodes], dtype=np.int64)

    @property
    def sources(self) -> list[str]:
        """Where each episode came from."""
        sources = [store.sources for store in self.stores]
        return [sources[store][episode] for store, episode in self._episodes]

    @property
    def origins(self) -> list[tuple[str, int]]:
        """Checksum of its shard and position in it, for each episode."""
        origins = [store.origins for store in self.stores]
        return [origins[store][episode] for store, episode in self._episodes]

    @property
    def total_frames(self) -> int:
        """Frames of all episodes."""
        return sum(store.total_frames for store in self.stores)

    def frames(self, episode: int) -> Frames:
        """Return one episode ``(T, Hpx, Wpx, C)``; read-only."""
        store, inner = self._episodes[episode]
        return self.stores[store].frames(inner)

    def read(self, episode: int, start: int, stop: int, out: Frames | None = None) -> Frames:
        """Return frames of an episode ``(stop - start, Hpx, Wpx, C)``, in ``out`` where that is given."""
        store, inner = self._episodes[episode]
        return self.stores[store].read(inner, start, stop, out)

    def refresh(self) -> bool:
        """Add episodes written since and return whether there are any.

        Raises:
            DataError: what is new in a store is damaged, or its folder now holds another recording.
        """
        return sum(store.refresh() for store in self.stores) > 0  # all of them

    def probabilities(
        self, starts: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64] | None:
        """Return how likely each of the episodes ``chosen`` is, which has so many ``starts``; None: all alike.

        A store without any of them counts nothing, and the others share what it had.

        Raises:
            DataError: all of them are in stores whose weight is 0.
        """
        if not self.weights and not self.by_frames:
            return None
        likely = starts.astype(np.float64) if self.by_frames else np.ones(len(chosen))
        if self.weights:
            of = np.array([self._episodes[episode][0] for episode in chosen.tolist()], dtype=np.int64)
            totals = np.bincount(of, likely, len(self.stores))
            likely = likely * np.array(self.weights)[of] / totals[of]
        total: float = likely.sum()
        if total == 0:
            raise DataError(
                f"video.weights={list(self.weights)}: no video of the stores above 0 is long enough for a clip; "
                "use shorter segments, a lower pretrain.stride, or other weights"
            )
        normalised: npt.NDArray[np.float64] = likely / total
        return normalised

    def shares(self, clip_span: int) -> list[float]:
        """Return the share of the clips, which span ``clip_span`` frames, that come from each store."""
        starts = np.maximum(0, self.lengths - clip_span + 1)
        chosen = np.flatnonzero(starts)
        likely = self.probabilities(starts[chosen], chosen)
        likely = np.full(len(chosen), 1 / max(1, len(chosen))) if likely is None else likely
        of = np.array([self._episodes[episode][0] for episode in chosen.tolist()], dtype=np.int64)
        return [float(share) for share in np.bincount(of, likely, len(self.stores))]
