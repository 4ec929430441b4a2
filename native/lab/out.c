#include "out.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TALLY_BOUND 4096

static int detached;

static void *must(void *p) {
  if (!p) {
    fputs("out of memory\n", stderr);
    exit(1);
  }
  return p;
}

static void line_room(struct line *l, size_t more) {
  if (l->length + more + 1 <= l->size) return;
  l->size = (l->length + more + 1) * 2;
  l->text = must(realloc(l->text, l->size));
}

void line_put(struct line *l, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int n = vsnprintf(NULL, 0, format, args);
  va_end(args);
  line_room(l, (size_t)n);
  va_start(args, format);
  vsnprintf(l->text + l->length, (size_t)n + 1, format, args);
  va_end(args);
  l->length += (size_t)n;
}

void line_string(struct line *l, const char *text) {
  line_put(l, "\"");
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\') line_put(l, "\\%c", *c);
    else if (*c < 0x20 || *c >= 0x7f) line_put(l, "\\u%04x", *c);
    else line_put(l, "%c", *c);
  }
  line_put(l, "\"");
}

void out_detach(void) { detached = 1; }

void line_send(struct line *l) {
  line_put(l, "\n");
  size_t sent = 0;
  while (sent < l->length) {
    ssize_t n = write(STDOUT_FILENO, l->text + sent, l->length - sent);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      if (!detached) exit(0);
      break;
    }
    sent += (size_t)n;
  }
  free(l->text);
  *l = (struct line){0};
}

static uint32_t hash(const char *name) {
  uint32_t h = 2166136261u;
  for (; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
  return h;
}

static void tally_index(struct tally *t, uint32_t entry) {
  uint32_t slot = hash(t->entries[entry].name) & (t->index_size - 1);
  while (t->index[slot] >= 0) slot = (slot + 1) & (t->index_size - 1);
  t->index[slot] = (int32_t)entry;
}

static void tally_grow(struct tally *t) {
  t->size = t->size ? t->size * 2 : 16;
  t->entries = must(realloc(t->entries, t->size * sizeof *t->entries));
  t->index_size = t->size * 2;
  t->index = must(realloc(t->index, t->index_size * sizeof *t->index));
  memset(t->index, 0xff, t->index_size * sizeof *t->index);
  for (uint32_t i = 0; i < t->used; i++) tally_index(t, i);
}

static struct count *tally_find(struct tally *t, const char *name) {
  if (!t->index_size) return NULL;
  uint32_t slot = hash(name) & (t->index_size - 1);
  for (; t->index[slot] >= 0; slot = (slot + 1) & (t->index_size - 1))
    if (strcmp(t->entries[t->index[slot]].name, name) == 0) return &t->entries[t->index[slot]];
  return NULL;
}

struct count *tally_count(struct tally *t, const char *name, double start_ms) {
  struct count *c = tally_find(t, name);
  if (!c && t->used >= TALLY_BOUND - 1) {
    name = "(more)";
    c = tally_find(t, name);
  }
  if (!c) {
    if (t->used == t->size) tally_grow(t);
    c = &t->entries[t->used];
    *c = (struct count){.first_ms = start_ms};
    snprintf(c->name, sizeof c->name, "%s", name);
    tally_index(t, t->used++);
  }
  c->total++;
  c->interval++;
  if (start_ms > c->last_ms) c->last_ms = start_ms;
  if (start_ms < c->first_ms) c->first_ms = start_ms;
  return c;
}

void tally_free(struct tally *t) {
  free(t->entries);
  free(t->index);
  *t = (struct tally){0};
}

void tally_put(struct line *l, const struct tally *t, enum tally_field field) {
  const char *comma = "";
  line_put(l, "{");
  for (uint32_t i = 0; i < t->used; i++) {
    const struct count *c = &t->entries[i];
    if (field == TALLY_INTERVAL && !c->interval) continue;
    line_put(l, "%s", comma);
    line_string(l, c->name);
    if (field == TALLY_TOTAL) line_put(l, ":%llu", (unsigned long long)c->total);
    else if (field == TALLY_INTERVAL) line_put(l, ":%llu", (unsigned long long)c->interval);
    else line_put(l, ":%.3f", field == TALLY_FIRST ? c->first_ms : c->last_ms);
    comma = ",";
  }
  line_put(l, "}");
}

void tally_next_interval(struct tally *t) {
  for (uint32_t i = 0; i < t->used; i++) t->entries[i].interval = 0;
}

/* 0..31 each have a bucket; above, every power of two is cut in 32. */
static uint32_t bucket_of(uint64_t us) {
  if (us < 32) return (uint32_t)us;
  uint32_t octave = 63u - (uint32_t)__builtin_clzll(us);
  uint32_t bucket = (octave - 4) * 32 + (uint32_t)((us >> (octave - 5)) & 31);
  return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

static uint64_t bucket_top(uint32_t bucket) {
  if (bucket < 32) return bucket;
  uint32_t octave = bucket / 32 + 4;
  return ((uint64_t)(32 + bucket % 32 + 1) << (octave - 5)) - 1;
}

void latency_add(struct latency *h, uint64_t us) {
  h->buckets[bucket_of(us)]++;
  if (!h->samples || us < h->smallest) h->smallest = us;
  if (us > h->largest) h->largest = us;
  h->samples++;
}

static uint64_t percentile(const struct latency *h, double share) {
  uint64_t wanted = (uint64_t)(share * (double)h->samples), seen = 0;
  for (uint32_t i = 0; i < LATENCY_BUCKETS; i++) {
    seen += h->buckets[i];
    if (seen > wanted) return bucket_top(i) < h->largest ? bucket_top(i) : h->largest;
  }
  return h->largest;
}

void latency_put(struct line *l, const struct latency *h) {
  line_put(l, "{\"min\":%llu,\"p50\":%llu,\"p90\":%llu,\"p99\":%llu,\"p999\":%llu,\"max\":%llu}",
           (unsigned long long)h->smallest, (unsigned long long)percentile(h, 0.5),
           (unsigned long long)percentile(h, 0.9), (unsigned long long)percentile(h, 0.99),
           (unsigned long long)percentile(h, 0.999), (unsigned long long)h->largest);
}
