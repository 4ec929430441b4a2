// The JavaScript class NftSocket: one handle, one request at a time.
#include <linux/netlink.h>

#include "nft.h"

std::vector<SetLayout> ReadLayouts(const Napi::Array &array) {
  std::vector<SetLayout> layouts;
  for (uint32_t i = 0; i < array.Length(); i++) {
    Napi::Object row = array.Get(i).As<Napi::Object>();
    layouts.push_back({row.Get("name").As<Napi::String>(), row.Get("keyBytes").As<Napi::Number>().Int32Value(),
                       row.Get("dataBytes").As<Napi::Number>().Int32Value()});
  }
  return layouts;
}

std::shared_ptr<const std::vector<SetLayout>> NftSocket::Layouts(uint8_t family, const Napi::Array &array) {
  KnownLayouts &known = layouts_[family];
  if (known.array.IsEmpty() || !known.array.Value().StrictEquals(array)) {
    known.layouts = std::make_shared<const std::vector<SetLayout>>(ReadLayouts(array));
    known.array = Napi::Persistent(array.As<Napi::Object>());
  }
  return known.layouts;
}

NftSocket::NftSocket(const Napi::CallbackInfo &info) : Napi::ObjectWrap<NftSocket>(info) {
  std::string netns = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
  socket_ = std::make_unique<NetlinkSocket>(info.Env(), NETLINK_NETFILTER, netns);
}

NetlinkSocket *NftSocket::Claim(Napi::Env env) {
  if (!socket_) throw Napi::Error::New(env, "this nftables handle is closed");
  if (busy) throw Napi::Error::New(env, "this nftables handle has a request under way");
  busy = true;
  return socket_.get();
}

Napi::Value NftSocket::Commit(const Napi::CallbackInfo &info) {
  Claim(info.Env());
  return StartCommit(this, info);
}
Napi::Value NftSocket::DumpElements(const Napi::CallbackInfo &info) {
  Claim(info.Env());
  return StartDumpElements(this, info);
}
Napi::Value NftSocket::DumpRules(const Napi::CallbackInfo &info) {
  Claim(info.Env());
  return StartDumpRules(this, info);
}
Napi::Value NftSocket::DumpNames(const Napi::CallbackInfo &info) {
  Claim(info.Env());
  return StartDumpNames(this, info);
}
Napi::Value NftSocket::Generation(const Napi::CallbackInfo &info) {
  Claim(info.Env());
  return StartGeneration(this, info);
}

Napi::Value NftSocket::SendBufferBytes(const Napi::CallbackInfo &info) {
  if (!socket_) throw Napi::Error::New(info.Env(), "this nftables handle is closed");
  return Napi::Number::New(info.Env(), static_cast<double>(socket_->SendBufferBytes()));
}

Napi::Value NftSocket::PortId(const Napi::CallbackInfo &info) {
  if (!socket_) throw Napi::Error::New(info.Env(), "this nftables handle is closed");
  return Napi::Number::New(info.Env(), socket_->PortId());
}

void NftSocket::Close(const Napi::CallbackInfo &info) {
  if (busy) throw Napi::Error::New(info.Env(), "this nftables handle has a request under way");
  socket_.reset();
}

void NftSocket::Init(Napi::Env env, Napi::Object exports) {
  exports.Set("NftSocket", DefineClass(env, "NftSocket",
                                       {InstanceMethod("commit", &NftSocket::Commit),
                                        InstanceMethod("dumpElements", &NftSocket::DumpElements),
                                        InstanceMethod("dumpRules", &NftSocket::DumpRules),
                                        InstanceMethod("dumpNames", &NftSocket::DumpNames),
                                        InstanceMethod("generation", &NftSocket::Generation),
                                        InstanceMethod("sendBufferBytes", &NftSocket::SendBufferBytes),
                                        InstanceMethod("portId", &NftSocket::PortId),
                                        InstanceMethod("close", &NftSocket::Close)}));
}

void InitNftSocket(Napi::Env env, Napi::Object exports) {
  NftSocket::Init(env, exports);
  exports.Set("nftSums", Napi::Function::New(env, NftSums));
}
