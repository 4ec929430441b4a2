// What outlives a process and is found again: links by their file descriptor, the BPF file system; and the clock
// that the programs read.
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <linux/bpf.h>
#include <linux/magic.h>

#include "args.h"
#include "bpf.h"
#include "netns.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

namespace {

constexpr uint32_t kLinkXdp = 6;
// BPF_LINK_TYPE_TCX, which the headers of libbpf 1.1 do not know.
constexpr uint32_t kLinkTcx = 11;
constexpr uint32_t kLinkCgroup = 3;

// bpfLinkInfo(link): {id, type, program, ifindex, attachType, cgroup}. ifindex 0: its device is gone, or it has none;
// cgroup 0: the same of its cgroup.
Napi::Value LinkInfo(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  bpf_link_info found = {};
  uint32_t length = sizeof(found);
  if (bpf_obj_get_info_by_fd(FdOf(info[0]), &found, &length)) ThrowErrno(env, errno, "bpf_obj_get_info_by_fd");
  uint32_t words[2];  // tcx: ifindex, attach type; the union starts with them
  memcpy(words, &found.xdp, sizeof(words));
  Napi::Object out = Napi::Object::New(env);
  out.Set("id", found.id);
  out.Set("type", found.type);
  out.Set("program", found.prog_id);
  out.Set("ifindex", found.type == kLinkXdp || found.type == kLinkTcx ? words[0] : 0);
  out.Set("attachType", found.type == kLinkTcx ? words[1] : found.type == kLinkCgroup ? found.cgroup.attach_type : 0);
  out.Set("cgroup", found.type == kLinkCgroup ? static_cast<double>(found.cgroup.cgroup_id) : 0);
  return out;
}

// bpfMapsNamed(name): ids of the maps of this machine that have this name.
Napi::Value MapsNamed(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  const std::string name = TextArg(info, 0, "name");
  Napi::Array ids = Napi::Array::New(env);
  for (uint32_t id = 0; bpf_map_get_next_id(id, &id) == 0;) {
    int fd = bpf_map_get_fd_by_id(id);
    if (fd < 0) continue;  // gone in between
    bpf_map_info found = {};
    uint32_t length = sizeof(found);
    if (bpf_obj_get_info_by_fd(fd, &found, &length) == 0 && name == found.name) ids.Set(ids.Length(), id);
    close(fd);
  }
  return ids;
}

// bpfMapById(id): a file descriptor, or -1 if it is gone.
Napi::Value MapById(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), bpf_map_get_fd_by_id(NumberArg(info, 0, UINT32_MAX, "id")));
}

// bpfProgramId(program)
Napi::Value ProgramId(const Napi::CallbackInfo &info) {
  bpf_prog_info found = {};
  uint32_t length = sizeof(found);
  if (bpf_obj_get_info_by_fd(FdOf(info[0]), &found, &length)) ThrowErrno(info.Env(), errno, "bpf_obj_get_info_by_fd");
  return Napi::Number::New(info.Env(), found.id);
}

// bpfIsBpffs(path)
Napi::Value IsBpffs(const Napi::CallbackInfo &info) {
  struct statfs fs = {};
  bool is = statfs(TextArg(info, 0, "path").c_str(), &fs) == 0 && fs.f_type == BPF_FS_MAGIC;
  return Napi::Boolean::New(info.Env(), is);
}

// bpfMountBpffs(path)
Napi::Value MountBpffs(const Napi::CallbackInfo &info) {
  std::string path = TextArg(info, 0, "path");
  if (mount("bpf", path.c_str(), "bpf", 0, "mode=0700")) ThrowErrno(info.Env(), errno, ("mount bpf on " + path).c_str());
  return info.Env().Undefined();
}

// bpfUnmount(path)
Napi::Value Unmount(const Napi::CallbackInfo &info) {
  std::string path = TextArg(info, 0, "path");
  if (umount2(path.c_str(), MNT_DETACH)) ThrowErrno(info.Env(), errno, ("umount " + path).c_str());
  return info.Env().Undefined();
}

// bpfHasHelper(program type, helper): whether this kernel gives it to such programs.
Napi::Value HasHelper(const Napi::CallbackInfo &info) {
  auto type = static_cast<bpf_prog_type>(NumberArg(info, 0, 255, "type"));
  auto helper = static_cast<bpf_func_id>(NumberArg(info, 1, 65535, "helper"));
  return Napi::Boolean::New(info.Env(), libbpf_probe_bpf_helper(type, helper, nullptr) == 1);
}

// bpfClockOpen(shift): a program that returns bpf_jiffies64() >> shift.
Napi::Value ClockOpen(const Napi::CallbackInfo &info) {
  const int32_t shift = static_cast<int32_t>(NumberArg(info, 0, 32, "shift"));
  bpf_insn code[3] = {};
  code[0].code = BPF_JMP | BPF_CALL;
  code[0].imm = BPF_FUNC_jiffies64;
  code[1].code = BPF_ALU64 | BPF_RSH | BPF_K;
  code[1].imm = shift;
  code[2].code = BPF_JMP | BPF_EXIT;
  // Without a name: for one, libbpf asks the kernel whether it takes names, remembers a refusal for lack of memory as a no,
  // and makes maps without names from then on, which no later agent finds.
  int fd = bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, nullptr, "GPL", code, 3, nullptr);
  if (fd < 0) ThrowErrno(info.Env(), errno, "bpf_prog_load");
  return Napi::Number::New(info.Env(), fd);
}

// bpfClockRead(program): the low 32 bits.
Napi::Value ClockRead(const Napi::CallbackInfo &info) {
  uint8_t packet[64] = {};
  LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet, .data_size_in = sizeof(packet), .repeat = 1);
  if (bpf_prog_test_run_opts(FdOf(info[0]), &run)) ThrowErrno(info.Env(), errno, "BPF_PROG_TEST_RUN");
  return Napi::Number::New(info.Env(), run.retval);
}

// netnsCookie(netns): what bpf_get_netns_cookie() gives there, as a BigInt; 0: the kernel cannot tell.
Napi::Value NetnsCookie(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  NetnsGuard guard(env, TextArg(info, 0, "netns"));
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) ThrowErrno(env, errno, "socket");
  uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length)) cookie = 0;
  close(fd);
  return Napi::BigInt::New(env, cookie);
}

}  // namespace

void InitBpfLife(Napi::Env env, Napi::Object exports) {
  exports.Set("bpfLinkInfo", Napi::Function::New(env, LinkInfo));
  exports.Set("bpfMapsNamed", Napi::Function::New(env, MapsNamed));
  exports.Set("bpfMapById", Napi::Function::New(env, MapById));
  exports.Set("bpfProgramId", Napi::Function::New(env, ProgramId));
  exports.Set("bpfIsBpffs", Napi::Function::New(env, IsBpffs));
  exports.Set("bpfMountBpffs", Napi::Function::New(env, MountBpffs));
  exports.Set("bpfUnmount", Napi::Function::New(env, Unmount));
  exports.Set("bpfHasHelper", Napi::Function::New(env, HasHelper));
  exports.Set("bpfClockOpen", Napi::Function::New(env, ClockOpen));
  exports.Set("bpfClockRead", Napi::Function::New(env, ClockRead));
  exports.Set("netnsCookie", Napi::Function::New(env, NetnsCookie));
}
