// Preloaded into a program (refusal.ts): while a file has an error's number in it, the kernel's nftables, its IPVS, or its
// BPF maps refuse what is sent to them with that error. Everything else is the real thing.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

// 0: nothing is to be refused. "WHAT ERRNO LET": so many are let through before the first one is refused.
static int wanted(const char *what) {
  static long passed, last;
  const char *name = getenv("TRIPLANE_TEST_REFUSE");
  char line[32] = "";
  FILE *file = name ? fopen(name, "r") : NULL;
  if (!file) return 0;
  char *got = fgets(line, sizeof line, file);
  fclose(file);
  size_t length = strlen(what);
  int error = 0;
  long let = 0;
  if (!got || strncmp(line, what, length) || sscanf(line + length, "%d %ld", &error, &let) < 1) return 0;
  if (__atomic_exchange_n(&last, let, __ATOMIC_RELAXED) != let) __atomic_store_n(&passed, 0, __ATOMIC_RELAXED);
  return __atomic_fetch_add(&passed, 1, __ATOMIC_RELAXED) < let ? 0 : error;
}

// NETLINK_NETFILTER, or NETLINK_GENERIC, by which IPVS is spoken to; -1: no netlink.
static int protocol_of(int fd) {
  int domain = 0, protocol = -1;
  socklen_t size = sizeof domain;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) || domain != AF_NETLINK) return -1;
  size = sizeof protocol;
  return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) ? -1 : protocol;
}

static int refuses(int fd) {
  int saved = errno, protocol = protocol_of(fd), error = 0;
  if (protocol == NETLINK_NETFILTER) error = wanted("nft ");
  if (protocol == NETLINK_GENERIC) error = wanted("ipvs ");
  errno = error ? error : saved;
  return error;
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
  ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "sendto");
  return refuses(fd) ? -1 : real(fd, data, size, flags, to, length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  ssize_t (*real)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
  return refuses(fd) ? -1 : real(fd, message, flags);
}

static int is_change(long command) {
  return command == BPF_MAP_UPDATE_ELEM || command == BPF_MAP_UPDATE_BATCH || command == BPF_MAP_CREATE ||
         command == BPF_PROG_LOAD || command == BPF_LINK_CREATE || command == BPF_OBJ_PIN;
}

// libbpf has no other way into the kernel.
long syscall(long number, ...) {
  long (*real)(long, ...) = dlsym(RTLD_NEXT, "syscall");
  va_list list;
  long a[6];
  va_start(list, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
  va_end(list);
  int error = number == SYS_bpf && is_change(a[0]) ? wanted("bpf ") : 0;
  if (error) {
    errno = error;
    return -1;
  }
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
