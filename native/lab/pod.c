// triplane-pod: one small program that is a pod of the lab. As a server it answers with its name and with
// the peer that it saw; as a client it calls, loads and holds connections, and says as JSON lines what
// became of each. Without a subcommand it does both, and takes commands as lines on standard input:
//
//   ID call|load|hold ...      see job.h; every line of the answer carries the id
//   ID stop JOB                ends a load or hold; the job's summary follows
//   ID serve tcp:80,...        listens on more ports
//
// With one, it does that one thing: call, load, hold, exec COMMAND..., setup, ethtool IFACE tx on|off.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "enter.h"
#include "job.h"
#include "loop.h"
#include "out.h"
#include "serve.h"

#define MAX_WORDS 64

static const char usage[] =
    "usage: triplane-pod [--netns PATH] [--cgroup PATH] [--parent PID | --detach] [--name NAME]\n"
    "                    [--serve tcp:PORT,udp:PORT,sctp:PORT] [SUBCOMMAND]\n"
    "  call|load|hold tcp|udp|sctp|http ADDRESS PORT [options]\n"
    "  exec COMMAND [ARGUMENT...]      runs COMMAND there\n"
    "  setup                           reads netns, sysctl and txcsum lines from standard input\n"
    "  ethtool IFACE tx on|off         checksum offload\n"
    "Without a subcommand: serves, and reads commands from standard input.\n";

static struct options {
  const char *netns, *cgroup, *name, *serve;
  long parent;
  int detach;
} options = {.name = "pod", .serve = ""};

static void say_error(long id, const char *why) {
  struct line l = {0};
  line_put(&l, "{\"id\":%ld,\"event\":\"error\",\"reason\":", id);
  line_string(&l, why);
  line_put(&l, "}");
  line_send(&l);
}

static void say_done(long id) {
  struct line l = {0};
  line_put(&l, "{\"id\":%ld,\"event\":\"done\"}", id);
  line_send(&l);
}

/* ---- commands by line ---- */

static void nothing_more(long id) { (void)id; }

static void command(char *text) {
  char *words[MAX_WORDS], why[256], *rest = NULL;
  int n = 0;
  for (char *w = strtok_r(text, " ", &rest); w && n < MAX_WORDS; w = strtok_r(NULL, " ", &rest)) words[n++] = w;
  if (n < 2) return;
  long id = strtol(words[0], NULL, 10);
  if (strcmp(words[1], "stop") == 0 && n == 3) {
    if (job_stop(strtol(words[2], NULL, 10)) < 0) say_error(id, "no such job");
    else say_done(id);
  } else if (strcmp(words[1], "serve") == 0 && n == 3) {
    if (serve(options.name, words[2]) < 0) say_error(id, "cannot listen");
    else say_done(id);
  } else if (job_start(id, n - 1, words + 1, nothing_more, why, sizeof why) < 0) say_error(id, why);
}

struct input {
  struct watch w;
  size_t used;
  char text[4096];
};

static void input_ready(struct watch *w, uint32_t events) {
  (void)events;
  struct input *in = (struct input *)w;
  ssize_t n = read(STDIN_FILENO, in->text + in->used, sizeof in->text - in->used);
  if (n <= 0 || in->used + (size_t)n == sizeof in->text) {
    if (!options.detach) loop_stop();
    loop_close_and_free(w);
    return;
  }
  in->used += (size_t)n;
  char *start = in->text, *end = in->text + in->used, *newline;
  while ((newline = memchr(start, '\n', (size_t)(end - start)))) {
    *newline = 0;
    command(start);
    start = newline + 1;
  }
  in->used = (size_t)(end - start);
  memmove(in->text, start, in->used);
}

static void say_ready(void) {
  struct line l = {0};
  line_put(&l, "{\"event\":\"ready\",\"pid\":%ld,\"missing\":\"%s\"}", (long)getpid(), serve_missing());
  line_send(&l);
}

static int run_server(void) {
  loop_init();
  if (serve(options.name, options.serve) < 0) return 1;
  struct input *in = calloc(1, sizeof *in);
  if (!in) return 1;
  in->w = (struct watch){.fd = STDIN_FILENO, .ready = input_ready};
  /* epoll refuses files and /dev/null: then there is nobody to take commands from. */
  struct epoll_event probe = {0};
  int test = epoll_create1(EPOLL_CLOEXEC), listens = epoll_ctl(test, EPOLL_CTL_ADD, STDIN_FILENO, &probe) == 0;
  close(test);
  if (listens) loop_add(&in->w, EPOLLIN);
  else free(in);
  say_ready();
  loop_run();
  return 0;
}

/* ---- one thing only ---- */

static void stop_loop(long id) {
  (void)id;
  loop_stop();
}

static void signal_ready(struct watch *w, uint32_t events) {
  (void)events;
  struct signalfd_siginfo info;
  if (read(w->fd, &info, sizeof info) == (ssize_t)sizeof info) job_stop_all();
}

static int run_job(int argc, char **argv) {
  char why[256];
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGINT);
  sigaddset(&stop, SIGTERM);
  sigprocmask(SIG_BLOCK, &stop, NULL);
  loop_init();
  static struct watch signals;
  signals = (struct watch){.fd = signalfd(-1, &stop, SFD_NONBLOCK | SFD_CLOEXEC), .ready = signal_ready};
  loop_add(&signals, EPOLLIN);
  if (job_start(0, argc, argv, stop_loop, why, sizeof why) < 0) {
    fprintf(stderr, "triplane-pod: %s\n", why);
    return 2;
  }
  loop_run();
  return 0;
}

static int run_subcommand(int argc, char **argv) {
  if (strcmp(argv[0], "exec") == 0 && argc > 1) {
    execvp(argv[1], argv + 1);
    perror(argv[1]);
    return 127;
  }
  if (strcmp(argv[0], "setup") == 0) return setup_from_stdin() < 0;
  if (strcmp(argv[0], "ethtool") == 0 && argc == 4 && strcmp(argv[2], "tx") == 0)
    return set_tx_checksum(argv[1], strcmp(argv[3], "on") == 0) < 0;
  return run_job(argc, argv);
}

/* Returns the index of the first word that is no option, or -1. */
static int parse_options(int argc, char **argv) {
  int i = 1;
  for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(argv[i], "--detach") == 0) {
      options.detach = 1;
      continue;
    }
    if (!value) return -1;
    if (strcmp(argv[i], "--netns") == 0) options.netns = value;
    else if (strcmp(argv[i], "--cgroup") == 0) options.cgroup = value;
    else if (strcmp(argv[i], "--name") == 0) options.name = value;
    else if (strcmp(argv[i], "--serve") == 0) options.serve = value;
    else if (strcmp(argv[i], "--parent") == 0) options.parent = strtol(value, NULL, 10);
    else return -1;
    i++;
  }
  return i;
}

/* Thousands of connections at once need more descriptors than a shell's usual limit. */
static void raise_descriptor_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv) {
  int first = parse_options(argc, argv);
  if (first < 0) {
    fputs(usage, stderr);
    return 2;
  }
  int is_exec = first < argc && strcmp(argv[first], "exec") == 0;
  /* What exec starts inherits dispositions and limits: those stay as they were. */
  if (!is_exec) {
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
  }
  if (options.detach) out_detach();
  else if (die_with_parent(options.parent) < 0) return 1;
  if (options.cgroup && enter_cgroup(options.cgroup) < 0) return 1;
  if (options.netns && enter_netns(options.netns) < 0) return 1;
  return first < argc ? run_subcommand(argc - first, argv + first) : run_server();
}
