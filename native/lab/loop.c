#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static int epoll_fd = -1;
static int stopping;
static struct watch *dead;

static void die(const char *what) {
  perror(what);
  exit(1);
}

void loop_init(void) {
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) die("epoll_create1");
}

void loop_add(struct watch *w, uint32_t events) {
  struct epoll_event ev = {.events = events, .data.ptr = w};
  if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) < 0) die("epoll_ctl");
}

void loop_close_and_free(struct watch *w) {
  if (w->fd >= 0) close(w->fd);
  w->fd = -1;
  w->dead_next = dead;
  dead = w;
}

static void bury(void) {
  while (dead) {
    struct watch *w = dead;
    dead = w->dead_next;
    free(w);
  }
}

void loop_run(void) {
  struct epoll_event events[256];
  while (!stopping) {
    int n = epoll_wait(epoll_fd, events, 256, -1);
    if (n < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < n; i++) {
      struct watch *w = events[i].data.ptr;
      if (w->fd >= 0) w->ready(w, events[i].events);
    }
    bury();
  }
}

void loop_stop(void) { stopping = 1; }

uint64_t mono_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double real_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

int timer_open(void) {
  int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (fd < 0) die("timerfd_create");
  return fd;
}

void timer_arm(int fd, uint64_t at_ns) {
  struct itimerspec when = {
      .it_value = {.tv_sec = (time_t)(at_ns / 1000000000u), .tv_nsec = (long)(at_ns % 1000000000u)}};
  if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL) < 0) die("timerfd_settime");
}

void timer_drain(int fd) {
  uint64_t fired;
  if (read(fd, &fired, sizeof fired) < 0 && errno != EAGAIN) die("read timerfd");
}
