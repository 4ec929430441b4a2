// The server side of a pod: answers with its name and with the peer that it saw.
#ifndef TRIPLANE_LAB_SERVE_H
#define TRIPLANE_LAB_SERVE_H

/*
 * Listens on every port of `list` ("tcp:80,udp:80,sctp:80"), on IPv4 and IPv6. Returns 0, or -1 after a
 * message on standard error. A protocol or family that the kernel does not have is left out and noted.
 *
 * Stream protocol, by line:  any text -> "NAME PEERADDR PEERPORT";  "BYE" the same, and the server closes;
 * "GET ..." -> HTTP/1.1 200 with the same body;  "HOLD" -> "NAME 0", and then "NAME n" for every line.
 * Datagrams: one answer each, "NAME PEERADDR PEERPORT".
 */
int serve(const char *name, const char *list);
/* What was left out, as text for the ready line; empty: nothing. */
const char *serve_missing(void);

#endif
