#include "enter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int complain(const char *what, const char *which) {
  fprintf(stderr, "triplane-pod: %s %s: %s\n", what, which, strerror(errno));
  return -1;
}

int enter_netns(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return complain("cannot open network namespace", path);
  int rc = setns(fd, CLONE_NEWNET);
  if (rc < 0) complain("cannot enter network namespace", path);
  close(fd);
  return rc;
}

static int write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = write(fd, text, strlen(text));
  int err = errno;
  close(fd);
  errno = err;
  return n < 0 ? -1 : 0;
}

int enter_cgroup(const char *path) {
  char file[4096];
  snprintf(file, sizeof file, "%s/cgroup.procs", path);
  return write_file(file, "0") < 0 ? complain("cannot join cgroup", path) : 0;
}

int die_with_parent(long parent) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) return complain("prctl", "PR_SET_PDEATHSIG");
  /* The parent may have died before the line above; then no signal will ever come. */
  if (parent && getppid() != (pid_t)parent) {
    fprintf(stderr, "triplane-pod: the process that started it is gone\n");
    return -1;
  }
  return 0;
}

int set_tx_checksum(const char *interface, int on) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return complain("socket for", interface);
  struct ethtool_value value = {.cmd = ETHTOOL_STXCSUM, .data = (unsigned)on};
  struct ifreq request = {.ifr_data = (char *)&value};
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", interface);
  int rc = ioctl(fd, SIOCETHTOOL, &request);
  if (rc < 0) complain("cannot set tx checksumming of", interface);
  close(fd);
  return rc < 0 ? -1 : 0;
}

static int set_sysctl(char *arguments, int must) {
  char path[512], *blank = strchr(arguments, ' ');
  if (!blank || strstr(arguments, "..")) {
    errno = EINVAL;
    return complain("setup: sysctl", arguments);
  }
  *blank = 0;
  snprintf(path, sizeof path, "/proc/sys/%s", arguments);
  if (write_file(path, blank + 1) == 0) return 0;
  if (must) return complain("cannot set", path);
  printf("%s\n", arguments);
  return 0;
}

static int set_txcsum(char *arguments) {
  char *blank = strchr(arguments, ' ');
  if (!blank) {
    errno = EINVAL;
    return complain("setup: txcsum", arguments);
  }
  *blank = 0;
  return set_tx_checksum(arguments, strcmp(blank + 1, "on") == 0);
}

int setup_from_stdin(void) {
  char line[1024];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    char *arguments = strchr(line, ' ');
    if (!arguments) continue;
    *arguments++ = 0;
    int rc;
    if (strcmp(line, "netns") == 0) rc = enter_netns(arguments);
    else if (strcmp(line, "sysctl") == 0) rc = set_sysctl(arguments, 1);
    else if (strcmp(line, "sysctl?") == 0) rc = set_sysctl(arguments, 0);
    else if (strcmp(line, "txcsum") == 0) rc = set_txcsum(arguments);
    else {
      errno = EINVAL;
      rc = complain("setup:", line);
    }
    if (rc < 0) return -1;
  }
  return 0;
}
