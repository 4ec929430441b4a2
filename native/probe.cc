// What a probe asks the kernel: one small question each, answered by a value or by the errno of the refusal.
// Nothing that is made here outlives the call or its descriptor.
#include <linux/genetlink.h>
#include <unistd.h>

#include "args.h"
#include "bpf.h"
#include "netlink_socket.h"

namespace {

constexpr size_t kMessageBytesMax = 512;
// Generic netlink family "netdev" (linux/netdev.h, since Linux 6.3), which older headers do not know.
constexpr uint8_t kNetdevDevGet = 1;
constexpr uint16_t kNetdevIfindex = 1;
constexpr uint16_t kNetdevXdpFeatures = 3;

// One request to a generic netlink family; `each` gets the attributes of the answer. 0 or a positive errno.
template <class Put, class Each>
int Ask(NetlinkSocket *socket, uint16_t family, uint8_t command, Put put, Each each) {
  alignas(nlmsghdr) char bytes[kMessageBytesMax];
  nlmsghdr *nlh = mnl_nlmsg_put_header(bytes);
  nlh->nlmsg_type = family;
  nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  nlh->nlmsg_seq = socket->NextSeq();
  genlmsghdr *header = static_cast<genlmsghdr *>(mnl_nlmsg_put_extra_header(nlh, sizeof(genlmsghdr)));
  header->cmd = command;
  header->version = 1;
  put(nlh);
  return socket->Dump(nlh, [&](const nlmsghdr *answer) { EachAttribute(answer, sizeof(genlmsghdr), each); });
}

int FindFamily(NetlinkSocket *socket, const std::string &name, uint16_t *id) {
  int err = Ask(
      socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY,
      [&](nlmsghdr *nlh) { mnl_attr_put_strz(nlh, CTRL_ATTR_FAMILY_NAME, name.c_str()); },
      [&](const nlattr *attr) {
        if (mnl_attr_get_type(attr) == CTRL_ATTR_FAMILY_ID) *id = mnl_attr_get_u16(attr);
      });
  return err ? err : *id ? 0 : ENOENT;
}

// genlFamily(netns, name): the number of a generic netlink family. Throws ENOENT where there is none.
Napi::Value GenlFamily(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string name = TextArg(info, 1, "name");
  AssertArg(env, !name.empty() && name.size() < GENL_NAMSIZ, "name");
  NetlinkSocket socket(env, NETLINK_GENERIC, TextArg(info, 0, "netns"));
  uint16_t id = 0;
  if (int err = FindFamily(&socket, name, &id)) ThrowErrno(env, err, "generic netlink");
  return Napi::Number::New(env, id);
}

// xdpFeatures(netns, ifindex): NETDEV_XDP_ACT_* of the device's driver; 1 is "takes XDP programs". Throws ENOENT
// where the kernel does not tell.
Napi::Value XdpFeatures(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  uint32_t ifindex = NumberArg(info, 1, INT32_MAX, "ifindex");
  NetlinkSocket socket(env, NETLINK_GENERIC, TextArg(info, 0, "netns"));
  uint16_t family = 0;
  if (int err = FindFamily(&socket, "netdev", &family)) ThrowErrno(env, err, "generic netlink");
  uint64_t features = 0;
  int err = Ask(
      &socket, family, kNetdevDevGet, [&](nlmsghdr *nlh) { mnl_attr_put_u32(nlh, kNetdevIfindex, ifindex); },
      [&](const nlattr *attr) {
        if (mnl_attr_get_type(attr) == kNetdevXdpFeatures) features = mnl_attr_get_u64(attr);
      });
  if (err) ThrowErrno(env, err, "netdev dev-get");
  return Napi::Number::New(env, static_cast<uint32_t>(features));
}

// bpfTryMap(type, keyBytes, valueBytes, entries, flags): makes such a map and lets go of it. Throws the refusal.
Napi::Value TryMap(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = NumberArg(info, 4, UINT32_MAX, "flags"));
  int fd = bpf_map_create(static_cast<bpf_map_type>(NumberArg(info, 0, 255, "type")), "tp_probe",
                          NumberArg(info, 1, UINT32_MAX, "keyBytes"), NumberArg(info, 2, UINT32_MAX, "valueBytes"),
                          NumberArg(info, 3, UINT32_MAX, "entries"), &options);
  if (fd < 0) ThrowErrno(env, errno, "bpf_map_create");
  close(fd);
  return env.Undefined();
}

// What lets every packet and every call pass, by the type of the program.
int32_t PassingVerdict(uint32_t type) {
  if (type == BPF_PROG_TYPE_SCHED_CLS) return -1;  // TC_ACT_UNSPEC, TCX_NEXT
  return type == BPF_PROG_TYPE_XDP ? 2 : 1;        // XDP_PASS; go on
}

// bpfTryProgram(type, attachType): the descriptor of a program that changes nothing; the caller closes it.
Napi::Value TryProgram(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  uint32_t type = NumberArg(info, 0, 255, "type");
  bpf_insn code[2] = {};
  code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
  code[0].imm = PassingVerdict(type);
  code[1].code = BPF_JMP | BPF_EXIT;
  LIBBPF_OPTS(bpf_prog_load_opts, options);
  options.expected_attach_type = static_cast<bpf_attach_type>(NumberArg(info, 1, 255, "attachType"));
  int fd = bpf_prog_load(static_cast<bpf_prog_type>(type), "tp_probe", "GPL", code, 2, &options);
  if (fd < 0) ThrowErrno(env, errno, "bpf_prog_load");
  return Napi::Number::New(env, fd);
}

}  // namespace

void InitProbe(Napi::Env env, Napi::Object exports) {
  exports.Set("genlFamily", Napi::Function::New(env, GenlFamily));
  exports.Set("xdpFeatures", Napi::Function::New(env, XdpFeatures));
  exports.Set("bpfTryMap", Napi::Function::New(env, TryMap));
  exports.Set("bpfTryProgram", Napi::Function::New(env, TryProgram));
}
