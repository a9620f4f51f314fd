"""Sound and video from files: the decode stage of audio and video models, by PyAV, which brings FFmpeg with it.

The rules, chosen once for all models:

- the format is what the bytes say, not what the name says, and one of `CONTAINERS`: FFmpeg would also take playlists that lead to
  other files, pictures as films of one frame, and any text as an animation in a terminal;
- sound is the mean of its channels at the rate it was recorded at; integers are divided by their type's range, and what a lossy or
  floating-point format has outside [-1, 1] is clipped;
- video is every frame, upright, as RGB; its frames a second are those of the time stamps, so that a clip with a variable rate has the
  mean one; a cover picture in a sound file is no video;
- one thread decodes one file: several files are what is decoded side by side;
- what is damaged, or cut short of the length that it states, or larger than the limits here is refused with a `DataError`, never filled
  up with silence or grey. A format that states no length (Ogg, MP3 without a count of its frames) cannot be seen to be cut short.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import DataError
from harness.interfaces import Clip, Sound, Vectors

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CONTAINERS = {
    "aac": "aac",
    "aiff": "aif aifc aiff",
    "amr": "amr",
    "asf": "asf wma wmv",
    "au": "au snd",
    "avi": "avi",
    "caf": "caf",
    "flac": "flac",
    "flv": "flv",
    "matroska,webm": "mka mkv weba webm",
    "mov,mp4,m4a,3gp,3g2,mj2": "3g2 3gp m4a m4b m4v mj2 mov mp4",
    "mp3": "mp2 mp3 mpga",
    "mpeg": "mpeg mpg vob",
    "mpegts": "m2ts mts ts",
    "ogg": "oga ogg ogv opus spx",
    "w64": "w64",
    "wav": "wav wave",
}
"""The formats that are read, by FFmpeg's names: what recordings and films come in, each a self-contained file; with their suffixes."""

MAX_SAMPLES = 3600 * 48_000
"""An hour at 48 kHz, 0.7 GB as float32. A small file can claim any length, and silence compresses to nothing."""

MAX_CLIP_BYTES = 2**30
"""All frames of a clip as RGB: 46 s of 640 × 480 at 25 frames a second. A batch holds many clips."""

MAX_FRAME_PIXELS = 7680 * 4320
"""8K, the largest frames in use."""

MAY_BE_MISSING = 0.02
"""Share of the stated length that a whole file may lack (encoders' padding, rounded frame rates), besides `MAY_BE_MISSING_S`."""

MAY_BE_MISSING_S = 0.1
"""Two or three frames of a coded sound."""

ESTIMATED = frozenset({"aac", "amr", "mpeg", "mpegts"})
"""Formats whose length FFmpeg estimates from the size of the file, which proves nothing; also MP3 without a count of its frames."""

EXACT = frozenset({"flac"})
"""Formats that state their length to the sample and lose nothing, so that nothing may be missing."""

RIFF_UNKNOWN = 0x7FFFF000
"""Programs that write into a pipe leave such a size or a larger one, or 0, in the head of a WAV file: not a claim."""

WAVE_OPTIONS = {"max_probe_packets": "1"}
"""FFmpeg searches PCM for a hidden DTS stream, which takes twenty times as long as reading it; one packet is searched, not 2,500."""

_RANGES = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}


def decode_sound(path: Path) -> Sound:
    """Return what a file sounds like, in one channel: its first sound track.

    Raises
    ------
    harness.errors.DataError
        If the file cannot be read, holds no sound, is damaged or cut short, or longer than `MAX_SAMPLES`.
    """
    with _opened(path) as container:
        if not container.streams.audio:
            raise DataError(f"{path}: no sound in it")
        track = container.streams.audio[0]
        sound = _Heard(path, track)
        for frame in container.decode(track):
            sound.add(frame)
        alone = len(container.streams) == 1
        stated = _stated(track) or (_stated(container) if alone else None)
        _check_whole(path, stated, sound.seconds, exact=container.format.name in EXACT)
        return sound.whole()


def decode_video(path: Path) -> Clip:
    """Return all frames of a file, and the sound that goes with them where it has any.

    Raises
    ------
    harness.errors.DataError
        If the file cannot be read, holds no video, is damaged or cut short, or larger than `MAX_CLIP_BYTES`.
    """
    from av.stream import Disposition
    from av.video.frame import VideoFrame

    with _opened(path) as container:
        films = [track for track in container.streams.video if not track.disposition & Disposition.attached_pic]
        if not films:
            raise DataError(f"{path}: no video in it")
        video, audio = films[0], next(iter(container.streams.audio), None)
        seen, heard = _Seen(path, video), None if audio is None else _Heard(path, audio)
        frames: Iterator[Any] = container.decode(*([video] if audio is None else [video, audio]))
        for frame in frames:
            if isinstance(frame, VideoFrame):
                seen.add(frame)
            elif heard is not None:
                heard.add(frame)
        clip = seen.whole(heard.whole() if heard and heard.parts else None)
        _check_whole(path, _stated(container), max(len(clip.frames) / clip.frames_per_s, clip.sound.seconds if clip.sound else 0.0))
        return clip


def usual_suffixes(path: Path) -> frozenset[str]:
    """Return the suffixes, without the dot, that files in this one's format usually have."""
    with _opened(path) as container:
        return frozenset(CONTAINERS[container.format.name].split())


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """Open a file; whatever goes wrong with it until it is closed leaves as a `DataError` that names it."""
    import av

    try:
        options = {"format_whitelist": ",".join(CONTAINERS), "err_detect": "crccheck", **(WAVE_OPTIONS if _is_wave(path) else {})}
        # The scheme keeps a name with a colon in it from being taken for a protocol.
        with av.open(f"file:{path}", options=options) as container:
            for track in (*container.streams.audio, *container.streams.video):
                track.codec_context.thread_count = 1
                track.codec_context.options = {"err_detect": "crccheck", "max_pixels": str(MAX_FRAME_PIXELS)}
            yield container
    except (DataError, MemoryError):
        raise
    except av.error.ArgumentError as error:  # what FFmpeg says to a format that is not on the list
        raise DataError(f"{path}: not a sound or video in a format that is read") from error
    except Exception as error:  # a damaged file is no bug of ours, whatever it makes a decoder raise
        raise DataError(f"{path}: not a readable sound or video ({type(error).__name__}: {_reason(error)})") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _is_wave(path: Path) -> bool:
    """Tell WAV files from others, and refuse a WAV or AVI file that is shorter than its head says: FFmpeg corrects that without a word."""
    with path.open("rb") as stream:
        head = stream.read(12)
    if len(head) < 12:
        raise DataError(f"{path}: {len(head)} bytes are no sound or video")
    size, held = int.from_bytes(head[4:8], "little"), path.stat().st_size - 8
    if head[:4] == b"RIFF" and head[8:] in (b"WAVE", b"AVI ") and held < size < RIFF_UNKNOWN:
        raise DataError(f"{path}: cut short, it holds {held} of the {size} bytes that it states")
    return head[:4] == b"RIFF" and head[8:] == b"WAVE"


def _stated(of: InputContainer | AudioStream | VideoStream) -> float | None:
    """How long a file or a track of it says that it lasts, in seconds; None where it does not or nobody should believe it."""
    container: Any = getattr(of, "container", of)
    if container.format.name in ESTIMATED:
        return None
    if container.format.name == "mp3" and not _counts_its_frames(Path(container.name.removeprefix("file:"))):
        return None
    if of.duration is None or of.duration < 0:
        return None
    return float(of.duration * getattr(of, "time_base", Fraction(1, 1_000_000)))


def _counts_its_frames(path: Path) -> bool:
    """Whether an MP3 file begins with a Xing, Info or VBRI header; without one its length is a guess from its size and bit rate."""
    with path.open("rb") as stream:
        head = stream.read(10)
        if head[:3] == b"ID3":  # a tag before the sound; its size is 4 times 7 bits, https://id3.org/id3v2.4.0-structure
            stream.seek(10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)))
            head = b""
        head += stream.read(190)
    return any(name in head for name in (b"Xing", b"Info", b"VBRI"))


def _check_whole(path: Path, stated: float | None, held: float, *, exact: bool = False) -> None:
    least = 0.0 if stated is None else stated - 1e-6 if exact else stated * (1 - MAY_BE_MISSING) - MAY_BE_MISSING_S
    if held < least:
        raise DataError(f"{path}: damaged or cut short, {held:.1f} s of the {stated:.1f} s that it states can be decoded")


class _Heard:
    """Sound as it comes out of the decoder."""

    def __init__(self, path: Path, track: AudioStream) -> None:
        self.path, self.rate, self.samples = path, track.rate or 0, 0
        self.parts: list[Vectors] = []
        if self.rate < 1:
            raise DataError(f"{path}: its sound states no sample rate")
        self._check(round((_stated(track) or 0.0) * self.rate))

    def add(self, frame: AudioFrame) -> None:
        """Keep the mean of a frame's channels."""
        if frame.sample_rate != self.rate:
            raise DataError(f"{self.path}: its sample rate changes from {self.rate} to {frame.sample_rate} Hz on the way")
        kind = frame.format.name.removesuffix("p")
        raw: Any = frame.to_ndarray()
        channels = raw if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels).T
        mono = channels.mean(axis=0, dtype=np.float64) if len(channels) > 1 else channels[0].astype(np.float64)
        if kind == "u8":
            mono -= _RANGES["u8"]
        self.samples += len(mono)
        self._check(self.samples)
        self.parts.append((mono / _RANGES[kind]).astype(np.float32))

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    def whole(self) -> Sound:
        """Return all of it."""
        samples = np.concatenate(self.parts) if self.parts else np.empty(0, np.float32)
        if not len(samples):
            raise DataError(f"{self.path}: a sound without a single sample")
        if not np.isfinite(samples).all():
            raise DataError(f"{self.path}: samples that are not finite")
        return Sound(np.clip(samples, -1.0, 1.0, out=samples), self.rate)

    def _check(self, samples: int) -> None:
        if samples > MAX_SAMPLES:
            raise DataError(f"{self.path}: a sound of more than {MAX_SAMPLES} samples, {MAX_SAMPLES / self.rate:.0f} s; cut it into pieces")


class _Seen:
    """Frames as they come out of the decoder."""

    def __init__(self, path: Path, track: VideoStream) -> None:
        self.path, self.rate = path, track.average_rate or track.guessed_rate
        self.frames: list[Any] = []
        self.times: list[Fraction] = []
        context = track.codec_context
        if context.width * context.height > MAX_FRAME_PIXELS:
            raise DataError(f"{path}: frames of {context.width} × {context.height} are more than {MAX_FRAME_PIXELS} pixels; scale it down")
        self._check(round((_stated(track) or 0.0) * float(self.rate or 0)) * context.width * context.height * 3)

    def add(self, frame: VideoFrame) -> None:
        """Keep a frame as RGB, turned upright."""
        if frame.is_corrupt:
            raise DataError(f"{self.path}: damaged at frame {len(self.frames)}")
        self._check((len(self.frames) + 1) * frame.width * frame.height * 3)
        pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        if self.frames and pixels.shape != self.frames[0].shape:
            raise DataError(f"{self.path}: the size of its frames changes on the way")
        self.frames.append(pixels)
        if frame.pts is not None and frame.time_base is not None:
            self.times.append(frame.pts * frame.time_base)

    def whole(self, sound: Sound | None) -> Clip:
        """Return all of it."""
        if not self.frames:
            raise DataError(f"{self.path}: a video without a single frame")
        span = max(self.times) - min(self.times) if len(self.times) == len(self.frames) else Fraction(0)
        rate: Fraction | None = (len(self.frames) - 1) / span if span else self.rate
        if rate and self.rate and abs(rate - self.rate) < self.rate / 100:
            rate = self.rate  # time stamps in whole milliseconds round it
        if not rate or rate <= 0:
            raise DataError(f"{self.path}: a video that states no frame rate")
        return Clip(np.stack(self.frames), float(rate), sound)

    def _check(self, held: int) -> None:
        if held > MAX_CLIP_BYTES:
            raise DataError(f"{self.path}: its frames take more than {MAX_CLIP_BYTES // 2**20} MiB; cut it into pieces or scale it down")
