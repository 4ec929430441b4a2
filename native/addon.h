#pragma once
#include <napi.h>

#include <cerrno>
#include <cstring>
#include <string>

// Throws a JS Error with `code` set to the symbolic errno ("EPERM") and `syscall` to what failed.
[[noreturn]] void ThrowErrno(Napi::Env env, int err, const char *what);
// The symbolic name of an errno value, or "E<number>" if it has none.
std::string ErrnoName(int err);

void InitNetns(Napi::Env env, Napi::Object exports);
void InitNftSocket(Napi::Env env, Napi::Object exports);
void InitNftMonitor(Napi::Env env, Napi::Object exports);
void InitNftHooks(Napi::Env env, Napi::Object exports);
void InitBpf(Napi::Env env, Napi::Object exports);
void InitRtnetlink(Napi::Env env, Napi::Object exports);
void InitConntrack(Napi::Env env, Napi::Object exports);
void InitConntrackCreate(Napi::Env env, Napi::Object exports);
void InitLock(Napi::Env env, Napi::Object exports);
void InitProbe(Napi::Env env, Napi::Object exports);
void InitIpvs(Napi::Env env, Napi::Object exports);
