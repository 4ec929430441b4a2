// What the built object says about its own types, so that the TypeScript codec can be held against it.
#include <bpf/btf.h>

#include "bpf.h"

// bpfStructs(path): {struct: {bytes, members: {name: byte offset}}}
static Napi::Value Structs(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path = info[0].As<Napi::String>();
  btf *types = btf__parse(path.c_str(), nullptr);
  if (!types) ThrowErrno(env, errno, ("BTF of " + path).c_str());
  Napi::Object all = Napi::Object::New(env);
  for (uint32_t id = 1; id < btf__type_cnt(types); id++) {
    const btf_type *type = btf__type_by_id(types, id);
    const char *name = btf__name_by_offset(types, type->name_off);
    if (!btf_is_struct(type) || !*name) continue;
    Napi::Object members = Napi::Object::New(env);
    for (uint32_t i = 0; i < btf_vlen(type); i++) {
      const char *member = btf__name_by_offset(types, btf_members(type)[i].name_off);
      members.Set(member, btf_member_bit_offset(type, i) / 8);
    }
    Napi::Object one = Napi::Object::New(env);
    one.Set("bytes", type->size);
    one.Set("members", members);
    all.Set(name, one);
  }
  btf__free(types);
  return all;
}

static bool HasFunction(const btf *types, const char *name) {
  return types && btf__find_by_name_kind(types, name, BTF_KIND_FUNC) > 0;
}

// bpfKernelHas(function, module): whether the kernel, or that module where it is loaded, has a function that
// programs could call, as its types say.
static Napi::Value KernelHas(const Napi::CallbackInfo &info) {
  std::string name = info[0].As<Napi::String>(), module = info[1].As<Napi::String>();
  btf *kernel = btf__load_vmlinux_btf();
  bool found = HasFunction(kernel, name.c_str());
  if (kernel && !found) {
    btf *types = btf__load_module_btf(module.c_str(), kernel);
    found = HasFunction(types, name.c_str());
    btf__free(types);
  }
  btf__free(kernel);
  return Napi::Boolean::New(info.Env(), found);
}

void InitBpfBtf(Napi::Env env, Napi::Object exports) {
  exports.Set("bpfKernelHas", Napi::Function::New(env, KernelHas));
  exports.Set("bpfStructs", Napi::Function::New(env, Structs));
}
