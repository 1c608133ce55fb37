"""CRC-32C (Castagnoli) with numpy: lanes of the data beside each other, joined at the end.

A CRC is linear over GF(2): the state after some bytes and then n zero bytes is a fixed map of the state before, so
lanes can be computed apart and joined by that map. Python alone would take longer than decoding the pictures.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["crc32c"]

_POLYNOMIAL: Final = 0x82F63B78  # bits reversed
_ONES: Final = 0xFFFFFFFF
_WORDS: Final = 128  # of four bytes, in a lane

States = npt.NDArray[np.uint32]
"""States of the register ``(N,)``."""


def crc32c(data: bytes | memoryview) -> int:
    """Return the checksum of ``data``."""
    head = len(data) % (4 * _WORDS)
    table, state = _bytes().tolist(), _ONES
    for byte in data[:head]:
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    if head == len(data):
        return state ^ _ONES
    lanes = np.frombuffer(data, "<u4", offset=head).reshape(-1, _WORDS)
    columns = lanes.T.copy()  # (W, N)
    columns[0, 0] ^= np.uint32(state)
    states = np.zeros(len(lanes), np.uint32)
    for column in columns:
        states = _after_word(states ^ column)
    return _joined(states) ^ _ONES


def _joined(states: States) -> int:
    """Return the state after all lanes, one after another."""
    shift = _lane_shift()
    while len(states) > 1:
        if len(states) % 2:
            states = np.concatenate([np.zeros(1, np.uint32), states])
        states = _mapped(shift, states[::2]) ^ states[1::2]
        shift = _mapped(shift, shift)  # lanes are now twice as long
    return int(states[0])


def _mapped(images: States, states: States) -> States:
    """Return the linear map with these images of the 32 bits, of each state."""
    result = np.zeros_like(states)
    for bit, image in enumerate(images):
        result ^= np.where(states & np.uint32(1 << bit), image, np.uint32(0))
    return result


def _after_word(states: States) -> States:
    """Return the states after four zero bytes."""
    low, high = _words()
    after: States = low[states & 0xFFFF] ^ high[states >> 16]
    return after


@cache
def _bytes() -> States:
    """State after a zero byte, by the lowest eight bits of the state before ``(256,)``."""
    states = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        states = np.where(states & 1, states >> 1 ^ np.uint32(_POLYNOMIAL), states >> 1)
    return states


@cache
def _words() -> tuple[States, States]:
    """States after four zero bytes, by the lower and the upper half of the state before, each ``(65536,)``."""
    halves = []
    for shift in (0, 16):
        states = np.arange(1 << 16, dtype=np.uint32) << np.uint32(shift)
        for _ in range(4):
            states = _bytes()[states & 0xFF] ^ states >> 8
        halves.append(states)
    return halves[0], halves[1]


@cache
def _lane_shift() -> States:
    """State after a lane of zeros, by each bit of the state before ``(32,)``."""
    states = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(_WORDS):
        states = _after_word(states)
    return states
