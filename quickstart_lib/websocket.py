"""A small WebSocket client (RFC 6455) for ComfyUI's event stream: text messages in, nothing but control frames out."""

import base64
import hashlib
import os
import socket
import struct

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
LARGEST_MESSAGE = 64 * 2**20  # bytes; previews are far smaller


class WebSocketError(Exception):
    """The connection was refused, broken or closed."""


def encode_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """One whole frame from the client: FIN set and masked with the 4 bytes `mask`, as section 5.1 demands."""
    size = len(payload)
    if size < 126:
        header = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 2**16:
        header = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        header = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return header + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


class WebSocket:
    """An open connection. receive() gives one text message; binary messages (previews) are passed over."""

    def __init__(self, host: str, port: int, path: str, timeout: float = 10.0):
        """Connect and shake hands. `timeout` in seconds. Raises WebSocketError."""
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout)
        except OSError as error:
            raise WebSocketError(f"no connection to {host}:{port}: {error}") from error
        self._buffer = b""
        self._parts: list[bytes] = []
        self._parts_opcode = TEXT
        try:
            self._handshake(host, port, path)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "WebSocket":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def _handshake(self, host: str, port: int, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        try:
            self._socket.sendall(request.encode())
            while b"\r\n\r\n" not in self._buffer:
                self._fill()
                if len(self._buffer) > 65536:
                    raise WebSocketError("the answer to the handshake does not end")
        except OSError as error:
            raise WebSocketError(f"the handshake failed: {error}") from error
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if status.split(" ")[1:2] != ["101"]:
            raise WebSocketError(f"the server refused the connection: {status}")
        expected = base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest()).decode()
        if headers.get("sec-websocket-accept") != expected:
            raise WebSocketError("the server's handshake key is wrong; something else answers on this port")

    def _fill(self) -> None:
        """Read what is there into the buffer. Raises TimeoutError, or WebSocketError at the end of the stream."""
        data = self._socket.recv(65536)
        if not data:
            raise WebSocketError("the server closed the connection")
        self._buffer += data

    def _frame(self) -> tuple[bool, int, bytes]:
        """(final, opcode, payload) of the next frame. Nothing is taken from the buffer before the frame is whole."""
        while True:
            frame = self._parse()
            if frame is not None:
                return frame
            self._fill()

    def _parse(self) -> tuple[bool, int, bytes] | None:
        data = self._buffer
        if len(data) < 2:
            return None
        if data[0] & 0x70 or data[1] & 0x80:
            raise WebSocketError("the server sent a frame with an unknown extension or with a mask")
        size, start = data[1] & 0x7F, 2
        if size >= 126:
            form, start = ("!H", 4) if size == 126 else ("!Q", 10)
            if len(data) < start:
                return None
            size = struct.unpack(form, data[2:start])[0]
        if size > LARGEST_MESSAGE:
            raise WebSocketError(f"the server announced a message of {size} bytes")
        if len(data) < start + size:
            return None
        self._buffer = data[start + size :]
        return bool(data[0] & 0x80), data[0] & 0x0F, data[start : start + size]

    def _send(self, opcode: int, payload: bytes = b"") -> None:
        self._socket.sendall(encode_frame(opcode, payload, os.urandom(4)))

    def receive(self, timeout: float) -> str | None:
        """The next text message, or None when `timeout` seconds pass without one. Raises WebSocketError when closed."""
        self._socket.settimeout(timeout)
        while True:
            try:
                final, opcode, payload = self._frame()
                if opcode == PING:
                    self._send(PONG, payload)
                elif opcode == CLOSE:
                    raise WebSocketError("the server closed the connection")
            except TimeoutError:
                return None
            except OSError as error:
                raise WebSocketError(f"the connection broke: {error}") from error
            if opcode in (TEXT, BINARY):
                self._parts, self._parts_opcode = [payload], opcode
            elif opcode == CONTINUATION:
                self._parts.append(payload)
            else:
                continue
            if sum(map(len, self._parts)) > LARGEST_MESSAGE:
                raise WebSocketError("the server sent a message without end")
            if final:
                message, self._parts = b"".join(self._parts), []
                if self._parts_opcode == TEXT:
                    return message.decode("utf-8", errors="replace")

    def close(self) -> None:
        """Say goodbye when possible, and close."""
        try:
            self._socket.settimeout(1.0)
            self._send(CLOSE, struct.pack("!H", 1000))
        except OSError:
            pass
        self._socket.close()
