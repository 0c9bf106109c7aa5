"""Recordings that went through a conversion of line ends, put right again.

When 16-bit recordings are copied as if they were text, every byte 13 (CR) that stands before a byte 10 (LF) is dropped
and every other one becomes 10. A dropped byte shifts all that follows by half a sample, which then reads as loud noise,
until the next such loss shifts it back. There are copies of TIMIT's sample like that: 33 of 160 recordings have lost
bytes, most of them are noise for half of their length, and none has a single byte 13.
"""

import numpy as np

CR, LF = 13, 10
CERTAIN = 16_384  # bytes; sound of this length without a single byte 13 does not occur
LOSS = 30.0  # of log-roughness: what the sound must gain in smoothness for a loss to be believed


def restored(waveform: np.ndarray) -> np.ndarray:
    """The waveform as it was before the conversion; the same waveform where there are no signs of one.

    waveform: float32 [samples] in [-1, 1], from 16-bit samples. Dropped bytes are found by the smoothness that
    putting them back gives: the best set of places by dynamic programming over all bytes 10. A loud sample
    whose upper byte has become 10 is put right where its neighbours say so; a changed lower byte, 3 in 32,768, stays.
    """
    data = np.frombuffer(np.rint(waveform * 32768).astype("<i2").tobytes(), np.uint8)
    if len(data) < CERTAIN or (data == CR).any():
        return waveform
    whole = np.insert(data, _lost(data), CR)
    samples = np.frombuffer(whole[: len(whole) // 2 * 2].tobytes(), "<i2").astype(np.int32)
    return (_upper_bytes(samples) / 32768).astype(np.float32)


def _lost(data: np.ndarray) -> np.ndarray:
    """Where bytes 13 were dropped: the positions of the bytes 10 that they stood before."""
    value = data[:-1].astype(np.int32) | (data[1:].astype(np.int8).astype(np.int32) << 8)
    rough = np.log1p(np.abs(value[2:] - value[:-2]))  # of a sample that begins at each byte
    begins = np.flatnonzero(data[: len(rough)] == LF)
    edges = np.concatenate([[0], begins, [len(rough)]])
    # The roughness of each stretch between two bytes 10 when samples begin at even bytes, and at odd ones.
    sums = [np.concatenate([[0], np.cumsum(np.where(np.arange(len(rough)) % 2 == odd, rough, 0))]) for odd in (0, 1)]
    cost = np.stack([np.diff(one[edges]) for one in sums], axis=1)
    best, switched = np.array([cost[0, 0], np.inf]), np.zeros(cost.shape, bool)
    for i in range(1, len(cost)):
        other = best[::-1] + LOSS
        switched[i] = other < best
        best = np.minimum(best, other) + cost[i]
    found, odd = [], int(best.argmin())
    for i in range(len(cost) - 1, 0, -1):
        if switched[i, odd]:
            found.append(edges[i])
            odd = 1 - odd
    return np.array(found[::-1], dtype=np.int64)


def _upper_bytes(samples: np.ndarray) -> np.ndarray:
    """Samples whose upper byte is 10 with it set to 13 where that is nearer to the mean of their neighbours."""
    middle = np.convolve(samples, [0.5, 0, 0.5], mode="same")
    other = samples + ((CR - LF) << 8)
    nearer = np.abs(other - middle) < np.abs(samples - middle)
    return np.where((samples >> 8 == LF) & nearer, other, samples)
