#pragma once
// A promise for work on a pool thread. The work touches no JavaScript; what it shares with a handle it holds
// by shared_ptr, so that closing or collecting the handle meanwhile frees nothing under it.
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "addon.h"

struct TaskError {
  int err = 0;  // positive errno; 0: it went well
  std::string what;
};

class AsyncTask : public Napi::AsyncWorker {
 public:
  using Work = std::function<TaskError()>;
  using Result = std::function<Napi::Value(Napi::Env)>;

  using Settle = std::function<void()>;

  // The functions live until the promise is settled. `result` runs on the event loop, after good work only;
  // `settle` before it, after any work.
  static Napi::Value Start(Napi::Env env, Work work, Result result, Settle settle = [] {}) {
    AsyncTask *task = new AsyncTask(env, std::move(work), std::move(result), std::move(settle));
    Napi::Promise promise = task->deferred_.Promise();
    task->Queue();
    return promise;
  }

 private:
  AsyncTask(Napi::Env env, Work work, Result result, Settle settle)
      : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work)),
        result_(std::move(result)), settle_(std::move(settle)) {}

  void Execute() override { error_ = work_(); }

  void OnOK() override {
    Napi::Env env = Env();
    settle_();
    try {
      if (error_.err == 0) {
        deferred_.Resolve(result_(env));
        return;
      }
      Napi::Error error = Napi::Error::New(env, error_.what + ": " + strerror(error_.err));
      error.Set("code", Napi::String::New(env, ErrnoName(error_.err)));
      error.Set("syscall", Napi::String::New(env, error_.what));
      deferred_.Reject(error.Value());
    } catch (const Napi::Error &) {
      // A worker thread that is being terminated runs no JavaScript any more, and nobody waits for the promise.
    }
  }
  void OnError(const Napi::Error &error) override {
    settle_();
    try {
      deferred_.Reject(error.Value());
    } catch (const Napi::Error &) {
    }
  }

  Napi::Promise::Deferred deferred_;
  Work work_;
  Result result_;
  Settle settle_;
  TaskError error_;
};

// The bytes as a Buffer that owns them.
inline Napi::Value BytesValue(Napi::Env env, std::vector<uint8_t> bytes) {
  return Napi::Buffer<uint8_t>::Copy(env, bytes.data(), bytes.size());
}
