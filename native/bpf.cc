// BPF's table of contents.
#include "bpf.h"

void InitBpf(Napi::Env env, Napi::Object exports) {
  InitBpfObject(env, exports);
  InitBpfMap(env, exports);
  InitBpfProgram(env, exports);
  InitBpfBtf(env, exports);
  InitBpfLife(env, exports);
  InitBpfCollect(env, exports);
  InitBpfNatReserve(env, exports);
  InitSockDiag(env, exports);
}
