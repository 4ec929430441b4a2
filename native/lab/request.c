// A request's life: socket, connect, send, answer, outcome.
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

#include "client.h"

/* Failures are printed one by one up to this many in a job, and only counted beyond. */
#define FAILURES_PRINTED 10000
#define RETRY_PAUSE_NS 1000000ull

static enum outcome classify(int err) {
  switch (err) {
    case ECONNREFUSED: return REFUSED;
    case ECONNRESET: case EPIPE: case ECONNABORTED: return RESET;
    case ETIMEDOUT: return TIMEOUT;
    case EHOSTUNREACH: case ENETUNREACH: case EACCES: case EPERM: case ENOPROTOOPT: case EPROTO:
    case EHOSTDOWN: case ENONET: return UNREACHABLE;
    default: return ERROR;
  }
}

static void request_unlink(struct request *r) {
  struct job *j = r->job;
  if (r->previous) r->previous->next = r->next;
  else j->first = r->next;
  if (r->next) r->next->previous = r->previous;
  else j->last = r->previous;
  r->previous = r->next = NULL;
}

static void request_append(struct request *r) {
  struct job *j = r->job;
  r->previous = j->last;
  r->next = NULL;
  if (j->last) j->last->next = r;
  else j->first = r;
  j->last = r;
}

void request_free(struct request *r) {
  if (!datagram(r->job) && r->job->plan.close_mode == CLOSE_RST) {
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(r->w.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  }
  request_unlink(r);
  r->job->inflight--;
  loop_close_and_free(&r->w);
}

static void count_outcome(struct request *r, enum outcome outcome, const char *detail) {
  struct job *j = r->job;
  uint64_t us = (mono_ns() - r->start_ns) / 1000;
  j->outcomes[outcome]++;
  j->interval_outcomes[outcome]++;
  if (outcome == OK) {
    latency_add(&j->latency, us);
    latency_add(&j->interval_latency, us);
    if (r->name[0]) tally_count(&j->pods, r->name, r->start_ms);
    if (r->peer[0]) tally_count(&j->peers, r->peer, r->start_ms);
  } else {
    /* A port that was refused at once would be refused again at once: leave the processor to others. */
    j->pause_until_ns = mono_ns() + RETRY_PAUSE_NS;
  }
  if (j->plan.each && j->plan.kind == JOB_CALL) put_request(r, "request", outcome, detail);
  else if (outcome != OK && j->failures_printed++ < FAILURES_PRINTED) put_request(r, "failure", outcome, detail);
}

void request_end(struct request *r, enum outcome outcome, const char *detail) {
  count_outcome(r, outcome, detail);
  request_free(r);
}

void request_fail(struct request *r, int err) {
  static char detail[64];
  const char *name = strerrorname_np(err);
  snprintf(detail, sizeof detail, "%s%s", name ? name : "errno", r->state == CONNECTING ? " at connect" : "");
  request_end(r, classify(err), detail);
}

static void note_local_port(struct request *r) {
  struct sockaddr_storage local;
  socklen_t length = sizeof local;
  if (r->job->plan.bound_port) r->local_port = r->job->plan.bound_port;
  else if (getsockname(r->w.fd, (struct sockaddr *)&local, &length) == 0)
    r->local_port = ntohs(((struct sockaddr_in *)&local)->sin_port);
}

int request_send(struct request *r) {
  const struct plan *p = &r->job->plan;
  char text[400];
  int n;
  if (p->kind == JOB_HOLD && !datagram(r->job)) n = snprintf(text, sizeof text, r->exchanges ? "MORE\n" : "HOLD\n");
  else if (p->protocol == PROTO_HTTP) {
    const char *connection = p->close_mode == CLOSE_SERVER ? "close" : "keep-alive";
    n = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: lab\r\nConnection: %s\r\n\r\n", p->path, connection);
  } else n = snprintf(text, sizeof text, p->close_mode == CLOSE_SERVER ? "BYE\n" : "WHO\n");
  ssize_t sent = datagram(r->job) && p->unconnected
                     ? sendto(r->w.fd, text, (size_t)n, MSG_NOSIGNAL, (const struct sockaddr *)&p->to, p->to_length)
                     : send(r->w.fd, text, (size_t)n, MSG_NOSIGNAL);
  if (sent == n) return 0;
  return sent < 0 ? errno : EIO;
}

/* "NAME PEER PORT"; the peer must be an address. Whatever else answers is not one of ours. */
static int parse_answer(struct request *r, const char *text) {
  char name[NAME_SIZE], peer[NAME_SIZE];
  unsigned port;
  unsigned char binary[16];
  if (sscanf(text, "%63[A-Za-z0-9._-] %63[0-9a-fA-F.:] %u", name, peer, &port) != 3) return -1;
  if (inet_pton(AF_INET, peer, binary) != 1 && inet_pton(AF_INET6, peer, binary) != 1) return -1;
  memcpy(r->name, name, sizeof name);
  memcpy(r->peer, peer, sizeof peer);
  r->peer_port = port;
  return 0;
}

/* 1: complete; 0: more to come; -1: no HTTP. A body that does not name a pod is fine: its status counts. */
static int parse_http(struct request *r, int at_end) {
  char *body = strstr(r->answer, "\r\n\r\n");
  if (!body) return at_end || r->used == ANSWER_SIZE - 1 ? -1 : 0;
  body += 4;
  char *field = strcasestr(r->answer, "\r\ncontent-length:");
  size_t have = r->used - (size_t)(body - r->answer);
  if (!at_end && r->used < ANSWER_SIZE - 1 && (!field || have < strtoul(field + 17, NULL, 10))) return 0;
  if (sscanf(r->answer, "HTTP/1.%*d %d", &r->http_status) != 1) return -1;
  parse_answer(r, body);
  return 1;
}

static void hold_answer(struct request *r, const char *text) {
  struct job *j = r->job;
  char name[NAME_SIZE];
  unsigned long long counter = 0;
  int fields = sscanf(text, "%63[A-Za-z0-9._-] %llu", name, &counter);
  int stream = !datagram(j);
  if (fields < 1 || (stream && (fields != 2 || counter != r->exchanges || (r->exchanges && strcmp(name, r->name))))) {
    request_end(r, WRONG, text);
    return;
  }
  if (r->exchanges && strcmp(name, r->name)) {
    j->moved++;
    put_request(r, "moved", OK, name);
  }
  memcpy(r->name, name, sizeof name);
  if (!r->exchanges) tally_count(&j->pods, name, r->start_ms);
  r->exchanges++;
  j->exchanges++;
  r->state = IDLE;
  r->used = 0;
}

static void take_answer(struct request *r, int at_end) {
  struct job *j = r->job;
  r->answer[r->used] = 0;
  int complete;
  if (j->plan.protocol == PROTO_HTTP) complete = parse_http(r, at_end);
  else {
    complete = strchr(r->answer, '\n') != NULL;
    if (complete) *strchr(r->answer, '\n') = 0;
  }
  if (complete && j->plan.kind == JOB_HOLD) hold_answer(r, r->answer);
  else if (complete < 0 || (complete && j->plan.protocol != PROTO_HTTP && parse_answer(r, r->answer) < 0))
    request_end(r, WRONG, r->answer);
  else if (complete && j->plan.close_mode == CLOSE_SERVER && !datagram(j) && !at_end) {
    count_outcome(r, OK, NULL);
    r->state = CLOSING;
  } else if (complete) request_end(r, OK, NULL);
  else if (at_end) request_end(r, RESET, "closed before the answer");
  else if (r->used == ANSWER_SIZE - 1) request_end(r, WRONG, "answer too long");
}

static int same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b) {
  if (a->ss_family != b->ss_family) return 0;
  const struct sockaddr_in *a4 = (const void *)a, *b4 = (const void *)b;
  const struct sockaddr_in6 *a6 = (const void *)a, *b6 = (const void *)b;
  if (a4->sin_port != b4->sin_port) return 0;
  if (a->ss_family == AF_INET) return a4->sin_addr.s_addr == b4->sin_addr.s_addr;
  return memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof a6->sin6_addr) == 0;
}

/* Reads once. 0: there may be more; -1: nothing more, or the request has ended. */
static int receive(struct request *r) {
  struct sockaddr_storage from;
  socklen_t length = sizeof from;
  ssize_t n = recvfrom(r->w.fd, r->answer + r->used, ANSWER_SIZE - 1 - r->used, 0, (struct sockaddr *)&from, &length);
  if (n < 0 && errno == EINTR) return 0;
  if (n < 0 && errno == EAGAIN) return -1;
  if (r->state == CLOSING) {
    if (n > 0) return 0;
    request_free(r);
    return -1;
  }
  if (n < 0) {
    request_fail(r, errno);
    return -1;
  }
  /* An unconnected socket takes answers from anybody; one from elsewhere means that nobody translated it back. */
  if (datagram(r->job) && r->job->plan.unconnected && !same_address(&from, &r->job->plan.to)) {
    request_end(r, WRONG, "the answer came from another address");
    return -1;
  }
  if (n == 0 && !datagram(r->job) && r->state == IDLE) {
    request_end(r, RESET, "closed by the server");
    return -1;
  }
  r->used += (size_t)n;
  take_answer(r, n == 0 && !datagram(r->job));
  return r->w.fd < 0 ? -1 : 0;
}

static void connected(struct request *r, uint32_t events) {
  int err = 0;
  socklen_t length = sizeof err;
  if (events & (EPOLLERR | EPOLLHUP)) getsockopt(r->w.fd, SOL_SOCKET, SO_ERROR, &err, &length);
  if (!err && !(events & EPOLLOUT)) return;
  if (!err) {
    r->state = WAITING;
    r->established = 1;
    err = request_send(r);
  }
  if (err) request_fail(r, err);
}

/* Edge-triggered, registered once: a short call costs one epoll_ctl. An edge is read to its end. */
static void request_ready(struct watch *w, uint32_t events) {
  struct request *r = (struct request *)w;
  struct job *j = r->job;
  if (r->state == CONNECTING) connected(r, events);
  if (w->fd >= 0 && r->state != CONNECTING && (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))) {
    while (receive(r) == 0) continue;
  }
  job_go_on(j);
}

static int request_socket(const struct plan *p) {
  int on = 1, stream = p->protocol != PROTO_UDP;
  int fd = socket(p->to.ss_family, (stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC,
                  p->protocol == PROTO_SCTP ? IPPROTO_SCTP : 0);
  if (fd < 0) return -1;
  /* Without this, a datagram socket does not hear of ICMP errors that might pass, unconnected ones of none. */
  if (!stream && p->to.ss_family == AF_INET) setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
  if (!stream && p->to.ss_family == AF_INET6)
    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on);
  if (!p->from_length) return fd;
  if (p->bound_port) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  else setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  if (bind(fd, (const struct sockaddr *)&p->from, p->from_length) == 0) return fd;
  int err = errno;
  close(fd);
  errno = err;
  return -1;
}

void request_start(struct job *j) {
  const struct plan *p = &j->plan;
  struct request *r = calloc(1, sizeof *r);
  if (!r) exit(1);
  r->w = (struct watch){.fd = -1, .ready = request_ready};
  r->job = j;
  r->number = j->started++;
  r->start_ns = mono_ns();
  r->start_ms = j->start_ms + (double)(r->start_ns - j->start_ns) / 1e6;
  r->deadline_ns = r->start_ns + p->timeout_ns;
  j->inflight++;
  request_append(r);
  job_wake_at(j, r->deadline_ns);
  r->w.fd = request_socket(p);
  if (r->w.fd < 0) {
    request_fail(r, errno);
    return;
  }
  int connecting = !(datagram(j) && p->unconnected);
  if (connecting && connect(r->w.fd, (const struct sockaddr *)&p->to, p->to_length) < 0 && errno != EINPROGRESS) {
    request_fail(r, errno);
    return;
  }
  note_local_port(r);
  loop_add(&r->w, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
  if (!datagram(j)) return;
  r->state = WAITING;
  int err = request_send(r);
  if (err) request_fail(r, err);
  else if (!connecting) note_local_port(r);
}
