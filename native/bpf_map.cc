// Maps by file descriptor. Single operations are synchronous (1-2 us); whole maps go in batches.
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "bpf.h"

namespace {

// bpfMapUpdate(fd, key, value, flags)
Napi::Value Update(const Napi::CallbackInfo &info) {
  Bytes key = BytesOf(info[1]), value = BytesOf(info[2]);
  uint64_t flags = info[3].As<Napi::Number>().Uint32Value();
  if (bpf_map_update_elem(FdOf(info[0]), key.data, value.data, flags)) ThrowErrno(info.Env(), errno, "bpf_map_update_elem");
  return info.Env().Undefined();
}

// bpfMapLookup(fd, key, valueBytes): a Uint8Array, or null.
Napi::Value Lookup(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Napi::Uint8Array value = Napi::Uint8Array::New(env, info[2].As<Napi::Number>().Uint32Value());
  if (!bpf_map_lookup_elem(FdOf(info[0]), BytesOf(info[1]).data, value.Data())) return value;
  if (errno == ENOENT) return env.Null();
  ThrowErrno(env, errno, "bpf_map_lookup_elem");
}

// bpfMapDelete(fd, key): whether there was one.
Napi::Value Delete(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  if (!bpf_map_delete_elem(FdOf(info[0]), BytesOf(info[1]).data)) return Napi::Boolean::New(env, true);
  if (errno == ENOENT) return Napi::Boolean::New(env, false);
  ThrowErrno(env, errno, "bpf_map_delete_elem");
}

// bpfMapUpdateBatch(fd, keys, values, count): keys and values end to end.
Napi::Value UpdateBatch(const Napi::CallbackInfo &info) {
  LIBBPF_OPTS(bpf_map_batch_opts, options);
  uint32_t count = info[3].As<Napi::Number>().Uint32Value();
  if (bpf_map_update_batch(FdOf(info[0]), BytesOf(info[1]).data, BytesOf(info[2]).data, &count, &options))
    ThrowErrno(info.Env(), errno, "bpf_map_update_batch");
  return info.Env().Undefined();
}

// bpfMapDeleteBatch(fd, keys, count): how many were deleted before the first that was not there.
Napi::Value DeleteBatch(const Napi::CallbackInfo &info) {
  LIBBPF_OPTS(bpf_map_batch_opts, options);
  uint32_t count = info[2].As<Napi::Number>().Uint32Value();
  if (bpf_map_delete_batch(FdOf(info[0]), BytesOf(info[1]).data, &count, &options) && errno != ENOENT)
    ThrowErrno(info.Env(), errno, "bpf_map_delete_batch");
  return Napi::Number::New(info.Env(), count);
}

// bpfMapKeys(fd, keyBytes, most): the keys, end to end.
Napi::Value Keys(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  size_t bytes = info[1].As<Napi::Number>().Uint32Value();
  size_t most = info[2].As<Napi::Number>().Uint32Value();
  std::vector<uint8_t> all;
  const uint8_t *last = nullptr;
  std::vector<uint8_t> key(bytes), next(bytes);
  while (all.size() < most * bytes && !bpf_map_get_next_key(FdOf(info[0]), last, next.data())) {
    all.insert(all.end(), next.begin(), next.end());
    key = next;
    last = key.data();
  }
  Napi::Uint8Array out = Napi::Uint8Array::New(env, all.size());
  memcpy(out.Data(), all.data(), all.size());
  return out;
}

// bpfMapMmap(fd, bytes): the array's values as an ArrayBuffer, shared with the programs.
Napi::Value Mmap(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  size_t page = sysconf(_SC_PAGESIZE);
  size_t bytes = (info[1].As<Napi::Number>().Int64Value() + page - 1) / page * page;
  void *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, FdOf(info[0]), 0);
  if (at == MAP_FAILED) ThrowErrno(env, errno, "mmap");
  return Napi::ArrayBuffer::New(env, at, bytes, [bytes](Napi::Env, void *data) { munmap(data, bytes); });
}

// bpfMapInfo(fd): {id, type, keyBytes, valueBytes, entries, flags, name}
Napi::Value Info(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  bpf_map_info found = {};
  uint32_t length = sizeof(found);
  if (bpf_obj_get_info_by_fd(FdOf(info[0]), &found, &length)) ThrowErrno(env, errno, "bpf_obj_get_info_by_fd");
  Napi::Object out = Napi::Object::New(env);
  out.Set("id", found.id);
  out.Set("type", found.type);
  out.Set("keyBytes", found.key_size);
  out.Set("valueBytes", found.value_size);
  out.Set("entries", found.max_entries);
  out.Set("flags", found.map_flags);
  out.Set("name", found.name);
  return out;
}

}  // namespace

void InitBpfMap(Napi::Env env, Napi::Object exports) {
  exports.Set("bpfMapUpdate", Napi::Function::New(env, Update));
  exports.Set("bpfMapLookup", Napi::Function::New(env, Lookup));
  exports.Set("bpfMapDelete", Napi::Function::New(env, Delete));
  exports.Set("bpfMapUpdateBatch", Napi::Function::New(env, UpdateBatch));
  exports.Set("bpfMapDeleteBatch", Napi::Function::New(env, DeleteBatch));
  exports.Set("bpfMapKeys", Napi::Function::New(env, Keys));
  exports.Set("bpfMapMmap", Napi::Function::New(env, Mmap));
  exports.Set("bpfMapInfo", Napi::Function::New(env, Info));
}
