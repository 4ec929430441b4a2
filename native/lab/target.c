#include "target.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS 1000000ull

static int parse_address(const char *text, int port, struct sockaddr_storage *out, socklen_t *length) {
  struct sockaddr_in *four = (struct sockaddr_in *)out;
  struct sockaddr_in6 *six = (struct sockaddr_in6 *)out;
  memset(out, 0, sizeof *out);
  if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons((uint16_t)port);
    *length = sizeof *four;
    return 0;
  }
  if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons((uint16_t)port);
    *length = sizeof *six;
    return 0;
  }
  return -1;
}

static int parse_number(const char *text, uint64_t lowest, uint64_t highest, uint64_t *out) {
  char *end;
  errno = 0;
  uint64_t n = strtoull(text, &end, 10);
  if (errno || end == text || *end || *text == '-' || n < lowest || n > highest) return -1;
  *out = n;
  return 0;
}

static int parse_word(const char *text, const char *const *words, int *out) {
  for (int i = 0; words[i]; i++) {
    if (strcmp(text, words[i]) == 0) {
      *out = i;
      return 0;
    }
  }
  return -1;
}

static void plan_defaults(struct plan *p) {
  const int call = p->kind == JOB_CALL;
  *p = (struct plan){.kind = p->kind, .count = 1, .concurrency = p->kind == JOB_HOLD ? 1 : call ? 1 : 4,
                     .timeout_ns = 1000 * MS, .interval_ns = 200 * MS, .duration_ns = call ? 600000 * MS : 60000 * MS,
                     .path = "/"};
}

/* Returns the number of arguments used, or -1. */
static int take_option(struct plan *p, const char *name, const char *value, uint64_t *source_port) {
  static const char *const close_words[] = {"rst", "fin", "server", NULL};
  uint64_t n;
  int word;
  if (strcmp(name, "--connected") == 0) return p->unconnected = 0, 1;
  if (strcmp(name, "--unconnected") == 0) return p->unconnected = 1, 1;
  if (strcmp(name, "--each") == 0) return p->each = 1, 1;
  if (!value) return -1;
  if (strcmp(name, "--count") == 0) return parse_number(value, 1, 100000000, &p->count) < 0 ? -1 : 2;
  if (strcmp(name, "--concurrency") == 0 || strcmp(name, "--connections") == 0)
    return parse_number(value, 1, 100000, &p->concurrency) < 0 ? -1 : 2;
  if (strcmp(name, "--rate") == 0) return parse_number(value, 1, 1000000, &p->rate) < 0 ? -1 : 2;
  if (strcmp(name, "--source-port") == 0) return parse_number(value, 1, 65535, source_port) < 0 ? -1 : 2;
  if (strcmp(name, "--timeout-ms") == 0)
    return parse_number(value, 1, 600000, &n) < 0 ? -1 : (p->timeout_ns = n * MS, 2);
  if (strcmp(name, "--interval-ms") == 0)
    return parse_number(value, 1, 600000, &n) < 0 ? -1 : (p->interval_ns = n * MS, 2);
  if (strcmp(name, "--duration-ms") == 0)
    return parse_number(value, 1, 86400000, &n) < 0 ? -1 : (p->duration_ns = n * MS, 2);
  if (strcmp(name, "--close") == 0)
    return parse_word(value, close_words, &word) < 0 ? -1 : (p->close_mode = (enum close_mode)word, 2);
  if (strcmp(name, "--bind") == 0) return parse_address(value, 0, &p->from, &p->from_length) < 0 ? -1 : 2;
  if (strcmp(name, "--path") == 0 && *value == '/' && strlen(value) < sizeof p->path && !strpbrk(value, " \r\n"))
    return strcpy(p->path, value), 2;
  return -1;
}

static void bind_port(struct plan *p, uint16_t port) {
  if (!p->from_length) {
    p->from.ss_family = p->to.ss_family;
    p->from_length = p->to_length;
  }
  /* The port stands at the same place in both families. */
  ((struct sockaddr_in *)&p->from)->sin_port = htons(port);
  p->bound_port = port;
}

int plan_parse(struct plan *p, int argc, char **argv, char *why, unsigned why_size) {
  static const char *const kinds[] = {"call", "load", "hold", NULL};
  static const char *const protocols[] = {"tcp", "udp", "sctp", "http", NULL};
  uint64_t port, source_port = 0;
  int kind, protocol;
  if (argc < 4 || parse_word(argv[0], kinds, &kind) < 0 || parse_word(argv[1], protocols, &protocol) < 0 ||
      parse_number(argv[3], 1, 65535, &port) < 0) {
    snprintf(why, why_size, "expected: call|load|hold tcp|udp|sctp|http ADDRESS PORT [options]");
    return -1;
  }
  p->kind = (enum job_kind)kind;
  plan_defaults(p);
  p->protocol = (enum job_protocol)protocol;
  if (parse_address(argv[2], (int)port, &p->to, &p->to_length) < 0) {
    snprintf(why, why_size, "\"%s\" is no IPv4 or IPv6 address", argv[2]);
    return -1;
  }
  for (int i = 4; i < argc;) {
    int used = take_option(p, argv[i], i + 1 < argc ? argv[i + 1] : NULL, &source_port);
    if (used < 0) {
      snprintf(why, why_size, "bad option or value: %s %s", argv[i], i + 1 < argc ? argv[i + 1] : "");
      return -1;
    }
    i += used;
  }
  if (source_port) bind_port(p, (uint16_t)source_port);
  if (p->from_length && p->from.ss_family != p->to.ss_family) {
    snprintf(why, why_size, "--bind is of another family than the target");
    return -1;
  }
  if (p->kind == JOB_LOAD) p->count = UINT64_MAX;
  if (p->kind == JOB_LOAD && p->rate && p->concurrency < 1024) p->concurrency = 1024;
  if (p->kind == JOB_HOLD) p->count = p->concurrency;
  return 0;
}
