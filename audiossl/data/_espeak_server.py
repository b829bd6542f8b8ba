"""A small program that speaks: sentences as JSON lines on stdin, sound and phones on stdout.

espeak-ng is not deterministic inside one process (what was said before colours what is said next), so this process
initialises the engine once, with a fixed seed, and every sentence is synthesised in a child forked from that state: the same
sentence and settings then give the same samples, in any order, with the same build and C library. It is a program of its own, on the standard library alone, because forking a process
that holds threads (numpy's, torch's) is not safe.

Run as `python -I _espeak_server.py LIBRARY DATA_FOLDER`. A request is `{"text", "voice", "pitch", "rate", "range"}`. The answer is
one line of JSON, `{"samples": n, "phones": [[sample, ipa], ...]}` followed by n little-endian int16 samples, or `{"error": text}`.
The first answer, before any request, is `{"sample_rate": hertz}`. Structures and constants are those of `speak_lib.h`.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

_SYNCHRONOUS = 2
_PHONE_EVENTS, _AS_IPA, _DO_NOT_EXIT = 0x1, 0x2, 0x8000
_UTF8 = 1
_CHARACTER_POSITION = 1
_LIST_TERMINATED, _PHONEME = 0, 7
_RATE, _PITCH, _RANGE = 1, 3, 4
_OK = 0
_SEED = 1


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def main(library_path: str, data_path: str) -> None:
    """Answer requests until stdin ends."""
    library = ctypes.CDLL(library_path)
    library.espeak_Synth.argtypes = (
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
        *(ctypes.c_void_p, ctypes.c_void_p),
    )
    sample_rate = library.espeak_Initialize(
        _SYNCHRONOUS, 0, os.fsencode(data_path), _PHONE_EVENTS | _AS_IPA | _DO_NOT_EXIT
    )
    if sample_rate <= 0:
        _answer({"error": f"{data_path}: espeak-ng cannot read its data folder; install it at a path under 150 bytes"})
        return
    library.espeak_ng_SetRandSeed(ctypes.c_long(_SEED))  # it is seeded with the time otherwise
    _answer({"sample_rate": sample_rate})
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            _child(library, json.loads(line))
        _, status = os.waitpid(child, 0)
        if status:
            _answer({"error": f"espeak-ng died with status {status} on {line.decode().strip()}"})


def _child(library: Any, request: dict[str, Any]) -> None:
    status = 1
    try:
        answer, sound = _speak(library, request)
        _answer(answer, sound)
        status = 0
    finally:
        os._exit(status)  # never the parent's clean-up handlers


def _speak(library: Any, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    sound = bytearray()
    phones: list[tuple[int, str]] = []

    def receive(wave: Any, count: int, events: Any) -> int:
        """Take samples and phone events; the engine calls it piece by piece, and 0 lets it go on."""
        if wave and count > 0:
            sound.extend(ctypes.string_at(wave, 2 * count))
        index = 0
        while events[index].type != _LIST_TERMINATED:
            if events[index].type == _PHONEME:
                # Eight bytes, padded with zeros: one cut inside a character loses that character.
                phones.append((events[index].sample, events[index].id.string.decode("utf-8", "ignore")))
            index += 1
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != _OK:
        return {"error": f"espeak-ng has no voice {request['voice']!r}"}, b""
    for parameter, name in ((_RATE, "rate"), (_PITCH, "pitch"), (_RANGE, "range")):
        library.espeak_SetParameter(parameter, int(request[name]), 0)
    text = request["text"].encode()
    status = library.espeak_Synth(text, len(text) + 1, 0, _CHARACTER_POSITION, 0, _UTF8, None, None)
    if status != _OK or not sound:
        return {"error": f"espeak-ng gave no sound for {request['text']!r} (status {status})"}, b""
    return {"samples": len(sound) // 2, "phones": phones}, bytes(sound)


def _answer(header: dict[str, Any], sound: bytes = b"") -> None:
    message = memoryview(json.dumps(header).encode() + b"\n" + sound)
    while message:
        message = message[os.write(1, message) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
