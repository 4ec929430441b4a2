"""All sockets of a test world in one process: servers and clients in as many network namespaces as it takes.

A socket belongs for good to the namespace in which it was made, so one thread goes from namespace to namespace
(setns), makes a socket, and waits for all of them at once. Hundreds of flows cost a few milliseconds, where a
process for each host costs a second to start. Commands are lines of JSON on standard input:

  {"serve": [{"ns": FILE, "port": 80}, ...]}       TCP and UDP, both families; answers with "ready"
  {"run": [FLOW, ...]}                             answers with a list of outcomes, in order

FLOW: {"ns", "proto": "tcp"|"udp", "src": address or "", "sport": port or 0, "dst", "dport", "wait": seconds,
"close": "fin"|"rst", "connected": bool (UDP)}. Outcome: {"outcome": "ok", "at": "address port" of the server as it
sees itself, "peer": the client's address as the server sees it} or {"outcome": "refused"|"timeout"|name of errno}.
"""
import ctypes
import errno
import ipaddress
import json
import os
import selectors
import socket
import struct
import sys
import time

CLONE_NEWNET = 0x40000000
IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_FREEBIND = 8, 49, 50, 78
IP_RECVERR, IPV6_RECVERR = 11, 25
QUESTION = b"?"
libc = ctypes.CDLL(None, use_errno=True)
selector = selectors.DefaultSelector()
namespaces = {}
here = None


def enter(ns):
    global here
    if ns == here:
        return
    if ns not in namespaces:
        namespaces[ns] = os.open(ns, os.O_RDONLY)
    if libc.setns(namespaces[ns], CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns " + ns)
    here = ns


def make(ns, family, kind):
    enter(ns)
    s = socket.socket(family, kind)
    s.setblocking(False)
    return s


def plain(address):
    return str(ipaddress.ip_address(address.split("%")[0]))


def answer(at, peer):
    return (plain(at[0]) + " " + str(at[1]) + " " + plain(peer[0])).encode()


class Listener:
    def __init__(self, ns, family, port):
        self.ns = ns
        self.s = make(ns, family, socket.SOCK_STREAM)
        self.s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            self.s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.s.bind(("", port))
        self.s.listen(1024)
        selector.register(self.s, selectors.EVENT_READ, self)

    def ready(self, _events):
        for _ in range(64):
            try:
                s, peer = self.s.accept()
            except OSError:
                return
            s.setblocking(False)
            Served(s, peer)


class Served:
    """Says who it is at once, and closes after the client."""

    def __init__(self, s, peer):
        self.s = s
        try:
            s.send(answer(s.getsockname(), peer) + b"\n")
            selector.register(s, selectors.EVENT_READ, self)
        except OSError:
            s.close()

    def ready(self, _events):
        try:
            if self.s.recv(64):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        selector.unregister(self.s)
        self.s.close()


class Datagrams:
    """Answers from the address that was asked, which a wildcard socket does not do by itself."""

    def __init__(self, ns, family, port):
        self.family = family
        self.port = port
        self.s = make(ns, family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            self.s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.s.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            # For addresses that are local by a route alone.
            self.s.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            self.s.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self.s.bind(("", port))
        selector.register(self.s, selectors.EVENT_READ, self)

    def ready(self, _events):
        for _ in range(64):
            try:
                _data, extra, _flags, peer = self.s.recvmsg(64, 128)
            except OSError:
                return
            for level, kind, value in extra:
                if kind == IP_PKTINFO and level == socket.IPPROTO_IP:
                    own = socket.inet_ntop(socket.AF_INET, value[8:12])
                    back = struct.pack("=I4s4s", 0, value[8:12], b"\0" * 4)
                elif kind == IPV6_PKTINFO and level == socket.IPPROTO_IPV6:
                    own = socket.inet_ntop(socket.AF_INET6, value[:16])
                    back = value[:16] + b"\0" * 4
                else:
                    continue
                try:
                    self.s.sendmsg([answer((own, self.port), peer)], [(level, kind, back)], 0, peer)
                except OSError:
                    pass


class Flow:
    def __init__(self, spec, results, index):
        self.spec, self.results, self.index = spec, results, index
        self.text = b""
        self.asked = False
        self.s = None
        self.tcp = spec["proto"] == "tcp"
        self.deadline = time.monotonic() + spec["wait"]
        family = socket.AF_INET6 if ":" in spec["dst"] else socket.AF_INET
        try:
            self.s = make(spec["ns"], family, socket.SOCK_STREAM if self.tcp else socket.SOCK_DGRAM)
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not self.tcp:
                v6 = family == socket.AF_INET6
                level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
                self.s.setsockopt(level, IPV6_RECVERR if v6 else IP_RECVERR, 1)
            if spec["src"] or spec["sport"]:
                self.s.bind((spec["src"], spec["sport"]))
            self.target = (spec["dst"], spec["dport"])
            self.begin()
        except BlockingIOError:
            pass
        except OSError as error:
            # What netfilter stops at the output hook (EPERM) or a program at egress (ENOBUFS), a datagram's sender hears
            # of at once, with or without an ICMP message behind it: whether there is one is waited for.
            if self.tcp or self.s is None or error.errno not in (errno.EPERM, errno.ENOBUFS):
                self.fail(error)
                return
        if not self.over():
            selector.register(self.s, selectors.EVENT_READ | (selectors.EVENT_WRITE if self.tcp else 0), self)

    def over(self):
        return self.results[self.index] is not None

    def begin(self):
        if self.tcp:
            self.s.connect(self.target)
        elif self.spec["connected"]:
            self.s.connect(self.target)
            self.s.send(QUESTION)
        else:
            self.s.sendto(QUESTION, self.target)

    def ready(self, events):
        if self.over():
            return
        try:
            if self.tcp and events & selectors.EVENT_WRITE:
                code = self.s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, "")
                selector.modify(self.s, selectors.EVENT_READ, self)
            if events & selectors.EVENT_READ:
                self.read()
        except BlockingIOError:
            pass
        except OSError as error:
            self.fail(error)

    def read(self):
        if self.tcp:
            more = self.s.recv(256)
            if not more:
                self.finish({"outcome": "closed"})
                return
            self.text += more
            if not self.text.endswith(b"\n"):
                return
        else:
            self.text, sender = self.s.recvfrom(256)
            if (plain(sender[0]), sender[1]) != (plain(self.target[0]), self.target[1]):
                self.finish({"outcome": "answer from %s %d" % (plain(sender[0]), sender[1])})
                return
        address, port, peer = self.text.decode().split()
        self.finish({"outcome": "ok", "at": address + " " + port, "peer": peer})

    def fail(self, error):
        if error.errno == errno.ECONNREFUSED:
            self.finish({"outcome": "refused"})
        else:
            self.finish({"outcome": errno.errorcode.get(error.errno, str(error))})

    def finish(self, result):
        if self.over():
            return
        self.results[self.index] = result
        if self.s is None:
            return
        try:
            selector.unregister(self.s)
        except (KeyError, ValueError):
            pass
        if self.tcp and self.spec["close"] == "rst":
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.s.close()


def turn(timeout):
    for key, events in selector.select(timeout):
        key.data.ready(events)


def run(specs):
    results = [None] * len(specs)
    flows = [Flow(spec, results, index) for index, spec in enumerate(specs)]
    waiting = [flow for flow in flows if not flow.over()]
    while waiting:
        now = time.monotonic()
        for flow in waiting:
            if now >= flow.deadline and not flow.over():
                flow.finish({"outcome": "timeout"})
        waiting = [flow for flow in waiting if not flow.over()]
        if waiting:
            turn(max(0.0, min(flow.deadline for flow in waiting) - time.monotonic()))
    return results


class Commands:
    """Standard input, beside all other sockets: servers go on answering while nothing is asked."""

    def __init__(self):
        self.buffer = b""
        os.set_blocking(0, False)
        selector.register(0, selectors.EVENT_READ, self)
        self.lines = []

    def ready(self, _events):
        chunk = os.read(0, 1 << 20)
        if not chunk:
            sys.exit(0)
        *whole, self.buffer = (self.buffer + chunk).split(b"\n")
        self.lines += whole


commands = Commands()
while True:
    while not commands.lines:
        turn(None)
    command = json.loads(commands.lines.pop(0))
    reply = "ready"
    if "serve" in command:
        for one in command["serve"]:
            for family in (socket.AF_INET, socket.AF_INET6):
                Listener(one["ns"], family, one["port"])
                Datagrams(one["ns"], family, one["port"])
    else:
        reply = run(command["run"])
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
