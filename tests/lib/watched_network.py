"""Installs and serves from a stick in a network namespace, and watches every packet.

    unshare --net --mount python watched_network.py STICK HOME

The namespace has a loopback device, and a device ``out`` with a default route: a program that tries
to reach any address sends a packet there, and nothing answers. STICK becomes read-only, and the
system loses the library libgomp, which small systems lack. The last
line of the output is a JSON object:

    out     packets that left through "out", as text: empty if nothing was sent
    other   packets of the loopback device that do not belong to the server's port
    seen    number of packets of the server's port
    control packets through "out" after this program itself had sent one at the end
    answer  the body of the chat response
    page    the web page as a browser gets it at "/", and the sizes of the files that it names
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from pathlib import Path

ETH_P_ALL = 3
NEIGHBOUR = "02:00:00:00:00:01"
CONTROL = ("192.0.2.99", 9)


def make_devices() -> None:
    """Set up the loopback device and ``out``, one end of a pair of which nobody reads the other."""
    for command in (
        "link set lo up",
        "link add out type veth peer name nowhere",
        "link set out up",
        "link set nowhere up",
        "addr add 198.51.100.2/24 dev out",
        "addr add fd00::2/64 dev out nodad",
        f"neigh add 198.51.100.1 lladdr {NEIGHBOUR} dev out nud permanent",
        f"neigh add fd00::1 lladdr {NEIGHBOUR} dev out nud permanent",
        "route add default via 198.51.100.1",
        "-6 route add default via fd00::1 dev out",
    ):
        subprocess.run(["ip", *command.split()], check=True)


class Capture:
    """Every packet of the namespace, from a socket that sees all devices."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._packets: list[tuple[str, bytes]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self._socket.settimeout(0.2)
        while True:
            try:
                data, address = self._socket.recvfrom(65536)
            except TimeoutError:
                if self._ended.is_set():
                    return
            else:
                if address[2] == socket.PACKET_OUTGOING:  # each packet once
                    self._packets.append((address[0], data))

    def packets(self) -> list[tuple[str, bytes]]:
        """End the capture; return the device and the bytes of each packet that was sent."""
        self._ended.set()
        self._thread.join()
        return [(device, data) for device, data in self._packets if not is_kernel(data)]


def is_kernel(data: bytes) -> bool:
    """Whether it is a packet by which IPv6 itself looks for neighbours and routers."""
    return data[12:14] == b"\x86\xdd" and data[20] in (0, 58)


def ports(data: bytes) -> tuple[int, ...]:
    """The ports of a TCP packet over IPv4; () for others."""
    if data[12:14] != b"\x08\x00" or data[23] != socket.IPPROTO_TCP:
        return ()
    start = 14 + 4 * (data[14] & 15)
    return struct.unpack("!HH", data[start : start + 4])


def read_only(stick: Path) -> None:
    subprocess.run(["mount", "--bind", str(stick), str(stick)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(stick)], check=True)
    try:
        (stick / "try").write_bytes(b"")
    except OSError:
        return
    raise SystemExit("the stick can be written to")


def hide_library() -> None:
    """Replace libgomp of the system by an empty file, for this namespace."""
    for path in {path.resolve() for path in Path("/usr").glob("lib*/**/libgomp.so.1")}:
        subprocess.run(["mount", "--bind", "/dev/null", str(path)], check=True)
    with contextlib.suppress(OSError):
        ctypes.CDLL("libgomp.so.1")
        raise SystemExit("libgomp can still be loaded")


def ask(url: str, body: bytes | None = None) -> tuple[str, str]:
    """Send a request as a browser does; return the URL of the response, and the response."""
    request = urllib.request.Request(url, body, {"Accept": "text/html, */*;q=0.8"})
    # Without the proxies of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as response:
        return response.url, response.read().decode()


def chat(url: str) -> str:
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
    return ask(f"{url}/v1/chat/completions", json.dumps(body).encode())[1]


def web_page(url: str) -> tuple[str, dict[str, int]]:
    place, page = ask(f"{url}/")
    names = re.findall(r'(?:src|href)="([^"]+)"', page)
    return page, {name: len(ask(urllib.parse.urljoin(place, name))[1]) for name in names}


def main(stick: Path, home: Path) -> None:
    make_devices()
    read_only(stick)
    hide_library()
    capture = Capture()
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "OFFGRID_PORT": "0",
               "OFFGRID_THREADS": "1"}  # fmt: skip
    server = subprocess.Popen(
        ["sh", str(stick / "install.sh"), "--serve"],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environ, cwd="/",
    )  # fmt: skip
    assert server.stdout is not None
    url, output = "", ""
    for line in server.stdout:
        output += line
        if found := re.search(r"at (http://127\.0\.0\.1:\d+)", line):
            url = found[1]
        if line.startswith("  ready"):
            break
    if server.poll() is not None or not url:
        raise SystemExit(f"it does not serve: {output}")
    answer = chat(url)
    page = web_page(url)
    again = subprocess.run(
        [str(home / "offgrid/bin/offgrid"), "import", str(stick / "offgrid-models")],
        capture_output=True, text=True, env=environ, cwd="/", check=True,
    )  # fmt: skip
    server.send_signal(signal.SIGTERM)
    server.communicate()
    # This shows that the capture would have seen a packet.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"control", CONTROL)
    port = int(url.rpartition(":")[2])
    packets = capture.packets()
    out = [data for device, data in packets if device != "lo"]
    control = [data for data in out if data.endswith(b"control")]
    print(json.dumps({
        "out": [data.hex() for data in out if data not in control],
        "other": [data.hex() for device, data in packets
                  if device == "lo" and port not in ports(data)],
        "seen": sum(port in ports(data) for _, data in packets),
        "control": len(control),
        "answer": json.loads(answer),
        "page": page,
        "output": output + again.stdout,
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
