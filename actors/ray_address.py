"""Whether a Ray cluster answers at an address, asked without Ray."""

import socket

_SECONDS = 5.0
# Ray's head node speaks gRPC, so it answers the HTTP/2 preface with a SETTINGS frame. Asking first
# takes milliseconds; Ray itself would try for minutes and then end the process.
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_SETTINGS = bytes([4])


def listens(address: str) -> bool:
    """Whether anything takes a connection at host:port; what is too busy to answer does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except OSError:
        return False
    return True


def ask_head(address: str) -> None:
    """Returns if a Ray head node answers.

    Args:
        address: host:port.

    Raises:
        ValueError: it is no host:port.
        OSError: nothing answers within five seconds, or something else does.
    """
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise ValueError(f"{address} is no host:port")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _SECONDS) as connection:
            connection.sendall(_HTTP2_GREETING)
            if connection.recv(9)[3:4] != _HTTP2_SETTINGS:
                raise OSError("what answers is no Ray head node")
    except OverflowError as error:  # a port beyond 65535
        raise OSError(str(error)) from error
