// A job's life: starting requests when they are due, intervals, bounds, the end.
#include "job.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "client.h"

static struct job *jobs;

void job_wake_at(struct job *j, uint64_t at_ns) {
  if (j->armed_ns && j->armed_ns <= at_ns) return;
  j->armed_ns = at_ns;
  timer_arm(j->w.fd, at_ns);
}

static void fill_hold_or_closed(struct job *j) {
  const struct plan *p = &j->plan;
  uint64_t now = mono_ns();
  while (j->inflight < p->concurrency && j->started < p->count && !j->stopping) {
    if (p->kind == JOB_LOAD && now < j->pause_until_ns) {
      job_wake_at(j, j->pause_until_ns);
      return;
    }
    request_start(j);
    if (j->pause_until_ns > now) now = mono_ns();
  }
}

/*
 * Open loop: requests start when they are due, whether or not the ones before were answered. A backlog is
 * worked off in small portions, or answers that are there already would wait behind it until they are late.
 */
static void fill_rate(struct job *j) {
  uint64_t now = mono_ns(), gap = 1000000000ull / j->plan.rate;
  for (int i = 0; !j->stopping && j->next_send_ns <= now && i < 32; i++, j->next_send_ns += gap) {
    if (j->inflight < j->plan.concurrency) request_start(j);
    else j->skipped++;
  }
  if (!j->stopping) job_wake_at(j, j->next_send_ns);
}

static void job_fill(struct job *j) {
  if (j->filling) return;
  j->filling = 1;
  if (j->plan.rate && j->plan.kind == JOB_LOAD) fill_rate(j);
  else fill_hold_or_closed(j);
  j->filling = 0;
}

static void job_free(struct job *j) {
  void (*done)(long) = j->done;
  long id = j->id;
  for (struct job **at = &jobs; *at; at = &(*at)->next) {
    if (*at != j) continue;
    *at = j->next;
    break;
  }
  tally_free(&j->pods);
  tally_free(&j->peers);
  loop_close_and_free(&j->w);
  done(id);
}

/* A hold counts connections that stood to the end as ok: a line that is on its way is waited for. */
static void hold_end(struct job *j) {
  struct request *next;
  for (struct request *r = j->first; r; r = next) {
    next = r->next;
    if (!r->exchanges) request_end(r, TIMEOUT, "stopped before the first answer");
    else if (r->state == IDLE) {
      j->outcomes[OK]++;
      request_free(r);
    }
  }
}

/* Says once that every connection of a hold has had its first answer, or has failed. */
static void hold_announce(struct job *j) {
  if (j->announced || j->started < j->plan.count) return;
  for (struct request *r = j->first; r; r = r->next)
    if (!r->exchanges) return;
  j->announced = 1;
  put_established(j);
}

static void job_settle(struct job *j) {
  if (j->w.fd < 0) return;
  if (j->plan.kind == JOB_HOLD) {
    hold_announce(j);
    if (j->stopping || (!j->inflight && j->started >= j->plan.count)) hold_end(j);
  }
  if (j->inflight || (!j->stopping && j->started < j->plan.count)) return;
  put_summary(j);
  job_free(j);
}

void job_go_on(struct job *j) {
  job_fill(j);
  job_settle(j);
}

static void expire_requests(struct job *j, uint64_t now) {
  while (j->first && j->first->deadline_ns <= now) {
    struct request *r = j->first;
    if (r->state == CLOSING) request_free(r);
    else request_end(r, TIMEOUT, r->state == CONNECTING ? "at connect" : "no answer");
  }
  if (j->first) job_wake_at(j, j->first->deadline_ns);
}

/* Deadlines of held connections move with every exchange, so they are looked at one by one. */
static void hold_tick(struct job *j, uint64_t now) {
  struct request *next;
  for (struct request *r = j->first; r; r = next) {
    next = r->next;
    if (r->state != IDLE) {
      if (r->deadline_ns <= now) request_end(r, TIMEOUT, r->exchanges ? "no answer on an open connection" : "at start");
      continue;
    }
    r->state = WAITING;
    r->deadline_ns = now + j->plan.timeout_ns;
    int err = request_send(r);
    if (err) request_fail(r, err);
  }
}

static void job_interval(struct job *j, uint64_t now) {
  if (j->plan.kind == JOB_CALL || now < j->next_interval_ns) return;
  if (j->plan.kind == JOB_HOLD) hold_tick(j, now);
  else put_interval(j);
  while (j->next_interval_ns <= now) j->next_interval_ns += j->plan.interval_ns;
}

static void job_ready(struct watch *w, uint32_t events) {
  (void)events;
  struct job *j = (struct job *)w;
  uint64_t now = mono_ns();
  timer_drain(w->fd);
  j->armed_ns = 0;
  if (now >= j->end_ns) j->stopping = 1;
  if (j->plan.kind != JOB_HOLD) expire_requests(j, now);
  job_interval(j, now);
  job_fill(j);
  if (!j->stopping) job_wake_at(j, j->end_ns);
  if (j->plan.kind != JOB_CALL) job_wake_at(j, j->next_interval_ns);
  job_settle(j);
}

int job_start(long id, int argc, char **argv, void (*done)(long id), char *why, unsigned why_size) {
  struct job *j = calloc(1, sizeof *j);
  if (!j) exit(1);
  if (plan_parse(&j->plan, argc, argv, why, why_size) < 0) {
    free(j);
    return -1;
  }
  j->id = id;
  j->done = done;
  j->start_ns = j->next_send_ns = mono_ns();
  j->start_ms = real_ms();
  j->end_ns = j->start_ns + j->plan.duration_ns;
  j->next_interval_ns = j->start_ns + j->plan.interval_ns;
  j->w = (struct watch){.fd = timer_open(), .ready = job_ready};
  loop_add(&j->w, EPOLLIN);
  j->next = jobs;
  jobs = j;
  /* The first requests start from the timer, so that every job starts and ends on the same path. */
  job_wake_at(j, j->start_ns);
  return 0;
}

int job_stop(long id) {
  for (struct job *j = jobs; j; j = j->next) {
    if (j->id != id) continue;
    j->stopping = 1;
    j->armed_ns = 0;
    job_wake_at(j, mono_ns());
    return 0;
  }
  return -1;
}

void job_stop_all(void) {
  for (struct job *j = jobs; j; j = j->next) job_stop(j->id);
}
