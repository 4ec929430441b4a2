#pragma once
// BPF through libbpf (1.1 or newer) and, for what 1.1 does not know (tcx), the system call itself.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "addon.h"

// The bytes of a Uint8Array argument.
struct Bytes {
  uint8_t *data;
  size_t size;
};
inline Bytes BytesOf(const Napi::Value &value) {
  Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.ByteLength()};
}

inline int32_t FdOf(const Napi::Value &value) { return value.As<Napi::Number>().Int32Value(); }

void InitBpfObject(Napi::Env env, Napi::Object exports);
void InitBpfMap(Napi::Env env, Napi::Object exports);
void InitBpfProgram(Napi::Env env, Napi::Object exports);
void InitBpfBtf(Napi::Env env, Napi::Object exports);
void InitBpfLife(Napi::Env env, Napi::Object exports);
void InitBpfCollect(Napi::Env env, Napi::Object exports);
void InitBpfNatReserve(Napi::Env env, Napi::Object exports);
void InitSockDiag(Napi::Env env, Napi::Object exports);
