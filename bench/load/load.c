// The two ends of the data path bench, pinned to one processor so that time is work.
//   load serve CPU PORT        echoes on TCP and UDP until standard input ends
//   load call CPU              reads lines "KIND ADDRESS PORT COUNT" and answers each with "NANOSECONDS FAILED"
// KIND: tcp (connect, request, answer, close), udp (new socket, request, answer), tcp-rr and udp-rr (requests
// and answers over one socket). IPv4; every wait is bounded.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_BYTES = 64, ADDRESSES_MAX = 8, WAIT_MS = 2000 };

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set)) die("sched_setaffinity");
  // Whatever else runs on the machine takes less of this processor; without privilege it stays as it is.
  setpriority(PRIO_PROCESS, 0, -20);
}

static void bound(int fd) {
  struct timeval limit = {WAIT_MS / 1000, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static int listening(int type, int port) {
  int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (type == SOCK_DGRAM) setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (bind(fd, (struct sockaddr *)&at, sizeof(at))) die("bind");
  if (type == SOCK_STREAM && listen(fd, 1024)) die("listen");
  return fd;
}

static void echo_tcp(int listener) {
  char buffer[2048];
  int on = 1;
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) continue;
    bound(fd);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;)
      if (write(fd, buffer, n) != n) break;
    close(fd);
  }
}

// Answers from the address that was asked: a pod of the bench has several.
static void echo_udp(int fd) {
  char buffer[2048], control[256];
  for (;;) {
    struct sockaddr_in from;
    struct iovec part = {buffer, sizeof(buffer)};
    struct msghdr message = {&from, sizeof(from), &part, 1, control, sizeof(control), 0};
    ssize_t n = recvmsg(fd, &message, 0);
    if (n < 0) continue;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_PKTINFO) continue;
      struct in_pktinfo *info = (struct in_pktinfo *)CMSG_DATA(c);
      info->ipi_spec_dst = info->ipi_addr;
      info->ipi_ifindex = 0;
    }
    part.iov_len = n;
    sendmsg(fd, &message, 0);
  }
}

static void serve(int port) {
  int tcp = listening(SOCK_STREAM, port), udp = listening(SOCK_DGRAM, port);
  pid_t parent = getpid();
  for (int i = 0; i < 2; i++) {
    if (fork()) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) exit(0);
    if (i == 0) echo_tcp(tcp);
    echo_udp(udp);
  }
  puts("ready");
  fflush(stdout);
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
}

static int connected(int type, const struct sockaddr_in *to) {
  int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), on = 1;
  if (fd < 0) die("socket");
  bound(fd);
  if (type == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (connect(fd, (const struct sockaddr *)to, sizeof(*to)) == 0) return fd;
  close(fd);
  return -1;
}

static int ask(int fd) {
  char buffer[REQUEST_BYTES] = "?";
  if (write(fd, buffer, sizeof(buffer)) != sizeof(buffer)) return 0;
  return read(fd, buffer, sizeof(buffer)) == sizeof(buffer);
}

static long run(const char *kind, const struct sockaddr_in *to, long count) {
  int type = kind[0] == 't' ? SOCK_STREAM : SOCK_DGRAM;
  long failed = 0;
  if (strstr(kind, "-rr")) {
    int fd = connected(type, to);
    for (long i = 0; i < count; i++) failed += fd < 0 || !ask(fd);
    if (fd >= 0) close(fd);
    return failed;
  }
  for (long i = 0; i < count; i++) {
    int fd = connected(type, to);
    failed += fd < 0 || !ask(fd);
    if (fd >= 0) close(fd);
  }
  return failed;
}

static void call(void) {
  char line[256], kind[16], address[64];
  int port;
  long count;
  while (fgets(line, sizeof(line), stdin)) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (sscanf(line, "%15s %63s %d %ld", kind, address, &port, &count) != 4 ||
        inet_pton(AF_INET, address, &to.sin_addr) != 1) {
      fprintf(stderr, "not understood: %s", line);
      exit(1);
    }
    to.sin_port = htons(port);
    struct timespec from, until;
    clock_gettime(CLOCK_MONOTONIC, &from);
    long failed = run(kind, &to, count);
    clock_gettime(CLOCK_MONOTONIC, &until);
    printf("%ld %ld\n", (until.tv_sec - from.tv_sec) * 1000000000L + until.tv_nsec - from.tv_nsec, failed);
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc < 3) return 2;
  pin(atoi(argv[2]));
  if (!strcmp(argv[1], "serve") && argc == 4) serve(atoi(argv[3]));
  else if (!strcmp(argv[1], "call")) call();
  else return 2;
  // The servers of the bench are its children and end with it.
  return 0;
}
