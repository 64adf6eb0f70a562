"""Compressed pixels, in a process of its own: a decoder that crashes, hangs or eats memory takes no one with it.

    unpack(frame, Form) -> ndarray                the client
    python decoder.py                             the process: reads requests from stdin, answers on stdout

A message is the length of its head (4 bytes), its head (JSON), and as many bytes as the head says. This file is run
by its path, alone, so that the process starts fast: at the top it imports the standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

SECONDS = 60.0  # for one frame; a 28-megapixel JPEG 2000 takes about 2
MEMORY = 12 * 2**30  # bytes of address space that the process may take
STARTING = 60.0

# Transfer syntax -> the decoder of pydicom that is asked, and the package that brings it. One for each: where a
# strict decoder fails, a lenient one would make up the rest of a damaged picture.
JPEG = ("pillow", "pillow")
JPEG_LOSSLESS = ("gdcm", "python-gdcm")
JPEG_LS = ("pyjpegls", "pyjpegls")
JPEG_2000 = ("pylibjpeg", "pylibjpeg-openjpeg")
DECODERS: Mapping[str, tuple[str, str]] = {
    "1.2.840.10008.1.2.4.50": JPEG,
    "1.2.840.10008.1.2.4.51": JPEG,
    "1.2.840.10008.1.2.4.57": JPEG_LOSSLESS,
    "1.2.840.10008.1.2.4.70": JPEG_LOSSLESS,
    "1.2.840.10008.1.2.4.80": JPEG_LS,
    "1.2.840.10008.1.2.4.81": JPEG_LS,
    "1.2.840.10008.1.2.4.90": JPEG_2000,
    "1.2.840.10008.1.2.4.91": JPEG_2000,
    "1.2.840.10008.1.2.4.201": JPEG_2000,
    "1.2.840.10008.1.2.4.202": JPEG_2000,
    "1.2.840.10008.1.2.4.203": JPEG_2000,
}
CRASHED = "crashed their decoder; damaged"
EXTENDED = "1.2.840.10008.1.2.4.51"


class Failed(Exception):
    """A frame that could not be unpacked, with a reason that is safe to show: no text of the file is in it."""


def unpack(frame: bytes, syntax: str, options: Mapping[str, Any]) -> Any:
    """The pixels (H, W) or (H, W, 3) of one compressed `frame`; colour as RGB.

    options: rows, columns, samples_per_pixel, bits_allocated, ... as pydicom's decoders take them. A process that is
    gone may have died of something else: the frame is tried a second time. Raises Failed with a reason.
    """
    import numpy as np

    request = {"syntax": syntax, "options": dict(options)}
    head, pixels = _process().ask(request, frame, SECONDS)
    if head.get("failed") == CRASHED:
        head, pixels = _process().ask(request, frame, SECONDS)
    if "failed" in head:
        raise Failed(head["failed"])
    return np.frombuffer(pixels, head["dtype"]).reshape(head["shape"])


class _Process:
    """The decoding process of one thread. A fork must not share it: two would write into one pipe."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        quiet = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.child = subprocess.Popen(  # -P: files beside this one must not hide libraries of the same name
            [sys.executable, "-P", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=quiet,
        )

    @property
    def alive(self) -> bool:
        return self.owner == os.getpid() and self.child.poll() is None

    def ask(self, head: dict[str, Any], payload: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
        """The answer, or a failure: where the time is over, or the process died."""
        late = threading.Event()
        alarm = threading.Timer(seconds, lambda: (late.set(), self.child.kill()))
        alarm.daemon = True
        alarm.start()
        try:
            _write(self.child.stdin, head, payload)
            return _read(self.child.stdout)
        except (OSError, EOFError, ValueError):
            self.close()
            return {"failed": f"took longer than {seconds:g} seconds; damaged" if late.is_set() else CRASHED}, b""
        finally:
            alarm.cancel()

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            with suppress(OSError):  # what was still to be written has no reader any more
                pipe.close()

    def __del__(self) -> None:
        if getattr(self, "owner", None) == os.getpid():
            self.close()


_of_thread = threading.local()


def _process() -> _Process:
    process: _Process | None = getattr(_of_thread, "process", None)
    if process is None or not process.alive:
        process = _of_thread.process = _Process()
        process.ask({"syntax": "", "options": {}}, b"", STARTING)
    return process


def _write(pipe: IO[bytes] | None, head: dict[str, Any], payload: bytes) -> None:
    assert pipe is not None
    text = json.dumps({**head, "bytes": len(payload)}).encode()
    pipe.write(len(text).to_bytes(4, "little") + text)
    pipe.write(payload)
    pipe.flush()


def _read(pipe: IO[bytes] | None) -> tuple[dict[str, Any], bytes]:
    assert pipe is not None
    head = json.loads(_exactly(pipe, int.from_bytes(_exactly(pipe, 4), "little")))
    return head, _exactly(pipe, head["bytes"])


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


# ---- the process


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answers until the other side is gone."""
    while True:
        try:
            head, frame = _read(requests)
        except EOFError:
            return
        try:
            pixels = _decode(frame, head["syntax"], head["options"]) if frame else None
        except Failed as failure:
            _write(answers, {"failed": str(failure)}, b"")
        except MemoryError:
            _write(answers, {"failed": "asks for more memory than a picture needs; damaged"}, b"")
        except Exception:  # decoders meet damaged bytes with any exception that there is; its text may quote the file
            _write(answers, {"failed": "cannot be unpacked; damaged"}, b"")
        else:
            shape, dtype = ([], "u1") if pixels is None else (pixels.shape, pixels.dtype.str)
            _write(answers, {"shape": shape, "dtype": dtype}, b"" if pixels is None else pixels.tobytes())


def _decode(frame: bytes, syntax: str, options: Mapping[str, Any]) -> Any:
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    plugin, package = DECODERS[syntax]
    if syntax == EXTENDED and options["bits_stored"] > 8:
        return _twelve_bits(frame, options)
    decoder = get_decoder(syntax)
    if plugin not in decoder.available_plugins:
        raise Failed(f"need the decoder {package}, which is not installed: pip install {package}")
    pixels, _ = decoder.as_array(encapsulate([frame], has_bot=False), decoding_plugin=plugin, **options)
    return pixels


def _twelve_bits(frame: bytes, options: Mapping[str, Any]) -> Any:
    """JPEG Extended above 8 bits, which pydicom asks of no decoder, but gdcm can do."""
    import numpy as np

    try:
        import gdcm
    except ImportError:
        raise Failed("need the decoder python-gdcm, which is not installed: pip install python-gdcm") from None
    if options["samples_per_pixel"] != 1:
        raise Failed("are colours of more than 8 bits, which no decoder at hand reads")
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((options["columns"], options["rows"], 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, options["bits_stored"], options["bits_stored"] - 1, 0))
    pixels = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), "<u2")
    return pixels.reshape(options["rows"], options["columns"])


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))


def _main() -> None:
    """Libraries write to the terminal by themselves: the answers get a channel that they do not know."""
    import warnings

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    _limit_memory()
    import pydicom.pixels  # noqa: F401  the slow part of the start

    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
