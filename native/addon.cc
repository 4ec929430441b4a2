// The addon's table of contents: each room of native/ registers its functions here. TypeScript validates
// every argument before it calls (src/native.ts); what C++ checks again is an assertion, not a message.
#include "addon.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  InitNetns(env, exports);
  InitNftSocket(env, exports);
  InitNftMonitor(env, exports);
  InitNftHooks(env, exports);
  InitBpf(env, exports);
  InitRtnetlink(env, exports);
  InitConntrack(env, exports);
  InitLock(env, exports);
  InitProbe(env, exports);
  InitIpvs(env, exports);
  return exports;
}

NODE_API_MODULE(triplane, Init)
