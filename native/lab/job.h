// The client side of a pod: calls, load and long connections, each a job that prints JSON lines.
#ifndef TRIPLANE_LAB_JOB_H
#define TRIPLANE_LAB_JOB_H

/*
 * Starts "call", "load" or "hold" with the arguments that follow it:
 *
 *   call PROTO ADDRESS PORT   --count N --concurrency N --each
 *   load PROTO ADDRESS PORT   --rate PER_SECOND | --concurrency N, --duration-ms N, --interval-ms N
 *   hold PROTO ADDRESS PORT   --connections N --interval-ms N --duration-ms N
 *   all of them               --timeout-ms N --bind ADDRESS --source-port N --close rst|fin|server
 *                             --connected|--unconnected (udp) --path /PATH (http)
 *
 * PROTO: tcp, udp, sctp, http. Returns 0, or -1 with the reason in `why`.
 * `done` is called with `id` when the job's last line is out.
 */
int job_start(long id, int argc, char **argv, void (*done)(long id), char *why, unsigned why_size);
/* Ends a job early: its summary follows. Returns -1 if there is no such job. */
int job_stop(long id);
void job_stop_all(void);

#endif
