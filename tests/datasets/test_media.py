import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.datasets import media
from harness.datasets.decode import decode
from harness.datasets.media import decode_sound, decode_video, usual_suffixes
from harness.errors import DataError
from tests.datasets.media_files import film, tone, write_sound, write_video, write_wav
from tests.datasets.samples import picture, real_speech

STEREO = np.stack([tone(0.3), -0.25 * tone(0.3, hertz=990)], axis=1)


@pytest.mark.parametrize(
    ("suffix", "subtype", "step"),
    [
        ("wav", "PCM_U8", 2**-7),
        ("wav", "PCM_16", 2**-15),
        ("wav", "PCM_24", 2**-23),
        ("wav", "PCM_32", 2**-24),
        ("wav", "FLOAT", 2**-24),
        ("wav", "DOUBLE", 2**-24),
        ("aiff", "PCM_16", 2**-15),
        ("flac", "PCM_16", 2**-15),
        ("flac", "PCM_24", 2**-23),
        ("au", "ULAW", 2**-15),
    ],
)
def test_samples_are_those_that_libsndfile_reads_and_channels_are_averaged(tmp_path, suffix, subtype, step):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, STEREO, 16_000, subtype=subtype)
    sound = decode("audio", str(path))
    expected, rate = soundfile.read(path, always_2d=True)
    assert (sound.rate, sound.samples.dtype) == (rate, np.float32)
    np.testing.assert_allclose(sound.samples, expected.mean(axis=1), atol=step / 4, rtol=0)
    np.testing.assert_allclose(sound.samples, STEREO.mean(axis=1), atol=0.03, rtol=0)  # what was written, to the format's own precision


def test_speech_is_what_libsndfile_reads():
    for path in sorted(real_speech().rglob("*.wav"))[:30]:
        expected, rate = soundfile.read(path)
        sound = decode_sound(path)
        assert sound.rate == rate
        assert (sound.samples == expected.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp3", "libmp3lame"), ("m4a", "aac"), ("ogg", "libopus"), ("opus", "libopus"), ("mka", "flac")]
)
def test_lossy_formats_give_the_tone_that_went_in(tmp_path, suffix, codec):
    sound = decode_sound(write_sound(tmp_path / f"a.{suffix}", tone(1.0, rate=48_000), codec))
    assert sound.rate == 48_000
    assert sound.seconds == pytest.approx(1.0, abs=0.06)
    middle = sound.samples[12_000:36_000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) * 48_000 / len(middle) == pytest.approx(440, abs=2)
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.06)


@pytest.mark.parametrize(("suffix", "subtype"), [("mp3", "MPEG_LAYER_III"), ("ogg", "VORBIS")])
def test_lossy_files_decode_to_what_libsndfile_makes_of_them(tmp_path, suffix, subtype):
    path = tmp_path / f"a.{suffix}"
    noise = np.convolve(np.random.default_rng(0).standard_normal(44_100), np.ones(20) / 20, "same")
    soundfile.write(path, 0.3 * noise, 44_100, subtype=subtype)
    expected, _ = soundfile.read(path)
    np.testing.assert_allclose(decode_sound(path).samples, expected, atol=1e-5, rtol=0)


def test_what_lies_outside_the_range_is_clipped(tmp_path):
    soundfile.write(tmp_path / "a.wav", [0.5, 1.5, -3.0], 8000, subtype="FLOAT")
    assert decode_sound(tmp_path / "a.wav").samples.tolist() == [0.5, 1.0, -1.0]


def test_the_sound_of_a_video_can_be_asked_for_alone(tmp_path):
    write_video(tmp_path / "a.mp4", film(), samples=tone(2.0))
    assert decode_sound(tmp_path / "a.mp4").seconds == pytest.approx(2.0, abs=0.1)
    assert (decode_video(tmp_path / "a.mp4").sound.samples == decode_sound(tmp_path / "a.mp4").samples).all()


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_a_lossless_video_gives_back_every_pixel(tmp_path, suffix):
    frames = film()
    clip = decode("video", str(write_video(tmp_path / f"a.{suffix}", frames, codec="ffv1", pixels="bgr0")))
    assert clip.frames.dtype == np.uint8
    assert (clip.frames == frames).all()
    assert clip.frames_per_s == 10
    assert clip.sound is None


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "mpeg4"), ("mp4", "libx264"), ("webm", "libvpx-vp9"), ("mov", "mjpeg"), ("avi", "mpeg4")]
)
def test_common_videos_give_the_frames_that_went_in(tmp_path, suffix, codec):
    frames = film(30, 96, 128)
    sound_codec = "libopus" if suffix == "webm" else "pcm_s16le" if suffix in ("avi", "mov") else "aac"
    more = {"pixels": "yuvj420p"} if codec == "mjpeg" else {}
    samples = None if suffix == "webm" else tone(3.0)
    clip = decode_video(write_video(tmp_path / f"a.{suffix}", frames, codec=codec, samples=samples, sound_codec=sound_codec, **more))
    assert clip.frames.shape == frames.shape
    assert clip.frames_per_s == pytest.approx(10, rel=1e-3)
    assert np.abs(clip.frames.astype(int) - frames).mean() < 6
    if samples is not None:
        assert clip.sound.seconds == pytest.approx(3.0, abs=0.1)


def test_frames_a_second_are_those_of_the_time_stamps(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        track = container.add_stream("ffv1", rate=25)
        track.height, track.width, track.pix_fmt, track.codec_context.time_base = 48, 64, "bgr0", Fraction(1, 1000)
        for number, at in enumerate([0, 100, 500, 600, 1000]):
            frame = av.VideoFrame.from_ndarray(film(5)[number], format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    clip = decode_video(tmp_path / "a.mkv")
    assert (len(clip.frames), clip.frames_per_s) == (5, 4.0)  # four steps in one second


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_a_video_filmed_on_its_side_is_turned_upright(tmp_path, matrix, turns):
    """A phone writes the rotation into the track's header; (a, b, c, d) maps (x, y) to (ax + cy, bx + dy), ISO/IEC 14496-12, 6.2.2."""
    content = bytearray(write_video(tmp_path / "a.mp4", film()).read_bytes())
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (value << 16 for value in matrix)
    at = content.index(plain, content.index(b"tkhd"))
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    plain_frames = decode_video(tmp_path / "a.mp4").frames
    turned = decode_video(tmp_path / "turned.mp4").frames
    assert (turned == np.rot90(plain_frames, turns, axes=(1, 2))).all()


def test_a_cover_picture_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        track = container.add_stream("aac", rate=48_000, layout="mono")
        image = container.add_stream("png", rate=1)
        image.width, image.height, image.pix_fmt = 40, 30, "rgb24"
        image.disposition = av.stream.Disposition.attached_pic
        container.mux(image.encode(av.VideoFrame.from_image(picture(1))))
        container.mux(image.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(0.5, rate=48_000).astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    with pytest.raises(DataError, match="no video in it"):
        decode_video(tmp_path / "a.m4a")
    assert decode_sound(tmp_path / "a.m4a").seconds == pytest.approx(0.5, abs=0.1)


def test_the_content_decides_not_the_name(tmp_path):
    write_wav(tmp_path / "a.mp4", tone(0.1))
    assert len(decode_sound(tmp_path / "a.mp4").samples) == 1600
    assert usual_suffixes(tmp_path / "a.mp4") == {"wav", "wave"}
    with pytest.raises(DataError, match="no video in it"):
        decode_video(tmp_path / "a.mp4")
    write_wav(tmp_path / "http:a.wav", tone(0.1))
    assert len(decode_sound(tmp_path / "http:a.wav").samples) == 1600


def test_playlists_pictures_and_texts_are_no_sound_or_video(tmp_path):
    write_wav(tmp_path / "other.wav", tone(0.1))
    picture(1).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b.gif")
    (tmp_path / "c.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.wav\n#EXT-X-ENDLIST\n")
    (tmp_path / "d.txt").write_text("ffconcat version 1.0\nfile other.wav\n")
    (tmp_path / "e.txt").write_text("plain words " * 100)
    for path in sorted(tmp_path.glob("?.*")):
        for reader in (decode_sound, decode_video):
            with pytest.raises(DataError, match=f"{path.name}: not a"):
                reader(path)


@pytest.mark.parametrize("content", [b"", b"RI", b"RIFF\0\0\0\0WAVE", b"fLaC", b"\0" * 5000, b"ID3\4\0\0\0\0\0\0"])
def test_what_holds_nothing_is_a_data_error_that_names_the_file(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    for reader in (decode_sound, decode_video):
        with pytest.raises(DataError, match=r"a\.wav"):
            reader(tmp_path / "a.wav")


def test_a_missing_file_and_a_folder_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="FileNotFoundError"):
        decode_sound(tmp_path / "gone.wav")
    with pytest.raises(DataError, match="IsADirectoryError"):
        decode_video(tmp_path)


def test_a_sound_without_samples_is_refused(tmp_path):
    write_wav(tmp_path / "a.wav", [])
    with pytest.raises(DataError, match=r"without a single sample|not a readable"):
        decode_sound(tmp_path / "a.wav")


def test_a_video_without_frames_is_refused(tmp_path):
    content = write_video(tmp_path / "a.avi", film(), samples=tone(2.0), sound_codec="pcm_s16le").read_bytes()
    (tmp_path / "b.avi").write_bytes(content.replace(b"00dc", b"JUNK"))
    with pytest.raises(DataError, match="without a single frame"):
        decode_video(tmp_path / "b.avi")


def test_samples_that_are_not_finite_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", [0.1, float("nan"), 0.2], 8000, subtype="FLOAT")
    with pytest.raises(DataError, match="not finite"):
        decode_sound(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame"), ("m4a", "aac"), ("mka", "flac"), ("aiff", "pcm_s16be")],
)
def test_a_sound_cut_short_is_refused_not_shortened(tmp_path, suffix, codec):
    path = write_sound(tmp_path / f"a.{suffix}", tone(2.0, rate=48_000), codec)
    assert decode_sound(path).seconds == pytest.approx(2.0, abs=0.1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(DataError, match=r"cut short|not a readable"):
        decode_sound(path)


@pytest.mark.parametrize(
    ("suffix", "more"), [("mp4", {}), ("mp4", {"movflags": "faststart"}), ("mkv", {}), ("avi", {"sound_codec": "pcm_s16le"})]
)
def test_a_video_cut_short_is_refused_not_shortened(tmp_path, suffix, more):
    path = write_video(tmp_path / f"a.{suffix}", film(40), samples=tone(4.0), **more)
    assert len(decode_video(path).frames) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(DataError, match=r"cut short|not a readable|damaged"):
        decode_video(path)


def test_a_recording_from_a_pipe_states_no_length_and_is_read_whole(tmp_path):
    content = write_wav(tmp_path / "a.wav", tone(0.5)).read_bytes()
    for size in (0xFFFFFFFF, 0x7FFFFFFF, 0):
        (tmp_path / "b.wav").write_bytes(content[:4] + struct.pack("<I", size) + content[8:40] + struct.pack("<I", size) + content[44:])
        assert decode_sound(tmp_path / "b.wav").seconds == 0.5


def test_a_small_file_that_claims_hours_is_refused(tmp_path):
    content = bytearray(write_sound(tmp_path / "a.flac", tone(0.5, rate=48_000), "flac").read_bytes())
    content[22:26] = struct.pack(">I", 0x7FFFFFFF)  # total samples, the last 32 of 36 bits, in STREAMINFO
    (tmp_path / "b.flac").write_bytes(content)
    with pytest.raises(DataError, match="more than 172800000 samples, 3600 s; cut it into pieces"):
        decode_sound(tmp_path / "b.flac")


def test_what_turns_out_too_long_is_refused_while_it_is_decoded(tmp_path, monkeypatch):
    path = write_sound(tmp_path / "a.ogg", tone(2.0, rate=48_000), "libopus")
    monkeypatch.setattr(media, "_stated", lambda of: None)
    monkeypatch.setattr(media, "MAX_SAMPLES", 48_000)
    with pytest.raises(DataError, match="more than 48000 samples, 1 s"):
        decode_sound(path)


@pytest.mark.parametrize("claimed", [True, False])
def test_a_video_larger_than_the_limit_is_refused(tmp_path, monkeypatch, claimed):
    path = write_video(tmp_path / "a.mp4", film(40))
    monkeypatch.setattr(media, "MAX_CLIP_BYTES", 30 * 48 * 64 * 3)
    seen = []
    add = media._Seen.add
    monkeypatch.setattr(media._Seen, "add", lambda self, frame: (seen.append(frame), add(self, frame)))
    if not claimed:
        monkeypatch.setattr(media, "_stated", lambda of: None)
    with pytest.raises(DataError, match="its frames take more than 0 MiB; cut it"):
        decode_video(path)
    assert len(seen) == (0 if claimed else 31)


def test_frames_larger_than_any_camera_makes_are_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", film())
    monkeypatch.setattr(media, "MAX_FRAME_PIXELS", 48 * 64 - 1)
    with pytest.raises(DataError, match=r"frames of 64 × 48 are more than 3071 pixels"):
        decode_video(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Intact files to damage, by name."""
    folder = tmp_path_factory.mktemp("whole")
    write_wav(folder / "a.wav", tone(0.2))
    write_sound(folder / "a.flac", tone(0.2, rate=48_000), "flac")
    write_sound(folder / "a.mp3", tone(0.2, rate=48_000), "libmp3lame")
    write_sound(folder / "a.m4a", tone(0.2, rate=48_000), "aac")
    write_sound(folder / "a.ogg", tone(0.2, rate=48_000), "libopus")
    write_video(folder / "a.mp4", film(5), samples=tone(0.5))
    write_video(folder / "a.mkv", film(5), codec="libx264", samples=tone(0.5))
    write_video(folder / "a.avi", film(5), codec="mjpeg", pixels="yuvj420p")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_a_sound_or_video_or_a_data_error_and_nothing_else(whole, tmp_path, data):
    name = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = Path(tmp_path, "a")
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        sound = decode_sound(path)
        assert sound.samples.ndim == 1
        assert len(sound.samples)
        assert np.abs(sound.samples).max() <= 1
    except DataError:
        pass
    try:
        clip = decode_video(path)
        assert clip.frames.shape[3] == 3
        assert len(clip.frames)
        assert clip.frames_per_s > 0
    except DataError:
        pass
