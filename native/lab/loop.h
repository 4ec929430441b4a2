// The event loop of triplane-pod: epoll over watches, and the two clocks.
#ifndef TRIPLANE_LAB_LOOP_H
#define TRIPLANE_LAB_LOOP_H

#include <stdint.h>

/* One file descriptor that the loop waits on. It is the first member of whatever owns it. */
struct watch {
  int fd;
  void (*ready)(struct watch *w, uint32_t events);
  struct watch *dead_next;
};

void loop_init(void);
void loop_run(void);
void loop_stop(void);
/* `events` are epoll's. Failure ends the process: there is no use going on without a loop. */
void loop_add(struct watch *w, uint32_t events);
/* Closes the descriptor now and frees the owner after the batch of events at hand, which may still name it. */
void loop_close_and_free(struct watch *w);

/* CLOCK_MONOTONIC in nanoseconds, CLOCK_REALTIME in milliseconds. */
uint64_t mono_ns(void);
double real_ms(void);

/* A timerfd; arm takes an absolute CLOCK_MONOTONIC time in nanoseconds, 0 disarms. */
int timer_open(void);
void timer_arm(int fd, uint64_t at_ns);
void timer_drain(int fd);

#endif
