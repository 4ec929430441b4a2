// Network namespaces. A netlink socket belongs to the namespace in which it was made, so every opener takes
// an optional path: the calling thread enters it, makes the socket and comes back, all in one call. No
// JavaScript runs in between.
#include "netns.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>

std::string ErrnoName(int err) {
  const char *name = strerrorname_np(err);
  return name ? name : "E" + std::to_string(err);
}

[[noreturn]] void ThrowErrno(Napi::Env env, int err, const char *what) {
  Napi::Error error = Napi::Error::New(env, std::string(what) + ": " + strerror(err));
  error.Set("code", Napi::String::New(env, ErrnoName(err)));
  error.Set("syscall", Napi::String::New(env, what));
  throw error;
}

NetnsGuard::NetnsGuard(Napi::Env env, const std::string &path) {
  if (path.empty()) return;
  home_ = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (home_ < 0) ThrowErrno(env, errno, "open /proc/thread-self/ns/net");
  int target = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (target < 0) {
    int err = errno;
    close(home_);
    home_ = -1;
    ThrowErrno(env, err, ("open " + path).c_str());
  }
  int rc = setns(target, CLONE_NEWNET);
  int err = errno;
  close(target);
  if (rc < 0) {
    close(home_);
    home_ = -1;
    ThrowErrno(env, err, "setns");
  }
}

NetnsGuard::~NetnsGuard() {
  if (home_ < 0) return;
  // A thread that cannot come home would make every later socket in the wrong network: nothing can go on.
  if (setns(home_, CLONE_NEWNET) < 0) abort();
  close(home_);
}

// netnsEnter(path): moves the calling (main) thread for good; threads started before stay where they were.
static Napi::Value NetnsEnter(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path = info[0].As<Napi::String>();
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) ThrowErrno(env, errno, ("open " + path).c_str());
  int rc = setns(fd, CLONE_NEWNET);
  int err = errno;
  close(fd);
  if (rc < 0) ThrowErrno(env, err, "setns");
  return env.Undefined();
}

void InitNetns(Napi::Env env, Napi::Object exports) {
  exports.Set("netnsEnter", Napi::Function::New(env, NetnsEnter));
}
