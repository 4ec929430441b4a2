// The two ends of the benches, pinned to one processor so that time is work.
//   load serve CPU PORT [ID]   echoes on TCP and UDP of both families; what it answers begins with the byte ID.
//                              On PORT + 1 it swallows a TCP stream and answers its end with one byte.
//                              Ends with standard input
//   load call CPU              reads lines "KIND ADDRESS PORT COUNT" and answers each with
//                              "NANOSECONDS FAILED HISTOGRAM"
// KIND: tcp (connect, request, answer, close), udp (new socket, request, answer), tcp-rr and udp-rr (requests
// and answers over one socket), stream (COUNT MiB over one connection), until (asks with a new UDP socket each
// time until the server COUNT has answered; NANOSECONDS is then CLOCK_MONOTONIC at that answer).
// HISTOGRAM: of connect() for tcp, of the exchange for the others, "-" where there is none; see bucket_of().
// Every wait is bounded.
// _GNU_SOURCE comes from binding.gyp
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_BYTES = 64, CHUNK_BYTES = 1 << 16, WAIT_MS = 2000, UNTIL_WAIT_MS = 100 };
static const int64_t UNTIL_NS_MAX = 300000000000LL;

// Log-linear: 32 buckets for each power of two, so a value is known to 3%. Below 32 ns a bucket is a nanosecond.
enum { SUB_BITS = 5, BUCKETS = (64 - SUB_BITS + 1) << SUB_BITS };
static uint32_t histogram[BUCKETS];

static int bucket_of(uint64_t ns) {
  if (ns < (1u << SUB_BITS)) return (int)ns;
  int power = 63 - __builtin_clzll(ns);
  return ((power - SUB_BITS + 1) << SUB_BITS) + (int)((ns >> (power - SUB_BITS)) & ((1u << SUB_BITS) - 1));
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void note(int64_t from) { histogram[bucket_of((uint64_t)(now_ns() - from))]++; }

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

static void bound(int fd, int ms) {
  struct timeval limit = {ms / 1000, (ms % 1000) * 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

// One socket of IPv6 takes IPv4 in too; a kernel without IPv6 gets one of IPv4.
static int listening(int type, int port) {
  int on = 1, off = 0, family = AF_INET6;
  int fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0);
  if (fd < 0) fd = socket(family = AF_INET, type | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  if (family == AF_INET6) {
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (type == SOCK_DGRAM) setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&v6, sizeof(v6))) die("bind");
  } else {
    if (type == SOCK_DGRAM) setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&v4, sizeof(v4))) die("bind");
  }
  if (type == SOCK_STREAM && listen(fd, 1024)) die("listen");
  return fd;
}

static char server_id;

static void echo_tcp(int listener) {
  char buffer[2048];
  int on = 1;
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) continue;
    bound(fd, WAIT_MS);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) {
      buffer[0] = server_id;
      if (write(fd, buffer, n) != n) break;
    }
    close(fd);
  }
}

static void swallow_tcp(int listener) {
  static char buffer[CHUNK_BYTES];
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) continue;
    bound(fd, WAIT_MS);
    ssize_t n;
    while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
    }
    if (n == 0 && write(fd, &server_id, 1) != 1) perror("answer to a stream");
    close(fd);
  }
}

// Answers from the address that was asked: a pod of the bench has several.
static void echo_udp(int fd) {
  char buffer[2048], control[256];
  for (;;) {
    struct sockaddr_storage from;
    struct iovec part = {buffer, sizeof(buffer)};
    struct msghdr message = {&from, sizeof(from), &part, 1, control, sizeof(control), 0};
    ssize_t n = recvmsg(fd, &message, 0);
    if (n < 0) continue;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
        ((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_ifindex = 0;
      } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
        struct in_pktinfo *info = (struct in_pktinfo *)CMSG_DATA(c);
        info->ipi_spec_dst = info->ipi_addr;
        info->ipi_ifindex = 0;
      }
    }
    buffer[0] = server_id;
    part.iov_len = n;
    sendmsg(fd, &message, 0);
  }
}

static void serve(int port, int id) {
  server_id = (char)id;
  int sockets[] = {listening(SOCK_STREAM, port), listening(SOCK_STREAM, port + 1), listening(SOCK_DGRAM, port)};
  void (*const servers[])(int) = {echo_tcp, swallow_tcp, echo_udp};
  pid_t parent = getpid();
  for (int i = 0; i < 3; i++) {
    if (fork()) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) exit(0);
    servers[i](sockets[i]);
  }
  puts("ready");
  fflush(stdout);
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
}

struct target {
  struct sockaddr_storage address;
  socklen_t length;
};

static int parse_target(const char *text, int port, struct target *to) {
  memset(to, 0, sizeof(*to));
  struct sockaddr_in *v4 = (struct sockaddr_in *)&to->address;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&to->address;
  if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    to->length = sizeof(*v4);
    return 1;
  }
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(port);
  to->length = sizeof(*v6);
  return inet_pton(AF_INET6, text, &v6->sin6_addr) == 1;
}

static int connected(int type, const struct target *to, int wait_ms) {
  int fd = socket(to->address.ss_family, type | SOCK_CLOEXEC, 0), on = 1;
  if (fd < 0) die("socket");
  bound(fd, wait_ms);
  if (type == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (connect(fd, (const struct sockaddr *)&to->address, to->length) == 0) return fd;
  close(fd);
  return -1;
}

// The id of the server that answered, or -1.
static int ask(int fd) {
  unsigned char buffer[REQUEST_BYTES] = "?";
  if (write(fd, buffer, sizeof(buffer)) != sizeof(buffer)) return -1;
  return read(fd, buffer, sizeof(buffer)) == sizeof(buffer) ? buffer[0] : -1;
}

static long run_open(int type, const struct target *to, long count) {
  long failed = 0;
  int fd = connected(type, to, WAIT_MS);
  for (long i = 0; i < count; i++) {
    int64_t from = now_ns();
    failed += fd < 0 || ask(fd) < 0;
    note(from);
  }
  if (fd >= 0) close(fd);
  return failed;
}

static long run_new(int type, const struct target *to, long count) {
  long failed = 0;
  for (long i = 0; i < count; i++) {
    int64_t from = now_ns();
    int fd = connected(type, to, WAIT_MS);
    if (type == SOCK_STREAM) note(from);
    failed += fd < 0 || ask(fd) < 0;
    if (type == SOCK_DGRAM) note(from);
    if (fd >= 0) close(fd);
  }
  return failed;
}

static long run_stream(const struct target *to, long mebibytes) {
  static char chunk[CHUNK_BYTES];
  int fd = connected(SOCK_STREAM, to, WAIT_MS);
  if (fd < 0) return mebibytes;
  long left = mebibytes * (1 << 20) / CHUNK_BYTES;
  for (; left > 0; left--)
    if (write(fd, chunk, sizeof(chunk)) != sizeof(chunk)) break;
  char byte;
  shutdown(fd, SHUT_WR);
  long failed = left > 0 || read(fd, &byte, 1) != 1;
  close(fd);
  return failed;
}

// 0 once the server `id` has answered. The processor is left to others for a moment between two questions.
static long run_until(const struct target *to, long id) {
  const struct timespec pause = {0, 200000};
  for (int64_t end = now_ns() + UNTIL_NS_MAX; now_ns() < end;) {
    int fd = connected(SOCK_DGRAM, to, UNTIL_WAIT_MS);
    int who = fd < 0 ? -1 : ask(fd);
    if (fd >= 0) close(fd);
    if (who == id) return 0;
    nanosleep(&pause, NULL);
  }
  return 1;
}

static void print_histogram(void) {
  int any = 0;
  for (int i = 0; i < BUCKETS; i++)
    if (histogram[i]) printf("%c%d:%u", any++ ? ',' : ' ', i, histogram[i]);
  puts(any ? "" : " -");
  fflush(stdout);
}

static void call(void) {
  char line[256], kind[16], address[64];
  int port;
  long count;
  while (fgets(line, sizeof(line), stdin)) {
    struct target to;
    if (sscanf(line, "%15s %63s %d %ld", kind, address, &port, &count) != 4 || !parse_target(address, port, &to)) {
      fprintf(stderr, "not understood: %s", line);
      exit(1);
    }
    memset(histogram, 0, sizeof(histogram));
    int type = kind[0] == 't' ? SOCK_STREAM : SOCK_DGRAM;
    long failed;
    int64_t from = now_ns();
    if (!strcmp(kind, "stream")) failed = run_stream(&to, count);
    else if (!strcmp(kind, "until")) failed = run_until(&to, count), from = 0;
    else if (strstr(kind, "-rr")) failed = run_open(type, &to, count);
    else failed = run_new(type, &to, count);
    printf("%lld %ld", (long long)(now_ns() - from), failed);
    print_histogram();
  }
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc < 3) return 2;
  pin(atoi(argv[2]));
  if (!strcmp(argv[1], "serve") && (argc == 4 || argc == 5)) serve(atoi(argv[3]), argc == 5 ? atoi(argv[4]) : 1);
  else if (!strcmp(argv[1], "call")) call();
  else return 2;
  // The servers of the bench are its children and end with it.
  return 0;
}
