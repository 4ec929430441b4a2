// What a job's arguments say: where to, how often, how.
#ifndef TRIPLANE_LAB_TARGET_H
#define TRIPLANE_LAB_TARGET_H

#include <stdint.h>
#include <sys/socket.h>

enum job_kind { JOB_CALL, JOB_LOAD, JOB_HOLD };
enum job_protocol { PROTO_TCP, PROTO_UDP, PROTO_SCTP, PROTO_HTTP };
/*
 * Who closes a stream first. RST (the default) leaves no TIME_WAIT anywhere, so that a long load cannot
 * run out of ports; FIN leaves it here, SERVER at the server, where it costs no port of ours.
 */
enum close_mode { CLOSE_RST, CLOSE_FIN, CLOSE_SERVER };

struct plan {
  enum job_kind kind;
  enum job_protocol protocol;
  struct sockaddr_storage to, from;
  socklen_t to_length, from_length; /* from_length 0: not bound */
  int bound_port;
  uint64_t count, concurrency, rate;
  uint64_t timeout_ns, interval_ns, duration_ns;
  enum close_mode close_mode;
  int unconnected, each;
  char path[256];
};

int plan_parse(struct plan *plan, int argc, char **argv, char *why, unsigned why_size);

#endif
