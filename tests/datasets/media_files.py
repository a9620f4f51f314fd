"""Sound and video files made on the spot, for tests."""

import wave

import av
import numpy as np


def tone(seconds=1.0, rate=16_000, hertz=440.0, level=0.5):
    """Return a sine as float64 in [-level, level]."""
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write_wav(path, samples, rate=16_000):
    """Write samples of shape (n,) or (n, channels) as 16-bit PCM by the standard library."""
    samples = np.atleast_2d(np.asarray(samples).T).T
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path


def write_sound(path, samples, codec, rate=48_000, **options):
    """Encode mono samples by FFmpeg."""
    with av.open(str(path), "w", options=options) as container:
        track = container.add_stream(codec, rate=rate, layout="mono")
        _encode_sound(container, track, samples, rate)
    return path


def _encode_sound(container, track, samples, rate):
    frame = av.AudioFrame.from_ndarray(np.asarray(samples, dtype=np.float32)[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    container.mux(track.encode(frame))  # PyAV converts the format and cuts into the encoder's frames
    container.mux(track.encode(None))


def write_video(path, frames, codec="mpeg4", fps=10, samples=None, sound_codec="aac", pixels="yuv420p", **options):
    """Encode RGB frames of shape (n, height, width, 3), and mono samples at 16 kHz if given."""
    with av.open(str(path), "w", options=options) as container:
        track = container.add_stream(codec, rate=fps)
        track.height, track.width, track.pix_fmt = frames.shape[1], frames.shape[2], pixels
        sound = None if samples is None else container.add_stream(sound_codec, rate=16_000, layout="mono")
        for pixels_of in frames:
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels_of, format="rgb24")))
        container.mux(track.encode(None))
        if sound is not None:
            _encode_sound(container, sound, samples, 16_000)
    return path


def film(count=20, height=48, width=64):
    """Return frames of a square that moves over a shaded ground, shape (count, height, width, 3)."""
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    frames[:] = np.linspace(30, 200, width, dtype=np.uint8)[None, None, :, None]
    for number in range(count):
        left = number * (width - 16) // max(count - 1, 1)
        frames[number, 16:32, left : left + 16] = (220, 40, 40)
    return frames
