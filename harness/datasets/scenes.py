"""Described scenes that any machine can make, as pictures, sounds or films, with labels, captions and real files to decode.

A scene's label is the colour and shape of its main thing, which is seen in a picture, heard in a sound (as pitch and voice) and both in a
film; a query's relevant documents are those of the same label. Asked by caption, a query is the sentence that tells a scene which is not in
the corpus, and the relevant documents are still all of the same label: the rest of the sentence, about size, place, company and background,
makes queries of one label differ and says nothing about relevance. The task tells models apart that know colours and shapes, or pitches and
timbres, from those that do not; it says nothing about photographs and recordings. Item i depends on the seed and on i only, so that a
smaller corpus is the beginning of a larger one.
"""

from __future__ import annotations

import random
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.datasets import sounding
from harness.datasets.checks import number, whole_number
from harness.datasets.fingerprint import digest, fingerprint
from harness.datasets.render import film, render
from harness.datasets.scene import LABELS, Scene, draw
from harness.errors import SettingsError
from harness.interfaces import Data, Modality

JPEG_QUALITY = 90
"""Usual for photographs on the web; Pillow's default of 75 shows blocks around sharp edges."""

SAMPLE_RATE = 44_100
"""Of sounds: what recordings have. No model takes it as it is, so that resampling is part of preparing, as in practice."""

VIDEO_QUALITY = 3
"""MPEG-4's quantiser scale, 2 to 31, lower is better: noise and edges survive."""

MOST = 1_000_000
"""Items that can be asked for: as many pictures take 20 GB and hours to render."""

Medium = Literal["image", "audio", "video"]


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Seeded pictures, sounds or films of described scenes; others of the same things, or their captions, are the queries.

    Parameters
    ----------
    medium : {"image", "audio", "video"}
        What a scene becomes: a JPEG file; a 16-bit WAV file in one channel; an MPEG-4 file in which its things move and are heard.
    asked_by : {"same", "caption"}
        What a query is: another item of the medium, or a text that tells one.
    corpus, queries : int
        Delivered exactly. Labels are spread evenly; with fewer than 64 documents only so many labels occur.
    seed : int
        Another seed gives other scenes of the same 64 labels.
    size : int
        Width and height of pictures and films in pixels. Larger ones make decoding and resizing count for more.
    seconds : float
        Length of sounds and films.
    frames_per_s : int
        Of films.

    Raises
    ------
    harness.errors.SettingsError
        If a value is out of range; all of them are listed.
    """

    medium: Medium = "image"
    asked_by: Literal["same", "caption"] = "same"
    corpus: int = 500
    queries: int = 100
    seed: int = 0
    size: int = 256
    seconds: float = 2.0
    frames_per_s: int = 12

    def __post_init__(self) -> None:
        wrong = [
            *whole_number("corpus", self.corpus, least=1, most=MOST),
            *whole_number("queries", self.queries, least=1, most=MOST),
            *whole_number("seed", self.seed, least=0),
            *whole_number("size", self.size, least=32, most=4096),
            *number("seconds", self.seconds, least=0.5, most=60),
            *whole_number("frames_per_s", self.frames_per_s, least=1, most=60),
        ]
        if self.medium not in ("image", "audio", "video"):
            wrong.append(f"dataset.medium must be image, audio or video, got {self.medium!r}")
        if self.asked_by not in ("same", "caption"):
            wrong.append(f"dataset.asked_by must be same (as the medium) or caption, got {self.asked_by!r}")
        if not wrong and self.medium == "video" and self.size % 2:
            wrong.append(f"dataset.size must be even for video, got {self.size}; MPEG-4 halves the resolution of its colours")
        if wrong:
            raise SettingsError(wrong)

    @property
    def modality(self) -> Modality:
        return self.medium

    @property
    def query_modality(self) -> Modality:
        return "text" if self.asked_by == "caption" else self.medium

    def identity(self) -> None:
        """Nothing besides settings, code and the versions of the libraries decides about the contents."""

    def describe(self) -> tuple[list[Scene], list[Scene]]:
        """Return the scenes of the corpus and of the queries, in order; nothing is rendered.

        Scene n of the corpus has the n-th label of a seeded order of all labels, which repeats. Queries go through the
        labels that the corpus has in the same way, so every query has at least one relevant document.
        """
        labels = list(LABELS)
        random.Random(f"labels {self.seed}").shuffle(labels)
        present = labels[: self.corpus]
        corpus = [draw(f"{self.seed} corpus {number}", labels[number % len(labels)]) for number in range(self.corpus)]
        queries = [draw(f"{self.seed} query {number}", present[number % len(present)]) for number in range(self.queries)]
        return corpus, queries

    def told(self, scene: Scene) -> str:
        """What a caption says of a scene in this medium."""
        if self.medium == "audio":
            return sounding.caption(scene)
        return scene.caption if self.medium == "image" else scene.caption_in_motion

    def materialise(self, folder: Path) -> Data:
        """Write all items as files into `folder`."""
        corpus, queries = self.describe()
        documents = [self._write(scene, folder / f"corpus-{number:06}") for number, scene in enumerate(corpus)]
        if self.asked_by == "caption":
            texts = [self.told(scene) for scene in queries]
            asked = [(text, digest(text.encode())) for text in texts]
        else:
            asked = [self._write(scene, folder / f"query-{number:06}") for number, scene in enumerate(queries)]
        numbers: dict[str, list[int]] = {}
        for number_of, scene in enumerate(corpus):
            numbers.setdefault(scene.label, []).append(number_of)
        qrels = {number_of: dict.fromkeys(numbers[scene.label], 1) for number_of, scene in enumerate(queries)}
        asked_in: Modality | None = "text" if self.asked_by == "caption" else None
        labels: dict[str, Any] = {"source": "rendered scenes", "classes": len(numbers)}
        if self.medium != "audio":
            labels["pixels"] = f"{self.size} × {self.size}"
        if self.medium != "image":
            labels["seconds"] = self.seconds
        if self.medium == "video":
            labels["frames"] = self._frames
        return Data(
            modality=self.medium,
            name="scenes" + ("" if self.medium == "image" else f"_{self.medium}") + ("_by_caption" if asked_in else ""),
            corpus=tuple(stored for stored, _ in documents),
            queries=tuple(stored for stored, _ in asked),
            qrels=qrels,
            fingerprint=fingerprint(self.medium, [item for _, item in documents], [item for _, item in asked], qrels, asked_in=asked_in),
            labels=labels,
            asked_in=asked_in,
        )

    @property
    def _frames(self) -> int:
        return max(1, round(self.seconds * self.frames_per_s))

    def _write(self, scene: Scene, stem: Path) -> tuple[str, bytes]:
        """Write one item; its path and the digest of its bytes."""
        suffix, write = self._format()
        path = stem.with_suffix(suffix)
        write(scene, path)
        return str(path), digest(path.read_bytes())

    def _format(self) -> tuple[str, Callable[[Scene, Path], None]]:
        return {"image": (".jpg", self._write_image), "audio": (".wav", self._write_sound), "video": (".mp4", self._write_film)}[
            self.medium
        ]

    def _write_image(self, scene: Scene, path: Path) -> None:
        render(scene, self.size).save(path, format="JPEG", quality=JPEG_QUALITY)

    def _write_sound(self, scene: Scene, path: Path) -> None:
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(_pcm(sounding.sound(scene, self.seconds, SAMPLE_RATE)).astype("<i2").tobytes())

    def _write_film(self, scene: Scene, path: Path) -> None:
        """MPEG-4 and FLAC, both of FFmpeg's own, in integers and bit-exact, so that every machine writes the same file."""
        import av
        from av.codec.context import Flags

        with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            video = container.add_stream("mpeg4", rate=self.frames_per_s, options={"dct": "fastint", "idct": "simple"})
            video.width = video.height = self.size
            video.pix_fmt = "yuv420p"
            video.codec_context.thread_count = 1
            video.codec_context.qmin = video.codec_context.qmax = VIDEO_QUALITY
            audio = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
            for track in (video, audio):
                track.codec_context.flags |= Flags.bitexact
            samples = _pcm(sounding.sound(scene, self.seconds, SAMPLE_RATE))
            heard = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            heard.sample_rate, heard.pts = SAMPLE_RATE, 0
            container.mux([*audio.encode(heard), *audio.encode(None)])
            for picture in film(scene, self.size, self._frames):
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
            container.mux(video.encode(None))


def _pcm(samples: sounding.Signal) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.rint(samples * 32767).astype(np.int16)
