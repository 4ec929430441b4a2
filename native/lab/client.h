// A job and its requests, as the files of the client side see them.
#ifndef TRIPLANE_LAB_CLIENT_H
#define TRIPLANE_LAB_CLIENT_H

#include "loop.h"
#include "out.h"
#include "target.h"

#define ANSWER_SIZE 1024

enum outcome { OK, REFUSED, RESET, TIMEOUT, UNREACHABLE, WRONG, ERROR, OUTCOMES };

enum state { CONNECTING, WAITING, CLOSING, IDLE };

struct request {
  struct watch w;
  struct job *job;
  struct request *previous, *next; /* in the order of their deadlines, which is the order of their starts */
  uint64_t number, start_ns, deadline_ns, exchanges;
  double start_ms;
  enum state state;
  int local_port, http_status, established;
  size_t used;
  char name[NAME_SIZE], peer[NAME_SIZE];
  unsigned peer_port;
  char answer[ANSWER_SIZE];
};

struct job {
  struct watch w; /* its timer */
  struct job *next;
  long id;
  struct plan plan;
  void (*done)(long id);
  struct request *first, *last;
  uint64_t started, inflight, outcomes[OUTCOMES], interval_outcomes[OUTCOMES];
  uint64_t failures_printed, skipped, exchanges, moved;
  uint64_t start_ns, end_ns, next_send_ns, next_interval_ns, armed_ns, pause_until_ns;
  double start_ms;
  int stopping, filling, announced;
  struct tally pods, peers;
  struct latency latency, interval_latency;
};

static inline int datagram(const struct job *j) { return j->plan.protocol == PROTO_UDP; }

/* report.c: the lines of job.h's description. */
void put_request(const struct request *r, const char *event, enum outcome outcome, const char *detail);
void put_interval(struct job *j);
void put_established(struct job *j);
void put_summary(struct job *j);

/* request.c */
void request_start(struct job *j);
/* Counts and reports the outcome, and frees the request. */
void request_end(struct request *r, enum outcome outcome, const char *detail);
void request_fail(struct request *r, int err);
void request_free(struct request *r);
/* Sends the next line of a held connection, or the one request of a call. Returns 0 or an errno. */
int request_send(struct request *r);

/* job.c */
/* Wakes the job's timer at this CLOCK_MONOTONIC time, if it would not wake earlier by itself. */
void job_wake_at(struct job *j, uint64_t at_ns);
/* After anything that may have ended a request: starts what is due, and ends the job when all is done. */
void job_go_on(struct job *j);

#endif
