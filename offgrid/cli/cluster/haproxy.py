"""The configuration of HAProxy for several machines that serve the same models.

``haproxy.cfg`` beside this file is its text, with names between ``@`` for what differs. HAProxy 2.6
or newer reads it, which is Debian 12's; its manual describes every directive:
https://docs.haproxy.org/2.6/configuration.html
"""

from __future__ import annotations

import ipaddress
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from offgrid import __version__

BUFFER = 131_072
"""Bytes of a request that HAProxy keeps. Only a request that fits can be sent to a second machine
after the first has taken it."""
LARGE = BUFFER - 8192
"""Bytes of a body that may not fit beside the headers and what HAProxy reserves for its own."""
RAW = BUFFER // 4
"""Bytes from the first message on that stand for a conversation whose first messages do not end
within the buffer."""
TEXT = 1024
"""Bytes from the beginning of a prompt without messages that stand for it."""
MESSAGES, PARTS = 3, 3
"""Messages before the first answer, and texts of each, that stand for a conversation. Coding agents
put what is the same in all conversations into the first ones."""
EXPIRE = "2h"
"""How long it is remembered which machine has answered a conversation last."""
RETRIES = 2
"""Further machines that a request is sent to."""
CHATS = (
    "/v1/chat/completions", "/v1/chat/completions/input_tokens", "/v1/messages",
    "/v1/messages/count_tokens", "/api/chat", "/apply-template",
)  # fmt: skip
"""Endpoints with ``messages``."""
INPUTS = ("/v1/decisions",)
"""Endpoints whose ``input`` is a conversation."""
RESPONSES = ("/v1/responses", "/v1/responses/input_tokens")
"""The same, but they may read or write what one machine stores."""
TEXTS = ("/v1/completions", "/completion", "/completions", "/api/generate")
"""Endpoints with ``prompt``."""
EDITORS = ("/infill",)
"""Endpoints that an editor asks about the same files again and again."""
SINGLES = (
    "/v1/embeddings", "/v1/rerank", "/v1/score", "/score", "/v1/moderations",
    "/v1/lab/distribution", "/api/embed", "/api/embeddings", "/tokenize", "/detokenize",
)  # fmt: skip
"""Endpoints whose requests have nothing to do with each other."""
_TEXT = Path(__file__).with_name("haproxy.cfg")
_IDS = 1_000_003
"""Of HAProxy's ids for machines. A multiple of 4,096 of each must fit into 32 bits."""


@dataclass(frozen=True)
class Machine:
    """A machine that serves.

    Attributes:
        name: its name in HAProxy's log and statistics.
        host: its address or name.
        port: the port of its API.
    """

    name: str
    host: str
    port: int

    @property
    def address(self) -> str:
        """Host and port as HAProxy reads them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_named(self) -> bool:
        """Whether the host is a name, and not an address."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False


@dataclass(frozen=True)
class Options:
    """What may differ between configurations.

    Attributes:
        bind: address and port for clients, as ``bind`` of HAProxy has them.
        balance: most requests that a machine may have, in percent of the mean of all machines.
        slots: requests that a machine answers at the same time.
        certificate: PEM file with a certificate and its key, for HTTPS; empty for HTTP.
        authority: PEM file with the issuer of the machines' certificates; empty if they speak HTTP.
        admin_socket: path of a socket for commands to HAProxy; empty for none.
        stores: whether machines store responses, so that one of them has to get all that are.
        dns: whether HAProxy asks DNS for the names of machines again and again.
    """

    bind: str = ":11610"
    balance: int = 110
    slots: int = 4
    certificate: str = ""
    authority: str = ""
    admin_socket: str = ""
    stores: bool = True
    dns: bool = False


def configuration(machines: Sequence[Machine], options: Options) -> str:
    """Return the text of a configuration.

    Args:
        machines: one or more. What is not spread is for the first one that is ready.
        options: the rest.
    """
    values = {
        "version": __version__,
        "admin": _admin(options),
        "resolvers": _resolvers(machines, options),
        "tls": _to_machines(options),
        "bind": _bind(options),
        "scheme": "https" if options.certificate else "http",
        "responses": _responses(options),
        "chat_key": _key("messages", "is_chat"),
        "input_key": _key("input", "is_input"),
        "spread": _servers(machines, options),
        "first": _servers(machines, options, "backup"),
        **_NUMBERS,
        **_PATHS,
        "stays": _stays(machines),
        "balance": str(options.balance),
        "slots": str(options.slots),
        "retries": str(min(RETRIES, max(1, len(machines) - 1))),
    }
    return _filled(_TEXT.read_text(encoding="utf-8"), values)


_NUMBERS = {
    "buffer": str(BUFFER), "large": str(LARGE), "raw": str(RAW), "text": str(TEXT),
    "messages": str(MESSAGES), "expire": EXPIRE,
}  # fmt: skip
_PATHS = {
    name: " ".join(paths)
    for name, paths in (
        ("chats", CHATS), ("inputs", INPUTS), ("texts", TEXTS), ("editors", EDITORS),
        ("singles", SINGLES),
    )
}  # fmt: skip


_RESOLVERS = """\
# Asks the nameservers of /etc/resolv.conf for the names of machines again and again. HAProxy reads
# neither /etc/hosts nor the search domains: a name that DNS does not know is left out after 30
# seconds. If DNS does not answer, the last address stays in use.
resolvers dns
    parse-resolv-conf
    hold timeout 20d
    hold refused 20d
    hold other 20d

"""


def _filled(text: str, values: dict[str, str]) -> str:
    """Replace names by values; a line with only a name becomes as many lines as its value has."""

    def value(found: re.Match[str]) -> str:
        if found[1] is None:
            return values[found[2]]
        return "".join(f"    {line}\n" for line in values[found[1]].splitlines())

    return re.sub(r"^    @(\w+)@\n|@(\w+)@", value, text, flags=re.MULTILINE)


def _admin(options: Options) -> str:
    if not options.admin_socket:
        return ""
    return f"stats socket {_quoted(options.admin_socket)} mode 660 level admin"


def _resolvers(machines: Sequence[Machine], options: Options) -> str:
    if not options.dns or not any(machine.is_named for machine in machines):
        return ""
    return _RESOLVERS


def _bind(options: Options) -> str:
    if not options.certificate:
        return options.bind
    return f"{options.bind} ssl crt {_quoted(options.certificate)} alpn http/1.1"


def _to_machines(options: Options) -> str:
    if not options.authority:
        return ""
    return f" ssl verify required ca-file {_quoted(options.authority)}"


def _responses(options: Options) -> str:
    paths, kind = " ".join(RESPONSES), "http-request set-var(req.kind) str(input)"
    if not options.stores:
        return f"{kind} if {{ var(req.path) -m str {paths} }}"
    return (
        "# A response that is stored, or continues a stored one, is for the first machine.\n"
        f"{kind} if {{ var(req.path) -m str {paths} }} "
        "{ req.body,json_query('$.store') -m int 0 }"
    )


def _key(field: str, kind: str) -> str:
    """Return the lines that set ``txn.key`` from the first messages in a field.

    ``req.end`` is set where the first answer begins, and ``req.cut`` if a message does not end
    within the buffer.
    """
    return "\n".join(line for index in range(MESSAGES) for line in _message(field, kind, index))


def _message(field: str, kind: str, index: int) -> Iterator[str]:
    at, role, text = f"{field}[{index}]", f"req.role{index}", f"req.text{index}"
    own = f"{{ var({role}) -m found }}"
    yield f"http-request set-var({role}) {_query(f'{at}.role')} if {kind}"
    yield f"http-request set-var(req.end) bool(true) if {own} !{{ var({role}) -m str {_ROLES} }}"
    belongs = f"{kind} {own} !{{ var(req.end) -m found }}"
    missing = f"!{{ var({text}) -m found }}"
    for place in ("content", "content[0].text", "content[1].text"):
        query = f"{_query(f'{at}.{place}')},xxh64"
        yield f"http-request set-var({text}) {query} if {belongs} {missing}"
    yield f"http-request set-var(req.cut) bool(true) if {belongs} is_large {missing}"
    texts = [f"%[var({text})]"]
    texts += [
        f"%[var(req.json),json_query($.{at}.content[{part}].text),xxh64]"
        for part in range(1, PARTS)
    ]
    yield f"http-request set-var-fmt(txn.key) '%[var(txn.key)] {' '.join(texts)}' if {belongs}"


_ROLES = "system developer user"


def _query(path: str) -> str:
    return f"var(req.json),json_query('$.{path}')"


def _stays(machines: Sequence[Machine]) -> str:
    """Return the lines that let a conversation stay, unless its machine is busy."""
    return "\n".join(
        f"http-request set-var(txn.stays) bool(true) if {{ var(txn.home) -m int {id} }} "
        f"{{ srv_conn(spread/{machine.name}),sub(txn.most) lt 0 }}"
        for machine, id in zip(machines, _ids(machines), strict=True)
    )


def _servers(machines: Sequence[Machine], options: Options, role: str = "") -> str:
    """Return the lines of the machines.

    A machine's place on the ring follows from its id, and the id from its address: so all proxies
    agree, and a further machine takes no more conversations than its share.

    Args:
        machines: the machines.
        options: whether they speak HTTPS, and whether DNS is asked for their names.
        role: of those after the first.
    """
    lines = []
    for number, (machine, id) in enumerate(zip(machines, _ids(machines), strict=True)):
        words = ["server", machine.name, machine.address, f"id {id}", "weight 100"]
        if number and role:
            words.append(role)
        if options.dns and machine.is_named:
            # Machines that listen on 0.0.0.0 have no IPv6.
            words.append("resolvers dns resolve-prefer ipv4")
        if options.authority and machine.is_named:
            # HAProxy compares names with a certificate, but no addresses.
            words.append(f"sni str({machine.host}) verifyhost {machine.host}")
        lines.append(" ".join(words))
    return "\n".join(lines)


def _ids(machines: Sequence[Machine]) -> list[int]:
    ids: list[int] = []
    for machine in machines:
        id = zlib.crc32(machine.address.encode()) % _IDS + 1
        while id in ids:
            id += 1
        ids.append(id)
    return ids


def _quoted(text: str) -> str:
    return '"' + re.sub(r'([\\"$])', r"\\\1", text) + '"'
