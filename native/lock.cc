// Names that one process of a network namespace can hold: listening abstract unix sockets. The kernel keeps
// them apart by network namespace, frees them when the process dies, and knows who listens (unix(7)).
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>

#include "args.h"
#include "netns.h"

namespace {
constexpr int kBacklog = 16;

struct Name {
  sockaddr_un address = {};
  socklen_t length = 0;
};

Name AbstractName(const Napi::CallbackInfo &info) {
  const std::string text = TextArg(info, 1, "name");
  Name name;
  AssertArg(info.Env(), !text.empty() && text.size() < sizeof(name.address.sun_path), "name");
  name.address.sun_family = AF_UNIX;
  memcpy(name.address.sun_path + 1, text.data(), text.size());
  name.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  return name;
}

int MakeSocket(Napi::Env env, const std::string &netns) {
  NetnsGuard guard(env, netns);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) ThrowErrno(env, errno, "socket(AF_UNIX)");
  return fd;
}

// lockTake(netns, name): the listening descriptor, or -1 when the name is taken. The caller owns it.
Napi::Value LockTake(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  const Name name = AbstractName(info);
  int fd = MakeSocket(env, TextArg(info, 0, "netns"));
  int rc = bind(fd, reinterpret_cast<const sockaddr *>(&name.address), name.length);
  if (rc == 0) rc = listen(fd, kBacklog);
  if (rc == 0) return Napi::Number::New(env, fd);
  int err = errno;
  close(fd);
  if (err == EADDRINUSE) return Napi::Number::New(env, -1);
  ThrowErrno(env, err, "bind(AF_UNIX)");
}

// lockHolder(netns, name): pid of the process that holds the name; 0 when the kernel does not show it to us
// (another pid namespace); -1 when nobody holds it any more.
Napi::Value LockHolder(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  const Name name = AbstractName(info);
  int fd = MakeSocket(env, TextArg(info, 0, "netns"));
  int rc = connect(fd, reinterpret_cast<const sockaddr *>(&name.address), name.length);
  int err = errno;
  ucred credentials = {};
  socklen_t length = sizeof(credentials);
  if (rc == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0) credentials.pid = 0;
  close(fd);
  if (rc == 0) return Napi::Number::New(env, credentials.pid);
  // EAGAIN: it holds the name and does not get round to answering.
  return Napi::Number::New(env, err == ECONNREFUSED ? -1 : 0);
}

}  // namespace

void InitLock(Napi::Env env, Napi::Object exports) {
  exports.Set("lockTake", Napi::Function::New(env, LockTake));
  exports.Set("lockHolder", Napi::Function::New(env, LockHolder));
}
