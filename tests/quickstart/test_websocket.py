"""The WebSocket client against a server on loopback that sends exactly the bytes a test wants."""

import base64
import hashlib
import socket
import struct
import threading

import pytest

from quickstart_lib.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MAGIC,
    PING,
    PONG,
    TEXT,
    WebSocket,
    WebSocketError,
    encode_frame,
)


def server_frame(opcode: int, payload: bytes, final: bool = True) -> bytes:
    """A frame as servers send it: not masked."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 2**16:
        length = b"\x7e" + struct.pack("!H", size)
    else:
        length = b"\x7f" + struct.pack("!Q", size)
    return bytes([(0x80 if final else 0) | opcode]) + length + payload


class Fake:
    """A server for one connection: shakes hands, sends `script` piece by piece, keeps what the client sends."""

    def __init__(self, script, accept=None, status="101 Switching Protocols", hold=True):
        self.script, self.accept, self.status, self.hold = script, accept, status, hold
        self.received = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        connection, _ = self.listener.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            self.request = request.decode()
            key = next(
                line.split(": ")[1] for line in self.request.split("\r\n") if line.startswith("Sec-WebSocket-Key")
            )
            accept = self.accept or base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest()).decode()
            head = f"HTTP/1.1 {self.status}\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            connection.sendall(head + (self.script[0] if self.script else b""))
            for piece in self.script[1:]:
                connection.sendall(piece)
            connection.settimeout(3)
            try:
                while self.hold and (data := connection.recv(4096)):
                    self.received += data
            except OSError:
                pass
        self.listener.close()

    def open(self):
        return WebSocket("127.0.0.1", self.port, "/ws?clientId=a")

    def finish(self):
        self.thread.join(5)
        return self.received


@pytest.mark.parametrize("size", [0, 5, 125, 126, 65535, 65536, 200000])
def test_text_of_every_length_form(size):
    text = "ü" * (size // 2) + "x" * (size % 2)
    with Fake([server_frame(TEXT, text.encode())]).open() as client:
        assert client.receive(5) == text


def test_request_names_path_and_version():
    fake = Fake([])
    fake.open().close()
    fake.finish()
    assert fake.request.startswith("GET /ws?clientId=a HTTP/1.1\r\n") and "Sec-WebSocket-Version: 13" in fake.request


def test_one_byte_at_a_time_and_two_in_one():
    frames = server_frame(TEXT, b"first") + server_frame(TEXT, b"second")
    with Fake([bytes([byte]) for byte in frames]).open() as client:
        assert [client.receive(5), client.receive(5)] == ["first", "second"]


def test_fragments_with_a_ping_between():
    fake = Fake(
        [
            server_frame(TEXT, b"a\xc3", final=False),
            server_frame(PING, b"are you there"),
            server_frame(CONTINUATION, b"\xbc", final=False),
            server_frame(CONTINUATION, b"z"),
        ]
    )
    with fake.open() as client:
        assert client.receive(5) == "aüz"
    sent = fake.finish()
    assert sent[0] == 0x80 | PONG and sent[1] == 0x80 | 13
    assert bytes(byte ^ sent[2 + i % 4] for i, byte in enumerate(sent[6:19])) == b"are you there"


def test_binary_messages_are_passed_over():
    with Fake([server_frame(BINARY, b"\0" * 1000), server_frame(TEXT, b"text")]).open() as client:
        assert client.receive(5) == "text"


def test_silence_is_none_and_nothing_is_lost():
    whole = server_frame(TEXT, b"late")
    with Fake([whole[:3]]).open() as client:
        assert client.receive(0.1) is None
        assert client._buffer == whole[:3]


@pytest.mark.parametrize(("script", "hold"), [([server_frame(CLOSE, b"\x03\xe8")], True), ([], False)])
def test_closed_by_the_server(script, hold):
    with Fake(script, hold=hold).open() as client, pytest.raises(WebSocketError, match="closed"):
        client.receive(5)


@pytest.mark.parametrize(
    ("options", "text"), [({"status": "403 Forbidden"}, "403"), ({"accept": "wrong"}, "handshake key")]
)
def test_refused_handshake(options, text):
    with pytest.raises(WebSocketError, match=text):
        Fake([], hold=False, **options).open()


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(WebSocketError, match="no connection"):
        WebSocket("127.0.0.1", port, "/")


@pytest.mark.parametrize("frame", [b"\xc1\x00", b"\x81\x80", b"\x82\x7f" + struct.pack("!Q", 2**40)])
def test_frames_that_break_the_rules(frame):
    with Fake([frame]).open() as client, pytest.raises(WebSocketError, match="sent|announced"):
        client.receive(5)


def test_client_frames_are_masked_in_every_length_form():
    for size, header in ((5, 6), (126, 8), (65536, 14)):
        frame = encode_frame(TEXT, b"x" * size, b"abcd")
        assert len(frame) == header + size and frame[1] & 0x80
