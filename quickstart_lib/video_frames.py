"""Run by the interpreter of an environment, which has PyAV: a video's frames as PNG files, and PNG files as a video.

    python video_frames.py split VIDEO FOLDER           writes FOLDER/frame_000001.png...; prints the frames a second
    python video_frames.py join VIDEO SPEED LIST        LIST is a file with a PNG's path in each line

One frame is in memory at a time. An error ends it with 1 and one line that says why.
"""

import sys
from fractions import Fraction
from pathlib import Path

CODECS = {".webm": "libvpx-vp9"}  # by the file's ending; else H.264
ORDINARY = Fraction(24)  # frames a second where a video does not say


def split(video: str, folder: str) -> None:
    import av

    with av.open(video) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        speed = stream.average_rate or stream.guessed_rate or ORDINARY
        for number, frame in enumerate(container.decode(stream), 1):
            frame.to_image().save(Path(folder) / f"frame_{number:06d}.png", compress_level=1)
    print(speed)


def join(video: str, speed: str, files: str) -> None:
    import av
    from PIL import Image

    paths = Path(files).read_text(encoding="utf-8").splitlines()
    with Image.open(paths[0], formats=("PNG",)) as first:
        size = tuple(side + side % 2 for side in first.size)  # chroma needs even sides
    with av.open(video, "w") as container:
        codec = CODECS.get(Path(video).suffix.lower(), "libx264")
        stream = container.add_stream(codec, rate=Fraction(speed), options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for path in paths:
            with Image.open(path, formats=("PNG",)) as picture:
                shown = Image.new("RGB", size, "white")
                shown.paste(picture.convert("RGB"))
            container.mux(stream.encode(av.VideoFrame.from_image(shown)))
        container.mux(stream.encode())


if __name__ == "__main__":
    try:
        {"split": split, "join": join}[sys.argv[1]](*sys.argv[2:])
    except Exception as error:  # whatever a decoder says, the person gets one line
        sys.exit(f"{type(error).__name__}: {error}")
