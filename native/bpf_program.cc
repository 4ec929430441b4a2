// Programs: test runs, links (XDP, tcx, cgroup) and their pins, clsact filters for kernels without tcx.
#include <fcntl.h>
#include <linux/if_link.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "../bpf/hash.h"
#include "bpf.h"
#include "netns.h"

namespace {

// bpfTestRun(fd, data, context, outBytes, repeat, flags): {verdict, ns, data, context}. `context` may be empty; `ns`
// is the mean of the runs; flags: BPF_F_TEST_XDP_LIVE_FRAMES or 0 or left out.
Napi::Value TestRun(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Bytes data = BytesOf(info[1]), context = BytesOf(info[2]);
  Napi::Uint8Array out = Napi::Uint8Array::New(env, info[3].As<Napi::Number>().Uint32Value());
  Napi::Uint8Array context_out = Napi::Uint8Array::New(env, context.size);
  LIBBPF_OPTS(bpf_test_run_opts, run);
  run.data_in = data.size ? data.data : nullptr;
  run.data_size_in = data.size;
  run.data_out = out.ByteLength() ? out.Data() : nullptr;
  run.data_size_out = out.ByteLength();
  if (info.Length() > 5) run.flags = info[5].As<Napi::Number>().Uint32Value();
  if (context.size) {
    run.ctx_in = context.data;
    run.ctx_size_in = context.size;
    // Live frames have many contexts, and the kernel refuses to be asked for one of them.
    if (!(run.flags & BPF_F_TEST_XDP_LIVE_FRAMES)) {
      run.ctx_out = context_out.Data();
      run.ctx_size_out = context.size;
    }
  }
  run.repeat = info[4].As<Napi::Number>().Int32Value();
  if (bpf_prog_test_run_opts(FdOf(info[0]), &run)) ThrowErrno(env, errno, "BPF_PROG_TEST_RUN");
  // The kernel tells the packet's size even where nobody asked for the packet.
  size_t returned = std::min<size_t>(run.data_size_out, out.ByteLength());
  Napi::Object result = Napi::Object::New(env);
  result.Set("verdict", static_cast<int32_t>(run.retval));
  result.Set("ns", run.duration);
  result.Set("data", Napi::Uint8Array::New(env, returned, out.ArrayBuffer(), 0));
  result.Set("context", context_out);
  return result;
}

int BpfCall(int command, union bpf_attr *attr) { return syscall(SYS_bpf, command, attr, sizeof(*attr)); }

// bpfLinkDevice(fd, ifindex, attachType, flags, netns): a link's file descriptor. XDP (37) and tcx (46, 47).
Napi::Value LinkDevice(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  union bpf_attr attr = {};
  attr.link_create.prog_fd = FdOf(info[0]);
  attr.link_create.target_ifindex = info[1].As<Napi::Number>().Uint32Value();
  attr.link_create.attach_type = info[2].As<Napi::Number>().Uint32Value();
  attr.link_create.flags = info[3].As<Napi::Number>().Uint32Value();
  NetnsGuard guard(env, info[4].As<Napi::String>());
  int fd = BpfCall(BPF_LINK_CREATE, &attr);
  if (fd < 0) ThrowErrno(env, errno, "BPF_LINK_CREATE");
  return Napi::Number::New(env, fd);
}

// bpfXdpMode(ifindex, netns): how the device's XDP program is attached: XDP_ATTACHED_* of <linux/if_link.h>.
Napi::Value XdpMode(const Napi::CallbackInfo &info) {
  NetnsGuard guard(info.Env(), info[1].As<Napi::String>());
  LIBBPF_OPTS(bpf_xdp_query_opts, query);
  int err = bpf_xdp_query(info[0].As<Napi::Number>().Int32Value(), 0, &query);
  if (err) ThrowErrno(info.Env(), -err, "bpf_xdp_query");
  return Napi::Number::New(info.Env(), query.attach_mode);
}

// bpfLinkCgroup(fd, path, attachType): a link's file descriptor.
Napi::Value LinkCgroup(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path = info[1].As<Napi::String>();
  int cgroup = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (cgroup < 0) ThrowErrno(env, errno, ("open " + path).c_str());
  union bpf_attr attr = {};
  attr.link_create.prog_fd = FdOf(info[0]);
  attr.link_create.target_fd = cgroup;
  attr.link_create.attach_type = info[2].As<Napi::Number>().Uint32Value();
  int fd = BpfCall(BPF_LINK_CREATE, &attr);
  int err = errno;
  close(cgroup);
  if (fd < 0) ThrowErrno(env, err, "BPF_LINK_CREATE");
  return Napi::Number::New(env, fd);
}

// bpfLinkUpdate(link, program): swaps the program without a gap.
Napi::Value LinkUpdate(const Napi::CallbackInfo &info) {
  if (bpf_link_update(FdOf(info[0]), FdOf(info[1]), nullptr)) ThrowErrno(info.Env(), errno, "BPF_LINK_UPDATE");
  return info.Env().Undefined();
}

// bpfLinkDetach(link): leaves a link that does nothing.
Napi::Value LinkDetach(const Napi::CallbackInfo &info) {
  if (bpf_link_detach(FdOf(info[0]))) ThrowErrno(info.Env(), errno, "BPF_LINK_DETACH");
  return info.Env().Undefined();
}

bpf_tc_hook Hook(const Napi::CallbackInfo &info, uint32_t parent) {
  bpf_tc_hook hook = {};
  hook.sz = sizeof(hook);
  hook.ifindex = info[1].As<Napi::Number>().Int32Value();
  hook.attach_point = static_cast<bpf_tc_attach_point>(parent);
  return hook;
}

// bpfClsactAttach(fd, ifindex, point, priority, handle, netns). point: 1 ingress, 2 egress.
Napi::Value ClsactAttach(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  NetnsGuard guard(env, info[5].As<Napi::String>());
  bpf_tc_hook hook = Hook(info, info[2].As<Napi::Number>().Uint32Value());
  int err = bpf_tc_hook_create(&hook);
  if (err && err != -EEXIST) ThrowErrno(env, -err, "clsact");
  LIBBPF_OPTS(bpf_tc_opts, options);
  options.prog_fd = FdOf(info[0]);
  options.priority = info[3].As<Napi::Number>().Uint32Value();
  options.handle = info[4].As<Napi::Number>().Uint32Value();
  options.flags = BPF_TC_F_REPLACE;
  err = bpf_tc_attach(&hook, &options);
  if (err) ThrowErrno(env, -err, "tc filter");
  return env.Undefined();
}

// bpfClsactDetach(0, ifindex, point, priority, handle, netns): whether there was one.
Napi::Value ClsactDetach(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  NetnsGuard guard(env, info[5].As<Napi::String>());
  bpf_tc_hook hook = Hook(info, info[2].As<Napi::Number>().Uint32Value());
  LIBBPF_OPTS(bpf_tc_opts, options);
  options.priority = info[3].As<Napi::Number>().Uint32Value();
  options.handle = info[4].As<Napi::Number>().Uint32Value();
  int err = bpf_tc_detach(&hook, &options);
  if (err && err != -ENOENT && err != -EINVAL) ThrowErrno(env, -err, "tc filter");
  return Napi::Boolean::New(env, err == 0);
}

// bpfPin(fd, path)
Napi::Value Pin(const Napi::CallbackInfo &info) {
  std::string path = info[1].As<Napi::String>();
  if (bpf_obj_pin(FdOf(info[0]), path.c_str())) ThrowErrno(info.Env(), errno, ("pin " + path).c_str());
  return info.Env().Undefined();
}

// bpfGet(path): the file descriptor of what is pinned there, or -1 if nothing is.
Napi::Value Get(const Napi::CallbackInfo &info) {
  std::string path = info[0].As<Napi::String>();
  int fd = bpf_obj_get(path.c_str());
  if (fd < 0 && errno != ENOENT) ThrowErrno(info.Env(), errno, ("get " + path).c_str());
  return Napi::Number::New(info.Env(), fd);
}

// bpfClose(fd)
Napi::Value Close(const Napi::CallbackInfo &info) {
  close(FdOf(info[0]));
  return info.Env().Undefined();
}

// bpfHashFrontend(seed, keys, out): for each 20-byte key (address, port, protocol, family) its 64-bit hash, as
// the programs reckon it (bpf/hash.h).
Napi::Value HashFrontend(const Napi::CallbackInfo &info) {
  Bytes seed = BytesOf(info[0]), keys = BytesOf(info[1]), out = BytesOf(info[2]);
  __u64 words[2];
  memcpy(words, seed.data, sizeof(words));
  for (size_t i = 0; i * 20 < keys.size; i++) {
    tp_addr addr;
    uint16_t port;
    const uint8_t *key = keys.data + i * 20;
    memcpy(&addr, key, 16);
    memcpy(&port, key + 16, 2);
    __u64 hash = tp_hash_frontend(words, &addr, port, key[18], key[19]);
    memcpy(out.data + i * 8, &hash, 8);
  }
  return info.Env().Undefined();
}

}  // namespace

void InitBpfProgram(Napi::Env env, Napi::Object exports) {
  exports.Set("bpfTestRun", Napi::Function::New(env, TestRun));
  exports.Set("bpfLinkDevice", Napi::Function::New(env, LinkDevice));
  exports.Set("bpfXdpMode", Napi::Function::New(env, XdpMode));
  exports.Set("bpfLinkCgroup", Napi::Function::New(env, LinkCgroup));
  exports.Set("bpfLinkUpdate", Napi::Function::New(env, LinkUpdate));
  exports.Set("bpfLinkDetach", Napi::Function::New(env, LinkDetach));
  exports.Set("bpfClsactAttach", Napi::Function::New(env, ClsactAttach));
  exports.Set("bpfClsactDetach", Napi::Function::New(env, ClsactDetach));
  exports.Set("bpfPin", Napi::Function::New(env, Pin));
  exports.Set("bpfGet", Napi::Function::New(env, Get));
  exports.Set("bpfClose", Napi::Function::New(env, Close));
  exports.Set("bpfHashFrontend", Napi::Function::New(env, HashFrontend));
}
