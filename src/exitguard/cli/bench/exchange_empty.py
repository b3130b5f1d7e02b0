"""The baseline of the exchange's orders, a process of its own: the same server stack in front of an empty handler.

It reads the request and answers with as many bytes as an order has. Prints its port.
"""

import socket
from typing import Any

import uvicorn
import uvloop

_ANSWER = b"x" * 1400
_HEADERS = [(b"content-type", b"application/json; charset=UTF-8"), (b"content-length", str(len(_ANSWER)).encode())]


async def empty(scope: Any, receive: Any, send: Any) -> None:
    """Answer."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


async def main() -> None:
    """Serve until stopped."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        empty, loop="none", http="httptools", lifespan="off", log_config=None, access_log=False, server_header=False
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    uvloop.run(main())
