// Where a pod's process stands: network namespace, cgroup, parent; and the settings of namespaces.
#ifndef TRIPLANE_LAB_ENTER_H
#define TRIPLANE_LAB_ENTER_H

/* Each returns 0, or -1 after a message on standard error. */
int enter_netns(const char *path);
/* Moves this process into the cgroup v2 directory `path`. */
int enter_cgroup(const char *path);
/* Dies with its parent, which must be `parent` still (0: whoever it is). */
int die_with_parent(long parent);
/*
 * Reads lines from standard input: "netns PATH", "sysctl KEY VALUE" (KEY with slashes, below /proc/sys;
 * VALUE may hold blanks), "sysctl? KEY VALUE" (may fail: then the key is printed), "txcsum IFACE on|off".
 */
int setup_from_stdin(void);
int set_tx_checksum(const char *interface, int on);

#endif
