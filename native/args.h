#pragma once
// Assertions on what JavaScript passes. TypeScript has validated it (src/node/native.ts says the shapes); a
// failure here is a bug of ours, so the message names the argument and no more.
#include <string>

#include "addon.h"

inline void AssertArg(Napi::Env env, bool holds, const char *what) {
  if (!holds) throw Napi::TypeError::New(env, std::string("argument: ") + what);
}

// Text without a NUL, which every system interface would cut short.
inline std::string TextArg(const Napi::CallbackInfo &info, size_t at, const char *name) {
  AssertArg(info.Env(), info[at].IsString(), name);
  std::string text = info[at].As<Napi::String>();
  AssertArg(info.Env(), text.find('\0') == std::string::npos, name);
  return text;
}

inline uint32_t NumberArg(const Napi::CallbackInfo &info, size_t at, uint32_t largest, const char *name) {
  AssertArg(info.Env(), info[at].IsNumber(), name);
  double value = info[at].As<Napi::Number>().DoubleValue();
  AssertArg(info.Env(), value >= 0 && value <= largest && value == static_cast<double>(static_cast<uint32_t>(value)),
            name);
  return static_cast<uint32_t>(value);
}

inline Napi::Buffer<uint8_t> BytesArg(const Napi::CallbackInfo &info, size_t at, const char *name) {
  AssertArg(info.Env(), info[at].IsBuffer(), name);
  return info[at].As<Napi::Buffer<uint8_t>>();
}

inline Napi::Function FunctionArg(const Napi::CallbackInfo &info, size_t at, const char *name) {
  AssertArg(info.Env(), info[at].IsFunction(), name);
  return info[at].As<Napi::Function>();
}
