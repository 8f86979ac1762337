"""Frames, as both kinds of processes read them."""

import asyncio
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.hsm.pipe import MAX_MESSAGE, Frame, PipeError, framed, parse, receive, receive_blocking
from ipls.proto.hsm.v1.worker_pb2 import Admit

FRAMES = st.builds(Frame, st.integers(0, 2**64 - 1), st.integers(0, 255), st.binary(max_size=300))


def read(data: bytes) -> list[Frame]:
    """All frames in a pipe that ends behind `data`: a process with an event loop and one without agree on them."""

    async def go() -> list[Frame]:
        reader, frames = asyncio.StreamReader(), list[Frame]()
        reader.feed_data(data)
        reader.feed_eof()
        while (frame := await receive(reader)) is not None:
            frames.append(frame)
        return frames

    stream, frames = io.BytesIO(data), list[Frame]()
    while (frame := receive_blocking(stream)) is not None:
        frames.append(frame)
    assert asyncio.run(go()) == frames
    return frames


@given(st.lists(FRAMES, max_size=4))
def test_frames_come_out_as_they_went_in(frames: list[Frame]) -> None:
    assert read(b"".join(framed(*frame) for frame in frames)) == frames


@given(FRAMES)
def test_what_is_cut_off_is_the_end(frame: Frame) -> None:
    data = framed(*frame)
    for end in range(len(data)):
        assert read(data[:end]) == []


@given(st.binary(max_size=300))
def test_garbage_is_frames_or_refused(data: bytes) -> None:
    try:
        frames = read(data)
    except PipeError:
        return
    assert data.startswith(b"".join(framed(*frame) for frame in frames))


def test_a_frame_over_the_limit_is_neither_written_nor_waited_for() -> None:
    assert read(framed(1, 2, bytes(MAX_MESSAGE))) == [Frame(1, 2, bytes(MAX_MESSAGE))]
    with pytest.raises(PipeError):
        framed(1, 2, bytes(MAX_MESSAGE + 1))
    announced = (MAX_MESSAGE + 1).to_bytes(4, "big") + bytes(9)
    with pytest.raises(PipeError):
        receive_blocking(io.BytesIO(announced))

    async def go() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(announced)  # and no end
        with pytest.raises(PipeError):
            await receive(reader)

    asyncio.run(go())


@given(st.binary(max_size=100))
def test_a_body_is_its_message_or_refused(body: bytes) -> None:
    try:
        admit = parse(Admit, body)
    except PipeError:
        return
    assert parse(Admit, admit.SerializeToString()) == admit
