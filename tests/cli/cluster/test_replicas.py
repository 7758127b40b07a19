"""Three servers behind HAProxy on a fourth machine."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certificates
import hosts
import pytest
from front_proxies import free_port
from hosts import Host, Lan
from paired_hosts import pair, peer_flags
from processes import Child
from replicas import MACHINE, Balanced, balanced
from support import Json, Stream, endless, eventually, request, together

pytestmark = pytest.mark.slow
SERVE = ("--parallel", "2", "--sse-ping-interval", "0.01", "--ctx-size", "1024")
TALKS, TURNS = 6, 3
Chat = list[dict[str, Any]]


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    with hosts.lan(tmp_path_factory.mktemp("lan"), 4) as made:
        yield made


@pytest.fixture(scope="module")
def servers(lan: Lan) -> dict[str, Child]:
    """The servers that tests do not harm, by their hosts."""
    begun = {host.name: host.begin_serving(*SERVE) for host in lan.hosts[:3]}
    for server in begun.values():
        server.wait_ready()
    return begun


@pytest.fixture(scope="module")
def proxy(lan: Lan, servers: dict[str, Child]) -> Iterator[Balanced]:
    with balanced(lan.hosts[3], [*servers.values()], "--slots", "2") as running:
        yield running


def system(text: str = "You are helpful.") -> dict[str, str]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def talk(proxy: Balanced, number: int) -> list[tuple[str, int]]:
    """Hold a conversation; return the machine and the cached tokens of each answer."""
    messages: Chat = [system(), user(f"{number} things that otters do in the river?")]
    seen = []
    for _ in range(TURNS):
        answer = proxy.chat(messages)
        assert answer.status == 200, answer.body
        usage = answer.json["usage"]
        seen.append((answer.headers[MACHINE], usage["prompt_tokens_details"]["cached_tokens"]))
        messages += [answer.json["choices"][0]["message"], user("And what else?")]
    return seen


def running(server: Child) -> int:
    """How many requests a server is answering."""
    loaded = request(server.url, "GET", "/v1/loaded").json["data"]
    return sum(int(model["sequences"]) for model in loaded)


def test_conversations_stay_where_their_prefix_is(proxy: Balanced) -> None:
    """They have the same system prompt, and spread over the machines nevertheless."""
    talks = [talk(proxy, number) for number in range(TALKS)]
    for seen in talks:
        assert len({machine for machine, _ in seen}) == 1
        cached = [tokens for _, tokens in seen]
        assert cached[0] < cached[1] < cached[2]
    # Ports differ from run to run, and with them which conversations a machine gets.
    answerers: set[str] = set()
    for number in range(1000):
        if answerers != set(proxy.machines):
            answerers.add(proxy.chat([system(), user(f"{number} otters")]).headers[MACHINE])
    assert answerers == set(proxy.machines)


def test_a_stream_is_not_held_back(proxy: Balanced) -> None:
    """Comments arrive while the worker is stopped, so nothing waits for more bytes."""
    workers = {name: server.worker() for name, server in proxy.machines.items()}
    with proxy.open("/v1/completions", endless()) as stream:
        worker = workers[stream.headers[MACHINE]]
        while b"data:" not in (line := stream.readline()):  # comments may come first
            assert line
        worker.suspend()
        try:
            for _ in range(5):
                while not (line := stream.readline()).startswith(b":"):
                    assert line
        finally:
            worker.resume()


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_its_slot(proxy: Balanced, streamed: bool) -> None:
    def busy() -> int:
        return sum(running(server) for server in proxy.machines.values())

    eventually(lambda: busy() == 0, "earlier requests have ended")
    body = endless("Twice", stream=streamed, max_tokens=900)
    if streamed:
        stream = Stream(proxy.url, "/v1/completions", body)
        assert stream.read_some()
        stream.leave()
    else:
        leaving = http.client.HTTPConnection(proxy.url.removeprefix("http://"))
        worker = [server.worker() for server in proxy.machines.values()]
        for one in worker:
            one.suspend()
        leaving.request("POST", "/v1/completions", json.dumps(body).encode())
        eventually(lambda: busy() == 1, "it is generated")
        leaving.close()
        for one in worker:
            one.resume()
    eventually(lambda: busy() == 0, "the generation has ended")


def test_bodies_that_are_larger_than_the_buffer(proxy: Balanced) -> None:
    """A conversation of a megabyte reaches its machine whole, which says that it is too long."""
    begin: Chat = [system(), user("Summarise it.")]
    answer = {"role": "assistant", "content": "What shall I summarise?"}
    turns = [*begin, answer, *[user("word " * 1000)] * 200]
    machines = set()
    for length in (len(turns) - 1, len(turns)):
        refused = proxy.chat(turns[:length])
        assert refused.status == 400
        assert refused.json["error"]["code"] == "context_length_exceeded"
        machines.add(refused.headers[MACHINE])
    assert machines == {proxy.chat(begin).headers[MACHINE]}
    text = json.dumps({"model": "offgrid-starter", "prompt": "a"}).encode()
    counted = request(proxy.url, "POST", "/tokenize", text + b" " * (1 << 20))
    assert counted.json["count"] == 1


def test_what_is_stored_is_found_again(proxy: Balanced) -> None:
    body = {"input": "Once", "max_output_tokens": 4}
    first = proxy.post("/v1/responses", body)
    assert first.headers[MACHINE] == next(iter(proxy.machines))
    id = first.json["id"]
    assert request(proxy.url, "GET", f"/v1/responses/{id}").json["id"] == id
    assert proxy.post("/v1/responses", {**body, "previous_response_id": id}).status == 200


def test_the_address_of_the_client_is_passed_on(lan: Lan) -> None:
    """A machine that knows the proxy believes it; clients cannot pretend to be others."""
    hosts.needs_links()  # the log does not name loopback addresses
    at = lan.hosts[3]
    server = lan.hosts[0].serve(*SERVE, "--trusted-proxies", at.address, "--log-level", "info")
    lies = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "evil.example"}
    body = {"messages": [user("Hello")], "max_tokens": 1}
    with balanced(at, [server]) as proxy:
        asked = request(proxy.url, "POST", "/v1/chat/completions", body, lies)
        assert asked.status == 200
    server.end()
    assert f"from={lan.here}" in server.err.text
    assert "192.0.2.1" not in server.err.text


def test_the_machines_are_the_peers_of_the_running_server(lan: Lan) -> None:
    """The port of their API is that of the running server; that of their TLS is not used."""
    one, two = lan.hosts[:2]
    pair(one, two)
    port = str(free_port())
    begun = [host.begin_serving(*SERVE, "--port", port, *peer_flags(host)) for host in (one, two)]
    for server in begun:
        server.wait_ready()
    written = one.offgrid("cluster", "haproxy", "--url", begun[0].url)
    assert (written.returncode, written.stderr) == (0, "")
    found = re.findall(r"^    server (\S+) (\S+) id", written.stdout, re.MULTILINE)
    machines = [("a", f"{one.address}:{port}"), ("b", f"{two.address}:{port}")]
    assert found == [*machines, *machines]
    begun[1].end()
    warned = one.offgrid("cluster", "haproxy", "--url", begun[0].url)
    assert warned.returncode == 0
    assert f"no API answers at {two.address}, port {port}, of the peer b: run" in warned.stderr
    begun[0].end()


def test_a_server_without_peers(lan: Lan, servers: dict[str, Child]) -> None:
    url = servers["a"].url
    refused = lan.hosts[0].offgrid("cluster", "haproxy", "--url", url)
    assert refused.returncode == 1
    assert "--peers" in refused.stderr


class Harmed:
    """Three servers that a test may harm, behind HAProxy."""

    def __init__(self, proxy: Balanced) -> None:
        self.proxy = proxy

    def home(self, number: int) -> tuple[Chat, Child]:
        """A conversation after its first answer, and the machine that has its prefix."""
        messages: Chat = [system(), user(f"{number}: tell me about rivers.")]
        answer = self.proxy.chat(messages)
        messages += [answer.json["choices"][0]["message"], user("And about the sea?")]
        return messages, self.proxy.machines[answer.headers[MACHINE]]


@pytest.fixture
def harmed(lan: Lan) -> Iterator[Harmed]:
    at = lan.hosts[3]
    begun = [host.begin_serving(*SERVE) for host in lan.hosts[:3]]
    for server in begun:
        server.wait_ready()
    with balanced(at, begun, "--slots", "2", "--admin-socket", str(at.folder / "admin")) as proxy:
        yield Harmed(proxy)
    for server in begun:
        server.end()


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Begin a call; return its thread, and the list that gets its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def test_a_machine_that_ends_before_the_first_byte(harmed: Harmed) -> None:
    """Its request is answered by another machine; the client does not notice."""
    messages, home = harmed.home(1)
    worker = home.worker()
    worker.suspend()
    thread, results = in_thread(lambda: harmed.proxy.chat(messages))
    eventually(lambda: running(home) == 1, "its machine has the request")
    home.process.send_signal(signal.SIGKILL)
    worker.kill()
    thread.join()
    assert results[0].status == 200
    assert harmed.proxy.machines[results[0].headers[MACHINE]] is not home
    # The conversation stays at its new machine.
    again = harmed.proxy.chat(messages)
    assert again.headers[MACHINE] == results[0].headers[MACHINE]


def test_a_machine_that_ends_during_a_stream(harmed: Harmed) -> None:
    """The client sees that the answer is not complete, and may ask again."""
    messages, home = harmed.home(2)
    body = {"messages": messages, "stream": True, "ignore_eos": True, "max_tokens": 900}
    with harmed.proxy.open("/v1/chat/completions", body) as stream:
        assert stream.readline()
        worker = home.worker()
        home.process.send_signal(signal.SIGKILL)
        worker.kill()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            stream.read()
    assert harmed.proxy.chat(messages).status == 200


def test_stopping_a_machine_loses_no_request(harmed: Harmed) -> None:
    """Clients ask all the time while it drains, and its last stream is complete."""
    messages, home = harmed.home(3)
    body = {"messages": messages, "stream": True, "ignore_eos": True, "max_tokens": 60}
    statuses: list[int] = []
    asked = threading.Semaphore(0)

    def ask(number: int) -> None:
        for turn in range(12):
            chat = [system(), user(f"client {number}, question {turn}")]
            statuses.append(harmed.proxy.chat(chat).status)
            asked.release()

    with harmed.proxy.open("/v1/chat/completions", body) as stream:
        assert stream.readline()
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for client in clients:
            client.start()
        for _ in range(8):
            asked.acquire()
        home.process.send_signal(signal.SIGTERM)
        assert stream.read().endswith(b"data: [DONE]\n\n")
        for client in clients:
            client.join()
    assert statuses == [200] * 48
    assert home.wait() == 0


def test_another_machine_stands_in_for_the_first(harmed: Harmed) -> None:
    """For what is not spread: from the first request on, and until the first is back."""
    proxy, (name, first) = harmed.proxy, next(iter(harmed.proxy.machines.items()))
    body = {"input": "Once", "max_output_tokens": 4}
    assert proxy.post("/v1/responses", body).headers[MACHINE] == name
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 0
    listed = request(proxy.url, "GET", "/v1/models")
    assert (listed.status, listed.headers[MACHINE]) == (200, [*proxy.machines][1])
    stored = proxy.post("/v1/responses", body)
    assert (stored.status, stored.headers[MACHINE]) == (200, [*proxy.machines][1])


def test_draining_by_hand(harmed: Harmed, lan: Lan) -> None:
    """The state drain sends a machine no new conversations, and maint nothing new at all. Answers
    that run go on."""
    messages, home = harmed.home(4)
    name = next(name for name, server in harmed.proxy.machines.items() if server is home)

    def tell(state: str) -> None:
        at, command = lan.hosts[3], f"set server spread/{name} state {state}\n"
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(at.folder / "admin"))
            asking.sendall(command.encode())
            assert asking.recv(4096).strip() == b""

    def answerers() -> set[str]:
        chats = [[system(), user(f"A new conversation {number}.")] for number in range(12)]
        answers = together([lambda one=one: harmed.proxy.chat(one) for one in chats])  # type: ignore[misc]
        return {answer.headers[MACHINE] for answer in answers}

    body = {"messages": messages, "stream": True, "ignore_eos": True, "max_tokens": 60}
    with harmed.proxy.open("/v1/chat/completions", body) as stream:
        tell("drain")
        assert harmed.proxy.chat(messages).headers[MACHINE] == name
        assert name not in answerers()
        tell("maint")
        assert harmed.proxy.chat(messages).headers[MACHINE] != name
        assert stream.headers[MACHINE] == name
        assert stream.read().endswith(b"data: [DONE]\n\n")
    tell("ready")
    eventually(lambda: name in answerers(), "it gets conversations again")


def test_a_machine_whose_cable_is_cut(harmed: Harmed, lan: Lan) -> None:
    hosts.needs_links()
    messages, home = harmed.home(5)
    host: Host = next(host for host in lan.hosts if f"//{host.address}:" in home.url)
    host.cut()
    try:
        answer = harmed.proxy.chat(messages)
        assert answer.status == 200
        assert harmed.proxy.machines[answer.headers[MACHINE]] is not home
    finally:
        host.restore()


def test_https_on_both_sides(lan: Lan, tmp_path: Path) -> None:
    """With certificates of an authority; a machine with another one gets no requests."""
    one, two, _, at = lan.hosts
    files = certificates.make(tmp_path / "own", one.address, at.address)
    foreign = certificates.make(tmp_path / "foreign", two.address)
    both = tmp_path / "all.pem"
    both.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    begun = [
        host.begin_serving(*SERVE, "--tls-cert", str(made.cert), "--tls-key", str(made.key))
        for host, made in ((two, foreign), (one, files))
    ]
    for server in begun:
        server.wait_ready()
    flags = ("--tls-cert", str(both), "--machine-ca", str(files.authority))
    with balanced(at, begun, *flags) as proxy:
        connection = http.client.HTTPSConnection(
            proxy.url.removeprefix("http://"), context=files.trust()
        )
        for number in range(6):
            body: Json = {"messages": [user(f"{number}")], "max_tokens": 1}
            connection.request("POST", "/v1/chat/completions", json.dumps(body).encode())
            answer = connection.getresponse()
            assert (answer.status, answer.read()[:1]) == (200, b"{")
            assert answer.headers[MACHINE].startswith(f"{one.address}:")
        connection.close()
    for server in begun:
        server.end()
