"""For each line on stdin, asks a service over TCP, connected UDP and unconnected UDP in every family given, and says in one
line of JSON what it believes to talk to, what its packets were sent to, and who answered. The sockets of the first round
stay open, and are asked again in each later one: "kept". Arguments: tcp-address port udp-address port, for each family."""
import json
import socket
import sys

OUTGOING = 4  # PACKET_OUTGOING of linux/if_packet.h
TIMEOUT_S = 10.0
NUMBERS = {'tcp': socket.IPPROTO_TCP, 'udp': socket.IPPROTO_UDP}


def tap():
    return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(3))


def destination(wire, protocol, port):
    """Where the last packet from this port was sent to."""
    found = None
    while True:
        try:
            packet, about = wire.recvfrom(2048)
        except BlockingIOError:
            return found
        if about[2] != OUTGOING:
            continue
        if packet[0] >> 4 == 4:
            number, at, to, family = packet[9], (packet[0] & 15) * 4, packet[16:20], socket.AF_INET
        else:
            number, at, to, family = packet[6], 40, packet[24:40], socket.AF_INET6
        if number == NUMBERS[protocol] and int.from_bytes(packet[at:at + 2], 'big') == port:
            found = socket.inet_ntop(family, to)


def opened(kind, address):
    family = socket.AF_INET6 if ':' in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT_S)
    if kind != 'unconnected':
        sock.connect(address)
    return sock


def ask(kind, sock, address):
    wire = tap()
    if kind == 'unconnected':
        sock.sendto(b'x\n', address)
        answer, peer = sock.recvfrom(200)
    else:
        sock.sendall(b'x\n')
        answer, peer = sock.recv(200), sock.getpeername()
    return [peer[0], destination(wire, 'tcp' if kind == 'tcp' else 'udp', sock.getsockname()[1]), answer.decode().split()[0]]


def attempt(work):
    try:
        return work()
    except OSError as error:
        return str(error)


words = sys.argv[1:]
TARGETS = [
    (kind, (words[i + (0 if kind == 'tcp' else 2)], int(words[i + (1 if kind == 'tcp' else 3)])))
    for i in range(0, len(words), 4)
    for kind in ('tcp', 'connected', 'unconnected')
]
kept = {}
for _ in sys.stdin:
    fresh, again = {}, {}
    for kind, address in TARGETS:
        name = f'{kind} {6 if ":" in address[0] else 4}'

        def begin():
            sock = opened(kind, address)
            answer = ask(kind, sock, address)
            kept.setdefault(name, sock)
            return answer

        if name in kept:
            again[name] = attempt(lambda: ask(kind, kept[name], address))
        fresh[name] = attempt(begin)
    print(json.dumps({'fresh': fresh, 'kept': again}), flush=True)
