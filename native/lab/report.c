// The JSON lines that jobs print.
#include <string.h>

#include "client.h"

static const char *const outcome_names[] = {"ok", "refused", "reset", "timeout", "unreachable", "wrong", "error"};

static void put_outcomes(struct line *l, const uint64_t *counts) {
  line_put(l, "{");
  for (int i = 0; i < OUTCOMES; i++)
    line_put(l, "%s\"%s\":%llu", i ? "," : "", outcome_names[i], (unsigned long long)counts[i]);
  line_put(l, "}");
}

void put_request(const struct request *r, const char *event, enum outcome outcome, const char *detail) {
  struct line l = {0};
  uint64_t now = mono_ns();
  line_put(&l, "{\"id\":%ld,\"event\":\"%s\",\"number\":%llu,\"outcome\":\"%s\"", r->job->id, event,
           (unsigned long long)r->number, outcome_names[outcome]);
  if (r->name[0]) {
    line_put(&l, ",\"name\":");
    line_string(&l, r->name);
  }
  if (r->peer[0]) line_put(&l, ",\"peer\":\"%s\",\"peerPort\":%u", r->peer, r->peer_port);
  if (r->http_status) line_put(&l, ",\"status\":%d", r->http_status);
  if (detail) {
    line_put(&l, ",\"detail\":");
    line_string(&l, detail);
  }
  line_put(&l, ",\"localPort\":%d,\"latencyUs\":%llu,\"startRealMs\":%.3f,\"startMonoMs\":%.3f,\"realMs\":%.3f,\"monoMs\":%.3f}",
           r->local_port, (unsigned long long)((now - r->start_ns) / 1000), r->start_ms, (double)r->start_ns / 1e6,
           real_ms(), (double)now / 1e6);
  line_send(&l);
}

void put_interval(struct job *j) {
  struct line l = {0};
  line_put(&l, "{\"id\":%ld,\"event\":\"interval\",\"realMs\":%.3f,\"monoMs\":%.3f,\"inflight\":%llu,\"pods\":", j->id,
           real_ms(), (double)mono_ns() / 1e6, (unsigned long long)j->inflight);
  tally_put(&l, &j->pods, TALLY_INTERVAL);
  line_put(&l, ",\"outcomes\":");
  put_outcomes(&l, j->interval_outcomes);
  line_put(&l, ",\"latencyUs\":");
  latency_put(&l, &j->interval_latency);
  line_put(&l, "}");
  line_send(&l);
  tally_next_interval(&j->pods);
  memset(j->interval_outcomes, 0, sizeof j->interval_outcomes);
  memset(&j->interval_latency, 0, sizeof j->interval_latency);
}

void put_established(struct job *j) {
  struct line l = {0};
  line_put(&l, "{\"id\":%ld,\"event\":\"established\",\"open\":%llu,\"outcomes\":", j->id, (unsigned long long)j->inflight);
  put_outcomes(&l, j->outcomes);
  line_put(&l, ",\"pods\":");
  tally_put(&l, &j->pods, TALLY_TOTAL);
  line_put(&l, "}");
  line_send(&l);
}

void put_summary(struct job *j) {
  struct line l = {0};
  uint64_t total = 0;
  for (int i = 0; i < OUTCOMES; i++) total += j->outcomes[i];
  line_put(&l, "{\"id\":%ld,\"event\":\"done\",\"total\":%llu,\"outcomes\":", j->id, (unsigned long long)total);
  put_outcomes(&l, j->outcomes);
  line_put(&l, ",\"pods\":");
  tally_put(&l, &j->pods, TALLY_TOTAL);
  line_put(&l, ",\"firstMs\":");
  tally_put(&l, &j->pods, TALLY_FIRST);
  line_put(&l, ",\"lastMs\":");
  tally_put(&l, &j->pods, TALLY_LAST);
  line_put(&l, ",\"peers\":");
  tally_put(&l, &j->peers, TALLY_TOTAL);
  line_put(&l, ",\"latencyUs\":");
  latency_put(&l, &j->latency);
  line_put(&l, ",\"startRealMs\":%.3f,\"elapsedMs\":%.3f,\"skipped\":%llu,\"exchanges\":%llu,\"moved\":%llu}", j->start_ms,
           (double)(mono_ns() - j->start_ns) / 1e6, (unsigned long long)j->skipped, (unsigned long long)j->exchanges,
           (unsigned long long)j->moved);
  line_send(&l);
}
