"""Copy lines between the host's stdin/stdout and the daemon's socket, and outlive the daemon.

While a daemon starts, the handshake and the lists are answered from kept answers (`handshake`); a
line that is not a valid message is answered here with an error.

What is promised: stdout carries protocol and nothing else; lines keep their order; memory is
bounded by `BUFFER_BYTES` each way plus the longest line (a side that does not read is not read
from); a request that the daemon took and did not answer is answered once, with an error; a request
that it never took is sent to the next daemon; the relay ends when its host closes stdin or stdout.
"""

import json
import os
import select
import socket
import stat
import sys
import time
from collections import deque

from arsenale_relay import __version__
from arsenale_relay.handshake import DISCOVER, LISTEN, Answers
from arsenale_relay.inflight import InFlight, Message, asks
from arsenale_relay.start import StartError, connect_or_start

BUFFER_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16

PIPE_WRITE_BYTES = 4096
"""A write up to PIPE_BUF to a pipe that poll calls writable does not block (pipe(7))."""

BUDGET_S = 20.0
"""How long to wait for a daemon before what waits for it is answered with an error."""

FAREWELL = b'{"arsenale":1,"parted":true}\n'
"""Tells a daemon that is ending on purpose: what came before this is all that it has to answer."""

RETRY_S = 0.02
"""How soon to try again when a daemon hangs up before it said welcome."""

LAST_ANSWERS_S = 1.0
"""How long a call may still take when the host has closed stdin; then the daemon cancels it."""

LAST_WORDS_S = 10.0
"""How long after the host closed stdin the relay ends, come what may."""

CRASHED = "the Arsenale daemon ended meanwhile; it may or may not be done: check, then call again"
UNREACHABLE = "{}; the call was not made"


class HostGone(Exception):
    """The host closed its end: there is nobody left to serve."""


class Refused(Exception):
    """The daemon will not serve what the relay was started for."""


class Relay:
    """One host, one server's name, and one daemon after another."""

    def __init__(self, home: str, server: str, budget_s: float = BUDGET_S) -> None:
        self._home = home
        self._server = server
        self._budget_s = budget_s
        self._flight = InFlight()
        self._answers = Answers(home, server)
        self._daemon: socket.socket | None = None
        self._welcomed = False
        self._goodbye = False
        self._turned_away_since = 0.0
        self._farewell = b""
        self._host_open = True
        self._ended_at = 0.0
        self._from_host = bytearray()
        self._from_daemon = bytearray()
        self._unsent: deque[tuple[bytes, Message]] = deque()
        self._unsent_bytes = 0
        self._handshake: bytes | None = None
        self._first: list[bytes] = []
        self._sending = memoryview(b"")
        self._to_host = bytearray()
        self._stdout = _as_socket(1)

    def run(self) -> None:
        """Serve the host until it goes.

        Raises:
            Refused: The daemon does not know the server.
        """
        try:
            self._connect()
            while not self._done():
                self._step()
        except HostGone:
            pass

    def _done(self) -> bool:
        if self._host_open:
            return False
        drained = not (self._unsent or self._first or len(self._sending) or self._to_host)
        late = time.monotonic() - self._ended_at > LAST_WORDS_S
        return (self._daemon is None and drained) or late

    def _step(self) -> None:
        poll = select.poll()
        if self._host_open and self._unsent_bytes < BUFFER_BYTES:
            poll.register(0, select.POLLIN)
        # Always asked about, if only to learn that the host is gone.
        poll.register(1, select.POLLOUT if self._to_host else 0)
        daemon = -1
        if self._daemon is not None:
            daemon = self._daemon.fileno()
            reads = select.POLLIN if len(self._to_host) < BUFFER_BYTES else 0
            poll.register(daemon, reads | (select.POLLOUT if self._has_next() else 0))
        for descriptor, events in poll.poll(None if self._host_open else 200):
            if descriptor == 0:
                self._read_host()
            elif descriptor == 1:
                self._write_host(events)
            elif self._daemon is not None and descriptor == daemon:
                self._serve_daemon(events)
        if not self._welcomed:
            self._answer_unsent()
        if self._daemon is None and self._wanted():
            self._connect()
        if not self._host_open:
            self._part()

    def _serve_daemon(self, events: int) -> None:
        readable = events & (select.POLLIN | select.POLLHUP | select.POLLERR)
        if readable and not self._read_daemon():
            return
        if events & select.POLLOUT:
            self._write_daemon()

    def _wanted(self) -> bool:
        """Whether a daemon is needed now: a planned end is not undone before the host asks."""
        if self._goodbye:
            self._keep_notices()
        if self._unsent:
            return True
        return not self._goodbye and (self._flight.waiting or self._flight.listening())

    def _keep_notices(self) -> None:
        """Note what the host said that asks nothing: a handshake's end is told to the next daemon.

        The rest was for the one that has gone.
        """
        while self._unsent and not asks(self._unsent[0][1]):
            line, message = self._unsent.popleft()
            self._unsent_bytes -= len(line)
            self._flight.sent(line, message)
            self._to_host += self._flight.release()

    # From the host to the daemon.

    def _read_host(self) -> None:
        chunk = os.read(0, CHUNK_BYTES)
        if not chunk:
            self._host_closed()
            return
        start = len(self._from_host)
        self._from_host += chunk
        if self._from_host.find(b"\n", start) < 0:
            return
        lines = bytes(self._from_host).split(b"\n")
        self._from_host = bytearray(lines.pop())
        for line in filter(bytes.strip, lines):
            self._take(line + b"\n")

    def _take(self, line: bytes) -> None:
        """Queue a line of the host; answer here what is not valid, and what needs no daemon.

        `server/discover` never reaches the daemon: on a connection that answered it the MCP SDK
        rejects `initialize`, which clients that prefer a handshake send next.
        """
        passed, answer = self._flight.arrived(line)
        self._to_host += answer
        for one, message in passed:
            if message.get("method") != DISCOVER or not self._answer_here(one, message):
                self._unsent.append((one, message))
                self._unsent_bytes += len(one)

    def _answer_here(self, line: bytes, message: Message) -> bool:
        """Answer MESSAGE from the kept answers; false where only the daemon can."""
        answer = self._answers.answer(message)
        if answer is None:
            return False
        params: Message = message.get("params") or {}
        version = self._answers.negotiated(params.get("protocolVersion"))
        self._flight.answered_here(line, message, version)
        self._to_host += self._flight.to_host(json.dumps(message["id"]), answer)
        return True

    def _acknowledge(self, message: Message) -> None:
        """Acknowledge a subscription, which a host waits for before its next request."""
        if message.get("method") == LISTEN:
            answer = self._answers.acknowledgement(message)
            if answer is not None and self._flight.acknowledge(message.get("id")):
                self._to_host += answer

    def _answer_unsent(self) -> None:
        """Answer what can be answered while no daemon is there; keep the rest in order."""
        waiting, self._unsent, self._unsent_bytes = self._unsent, deque(), 0
        for line, message in waiting:
            if message.get("method") == "notifications/initialized":
                self._flight.sent(line, message)
            elif not self._answer_here(line, message):
                self._acknowledge(message)
                self._unsent.append((line, message))
                self._unsent_bytes += len(line)

    def _host_closed(self) -> None:
        self._host_open = False
        self._ended_at = time.monotonic()
        if self._from_host.strip():  # a last line without its end
            self._take(bytes(self._from_host) + b"\n")
            self._from_host.clear()

    def _part(self) -> None:
        """Tell the daemon that the host has gone, as soon as nothing is to be sent or answered.

        The daemon takes the end of its input for the end of the client: it cancels what still
        runs, so that a killed host's agent takes no work.
        """
        if self._welcomed:
            late = time.monotonic() - self._ended_at > LAST_ANSWERS_S
            to_come = self._flight.unanswered and not late
        else:
            to_come = self._flight.waiting
        if self._unsent or self._has_next() or to_come:
            return
        if self._daemon is not None:
            try:
                self._daemon.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def _has_next(self) -> bool:
        if not self._welcomed:
            return False
        if self._goodbye:
            return bool(len(self._sending) or self._farewell)
        if len(self._sending) or self._handshake is not None:
            return True
        return not self._flight.handshaking and bool(self._first or self._unsent)

    def _next_line(self) -> bytes:
        if self._farewell:
            line, self._farewell = self._farewell, b""
            return line
        if self._handshake is not None:
            line, self._handshake = self._handshake, None
            return line
        if self._first:
            return self._first.pop(0)
        while self._unsent:
            line, message = self._unsent.popleft()
            self._unsent_bytes -= len(line)
            passes = self._flight.sent(line, message)
            self._to_host += self._flight.release()
            if passes:
                return line
        return b""

    def _write_daemon(self) -> None:
        assert self._daemon is not None
        while self._has_next():
            if not len(self._sending):
                self._sending = memoryview(self._next_line())
                continue
            try:
                sent = self._daemon.send(self._sending, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self._hear_out()
                return
            self._sending = self._sending[sent:]

    # From the daemon to the host.

    def _read_daemon(self) -> bool:
        """Take what the daemon sent; false when it has gone."""
        assert self._daemon is not None
        try:
            chunk = self._daemon.recv(CHUNK_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            chunk = b""
        if not chunk:
            self._lose_daemon()
            return False
        start = len(self._from_daemon)
        self._from_daemon += chunk
        if self._from_daemon.find(b"\n", start) < 0:
            return True
        lines = bytes(self._from_daemon).split(b"\n")
        self._from_daemon = bytearray(lines.pop())
        for line in lines:
            if line.startswith(b'{"arsenale":'):
                self._control(json.loads(line))
            else:
                self._to_host += self._flight.received(line)
        if self._to_host:
            self._write_host(select.POLLOUT)
        return True

    def _hear_out(self) -> None:
        """Take what a daemon that reads no more said before it went: answers, or why."""
        while self._daemon is not None and _readable(self._daemon.fileno()):
            self._read_daemon()
        if self._daemon is not None:
            self._lose_daemon()

    def _control(self, said: dict[str, object]) -> None:
        if "error" in said and said.get("final"):
            raise Refused(str(said["error"]))
        if "error" in said:
            self._turned_away_since = 0.0
            self._give_up(str(said["error"]))
        if "version" in said:
            self._handshake, self._first = self._flight.opening()
            self._welcomed = True
            self._turned_away_since = 0.0
        if "goodbye" in said and not self._goodbye:
            self._goodbye = True
            self._farewell = FAREWELL

    def _write_host(self, events: int) -> None:
        if events & (select.POLLERR | select.POLLNVAL | select.POLLHUP):
            raise HostGone
        if not self._to_host:
            return
        try:
            if self._stdout is not None:
                sent = self._stdout.send(self._to_host, socket.MSG_DONTWAIT)
            else:
                sent = os.write(1, self._to_host[:PIPE_WRITE_BYTES])
        except BlockingIOError:
            return
        except OSError as exc:
            raise HostGone from exc
        del self._to_host[:sent]

    # One daemon after another.

    def _lose_daemon(self) -> None:
        assert self._daemon is not None
        self._daemon.close()
        self._daemon = None
        if not self._welcomed:
            self._turned_away()
            return
        self._welcomed = False
        self._farewell = b""
        self._from_daemon.clear()
        if len(self._sending):
            # Cut off in the middle: the daemon cannot have acted on it. It is in flight all the
            # same, so that `lost` decides, and a call is not made twice on a guess.
            self._sending = memoryview(b"")
        self._handshake, self._first = None, []
        self._to_host += b"".join(self._flight.lost(CRASHED))

    def _turned_away(self) -> None:
        """A daemon that was just ending let us in and went: nothing was sent or lost."""
        if self._goodbye:
            return  # it said why; the next request asks again
        now = time.monotonic()
        if not self._turned_away_since:
            self._turned_away_since = now
        elif now - self._turned_away_since > self._budget_s:
            self._turned_away_since = 0.0
            self._give_up("the Arsenale daemon ends as soon as it is asked: see `arsenale logs`")
        self._wait(RETRY_S)

    def _connect(self) -> None:
        """Connect, or start a daemon; past the budget answer what waits with an error."""
        while self._daemon is None:
            try:
                self._daemon = connect_or_start(self._home, self._budget_s, self._wait)
            except StartError as exc:
                sys.stderr.write(f"arsenale-stdio: {exc}\n")
                self._give_up(str(exc))
                return
            self._goodbye = False
            try:
                self._daemon.sendall(self._hello())
            except OSError:  # killed as it let us in
                self._lose_daemon()
                if self._goodbye:
                    return  # given up

    def _give_up(self, reason: str) -> None:
        why = UNREACHABLE.format(reason)
        self._to_host += b"".join(self._flight.give_up(why))
        for _, message in self._unsent:
            self._to_host += self._flight.refuse(message, why)
        self._unsent.clear()
        self._unsent_bytes = 0
        self._goodbye = True  # try again when the host asks again, not before

    def _hello(self) -> bytes:
        said = {
            "arsenale": 1,
            "server": self._server,
            "version": __version__,
            "session": os.environ.get("CLAUDE_CODE_SESSION_ID"),
            "project": os.environ.get("CLAUDE_PROJECT_DIR"),
        }
        return json.dumps(said).encode() + b"\n"

    def _wait(self, seconds: float) -> None:
        """Sleep while a daemon starts; meanwhile read the host and answer what needs no daemon.

        Stop waiting when the host has gone and asked nothing.
        """
        poll = select.poll()
        if self._host_open and self._unsent_bytes < BUFFER_BYTES:
            poll.register(0, select.POLLIN)
        poll.register(1, select.POLLOUT if self._to_host else 0)
        for descriptor, events in poll.poll(seconds * 1000):
            if descriptor == 0:
                self._read_host()
            else:
                self._write_host(events)
        self._answer_unsent()
        if not (self._host_open or self._unsent or self._to_host or self._flight.waiting):
            raise HostGone


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))


def _as_socket(descriptor: int) -> socket.socket | None:
    """Return a socket over DESCRIPTOR if it is one: hosts on Node talk over socket pairs."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return None
    return socket.socket(fileno=os.dup(descriptor))
