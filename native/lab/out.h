// JSON lines on standard output, and counts by name.
#ifndef TRIPLANE_LAB_OUT_H
#define TRIPLANE_LAB_OUT_H

#include <stddef.h>
#include <stdint.h>

/* Names are at most 63 characters (a DNS label) or an address; what is longer is cut. */
#define NAME_SIZE 64

struct line {
  char *text;
  size_t length, size;
};

void line_put(struct line *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Appends a JSON string, quotes included. */
void line_string(struct line *l, const char *text);
/* Writes the line and its newline at once, and frees it. A reader that is gone ends the process unless it is detached. */
void line_send(struct line *l);
void out_detach(void);

struct count {
  char name[NAME_SIZE];
  uint64_t total, interval;
  /* Start of the first and the last request that this name answered, CLOCK_REALTIME in milliseconds. */
  double first_ms, last_ms;
};

/* Counts by name, in order of first sight. Bounded: names beyond the bound count under "(more)". */
struct tally {
  struct count *entries;
  uint32_t used, size;
  int32_t *index;
  uint32_t index_size;
};

struct count *tally_count(struct tally *t, const char *name, double start_ms);
void tally_free(struct tally *t);
enum tally_field { TALLY_TOTAL, TALLY_INTERVAL, TALLY_FIRST, TALLY_LAST };
/* Appends {"name": n, ...}; entries whose number is 0 are left out. */
void tally_put(struct line *l, const struct tally *t, enum tally_field field);
void tally_next_interval(struct tally *t);

/* Latencies in microseconds: log-linear buckets, at most 3.2% wide; smallest and largest are exact. */
#define LATENCY_BUCKETS (27 * 32)
struct latency {
  uint64_t buckets[LATENCY_BUCKETS];
  uint64_t samples, smallest, largest;
};
void latency_add(struct latency *l, uint64_t us);
void latency_put(struct line *l, const struct latency *h);

#endif
