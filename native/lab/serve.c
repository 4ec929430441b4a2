#include "serve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop.h"
#include "out.h"

#define INPUT_SIZE 2048

static char pod_name[NAME_SIZE];
static char missing[128];

const char *serve_missing(void) { return missing; }

struct conn {
  struct watch w;
  struct sockaddr_storage peer;
  char in[INPUT_SIZE];
  size_t used;
  int http, http_close, hold;
  unsigned long long held_lines;
};

static void peer_text(const struct sockaddr_storage *peer, char *text, size_t size) {
  char address[INET6_ADDRSTRLEN];
  if (peer->ss_family == AF_INET6) {
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)peer;
    inet_ntop(AF_INET6, &six->sin6_addr, address, sizeof address);
    snprintf(text, size, "%s %s %u\n", pod_name, address, ntohs(six->sin6_port));
  } else {
    const struct sockaddr_in *four = (const struct sockaddr_in *)peer;
    inet_ntop(AF_INET, &four->sin_addr, address, sizeof address);
    snprintf(text, size, "%s %s %u\n", pod_name, address, ntohs(four->sin_port));
  }
}

/* Answers are tiny: a peer whose window has no room for one is not reading, and is cut off. */
static int say(struct conn *c, const char *text, size_t length) {
  return send(c->w.fd, text, length, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -1;
}

static int say_peer(struct conn *c) {
  char text[160];
  peer_text(&c->peer, text, sizeof text);
  return say(c, text, strlen(text));
}

static int say_http(struct conn *c) {
  char body[160], text[400];
  peer_text(&c->peer, body, sizeof body);
  int n = snprintf(text, sizeof text,
                   "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: %s\r\n\r\n%s",
                   strlen(body), c->http_close ? "close" : "keep-alive", body);
  return say(c, text, (size_t)n);
}

static int say_held(struct conn *c) {
  char text[100];
  int n = snprintf(text, sizeof text, "%s %llu\n", pod_name, c->held_lines++);
  return say(c, text, (size_t)n);
}

/* One line without its end. 0: go on; -1: close. */
static int take_line(struct conn *c, char *line) {
  if (c->hold) return say_held(c);
  if (c->http) {
    if (*line) {
      if (strcasecmp(line, "Connection: close") == 0) c->http_close = 1;
      return 0;
    }
    c->http = 0;
    return say_http(c) < 0 || c->http_close ? -1 : 0;
  }
  if (strncmp(line, "GET ", 4) == 0) {
    c->http = 1;
    c->http_close = strstr(line, "HTTP/1.0") != NULL;
    return 0;
  }
  if (strcmp(line, "HOLD") == 0) {
    c->hold = 1;
    return say_held(c);
  }
  if (say_peer(c) < 0) return -1;
  return strcmp(line, "BYE") == 0 ? -1 : 0;
}

static int take_input(struct conn *c) {
  char *start = c->in, *end = c->in + c->used, *newline;
  while ((newline = memchr(start, '\n', (size_t)(end - start)))) {
    *newline = 0;
    if (newline > start && newline[-1] == '\r') newline[-1] = 0;
    if (take_line(c, start) < 0) return -1;
    start = newline + 1;
  }
  c->used = (size_t)(end - start);
  memmove(c->in, start, c->used);
  return c->used == sizeof c->in ? -1 : 0;
}

static void conn_ready(struct watch *w, uint32_t events) {
  (void)events;
  struct conn *c = (struct conn *)w;
  ssize_t n = recv(w->fd, c->in + c->used, sizeof c->in - c->used, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0) c->used += (size_t)n;
  if (n <= 0 || take_input(c) < 0) loop_close_and_free(w);
}

static void listener_ready(struct watch *w, uint32_t events) {
  (void)events;
  for (int i = 0; i < 64; i++) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    int fd = accept4(w->fd, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      /* Out of descriptors: the listener stays readable, so a moment's pause keeps it from spinning. */
      if (errno == EMFILE || errno == ENFILE) usleep(1000);
      return;
    }
    struct conn *c = calloc(1, sizeof *c);
    if (!c) {
      close(fd);
      return;
    }
    c->w = (struct watch){.fd = fd, .ready = conn_ready};
    c->peer = peer;
    loop_add(&c->w, EPOLLIN | EPOLLRDHUP);
  }
}

/*
 * The answer leaves from the address that was asked (packet info is handed back): a host-network pod has
 * several, and a client rightly ignores an answer from another one.
 */
static void datagram_ready(struct watch *w, uint32_t events) {
  (void)events;
  for (int i = 0; i < 64; i++) {
    char in[INPUT_SIZE], control[128], text[160];
    struct sockaddr_storage peer;
    struct iovec io = {.iov_base = in, .iov_len = sizeof in};
    struct msghdr m = {.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = &io, .msg_iovlen = 1,
                       .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(w->fd, &m, 0) < 0) return;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    /* Only the address is kept; the way back is for the routing table to choose. */
    if (c && c->cmsg_level == IPPROTO_IP) ((struct in_pktinfo *)CMSG_DATA(c))->ipi_ifindex = 0;
    if (c && c->cmsg_level == IPPROTO_IPV6) {
      struct in6_pktinfo *info = (struct in6_pktinfo *)CMSG_DATA(c);
      if (!IN6_IS_ADDR_LINKLOCAL(&info->ipi6_addr)) info->ipi6_ifindex = 0;
    }
    peer_text(&peer, text, sizeof text);
    io = (struct iovec){.iov_base = text, .iov_len = strlen(text)};
    sendmsg(w->fd, &m, MSG_NOSIGNAL);
  }
}

static int open_socket(int family, int type, int protocol) {
  int on = 1;
  int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
  if (fd < 0) return -1;
  if (type == SOCK_STREAM) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  if (type == SOCK_DGRAM && family == AF_INET) setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
  if (type == SOCK_DGRAM && family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
  return fd;
}

static int bind_any(int fd, int family, int port) {
  struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
  if (family == AF_INET) return bind(fd, (struct sockaddr *)&four, sizeof four);
  return bind(fd, (struct sockaddr *)&six, sizeof six);
}

static void note_missing(const char *what) {
  size_t used = strlen(missing);
  if (!strstr(missing, what)) snprintf(missing + used, sizeof missing - used, "%s%s", used ? "," : "", what);
}

static int listen_on(int family, const char *protocol, int port) {
  int stream = strcmp(protocol, "udp") != 0;
  int number = strcmp(protocol, "sctp") == 0 ? IPPROTO_SCTP : 0;
  int fd = open_socket(family, stream ? SOCK_STREAM : SOCK_DGRAM, number);
  if (fd < 0) {
    note_missing(number ? "sctp" : family == AF_INET6 ? "ipv6" : "ipv4");
    return 0;
  }
  if (bind_any(fd, family, port) < 0 || (stream && listen(fd, 4096) < 0)) {
    if (errno == EADDRNOTAVAIL && family == AF_INET6) {
      note_missing("ipv6");
      close(fd);
      return 0;
    }
    fprintf(stderr, "cannot listen on %s port %d: %s\n", protocol, port, strerror(errno));
    close(fd);
    return -1;
  }
  struct watch *w = calloc(1, sizeof *w);
  if (!w) return -1;
  *w = (struct watch){.fd = fd, .ready = stream ? listener_ready : datagram_ready};
  loop_add(w, EPOLLIN);
  return 0;
}

int serve(const char *name, const char *list) {
  snprintf(pod_name, sizeof pod_name, "%s", name);
  const char *at = list;
  while (*at) {
    char protocol[8];
    int port, length;
    if (sscanf(at, "%7[a-z]:%d%n", protocol, &port, &length) != 2 || port < 1 || port > 65535 ||
        (strcmp(protocol, "tcp") && strcmp(protocol, "udp") && strcmp(protocol, "sctp"))) {
      fprintf(stderr, "--serve: \"%s\" is not a list of tcp:PORT, udp:PORT, sctp:PORT\n", list);
      return -1;
    }
    if (listen_on(AF_INET, protocol, port) < 0 || listen_on(AF_INET6, protocol, port) < 0) return -1;
    at += length;
    if (*at == ',') at++;
  }
  return 0;
}
