#pragma once
#include "addon.h"

// Enters the network namespace at `path` for the guard's life; an empty path stays where it is.
class NetnsGuard {
 public:
  NetnsGuard(Napi::Env env, const std::string &path);
  ~NetnsGuard();
  NetnsGuard(const NetnsGuard &) = delete;
  NetnsGuard &operator=(const NetnsGuard &) = delete;

 private:
  int home_ = -1;
};
