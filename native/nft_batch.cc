// Sending a batch, and whose operations the kernel refused.
#include "nft_batch_builder.h"

namespace {
struct Refused {
  int err;
  int64_t owner;  // -1: the whole batch
};

Refused WhoseError(const BatchBuilder &batch, const NetlinkError &error) {
  if (batch.messages.empty() || error.seq < batch.messages.front().seq || error.seq > batch.messages.back().seq) {
    return {error.err, -1};
  }
  const Message &message = batch.messages[error.seq - batch.messages.front().seq];
  if (message.element_count <= 1) return {error.err, message.owner};
  for (size_t i = message.element_count; error.offset && i-- > 0;) {
    const Element &element = batch.elements[message.first_element + i];
    if (element.offset <= error.offset) return {error.err, element.owner};
  }
  return {error.err, -1};
}

// {places: Uint32Array, sums: BigUint64Array}
Napi::Object Sums(Napi::Env env, const BatchBuilder &batch) {
  const auto &all = batch.sums();
  Napi::Uint32Array places = Napi::Uint32Array::New(env, all.size());
  Napi::BigUint64Array sums = Napi::BigUint64Array::New(env, all.size());
  size_t i = 0;
  for (const auto &[place, sum] : all) {
    places[i] = place;
    sums[i++] = sum;
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("places", places);
  result.Set("sums", sums);
  return result;
}

class CommitWorker : public Napi::AsyncWorker {
 public:
  CommitWorker(NftSocket *handle, NetlinkSocket *socket, Napi::Promise::Deferred deferred,
               std::unique_ptr<BatchBuilder> batch, const Napi::Uint8Array &operations)
      : Napi::AsyncWorker(deferred.Env()), handle_(handle), socket_(socket), deferred_(deferred),
        batch_(std::move(batch)), operations_(operations.Data()), size_(operations.ByteLength()) {
    keep_.Reset(handle->Value(), 1);
    keep_operations_.Reset(operations, 1);
  }

  // Messages are built here and not on JavaScript's thread, which plans the next batch meanwhile. TypeScript
  // does not write to `operations` before the promise is settled.
  void Execute() override {
    if (!batch_->Build(operations_, size_, socket_->NextSeq())) {
      broken_ = true;
      return;
    }
    socket_->UsedSeqs(batch_->seq());
    std::vector<NetlinkError> errors;
    if (batch_->messages.empty()) return;
    exchange_error_ = socket_->Transact(batch_->bytes.data(), batch_->bytes.size(), batch_->last_seq, &errors);
    for (const NetlinkError &error : errors) refused_.push_back(WhoseError(*batch_, error));
  }

  // {errno: string ('' when the exchange went well), refused: [{errno, owner}], sums}
  void OnOK() override {
    Napi::Env env = Env();
    Napi::HandleScope scope(env);
    handle_->busy = false;
    if (broken_) {
      deferred_.Reject(Napi::Error::New(env, "broken packing of nftables operations").Value());
      return;
    }
    Napi::Object result = Napi::Object::New(env);
    result.Set("errno", exchange_error_ ? ErrnoName(exchange_error_) : std::string());
    Napi::Array refused = Napi::Array::New(env, refused_.size());
    for (size_t i = 0; i < refused_.size(); i++) {
      Napi::Object row = Napi::Object::New(env);
      row.Set("errno", ErrnoName(refused_[i].err));
      row.Set("owner", Napi::Number::New(env, static_cast<double>(refused_[i].owner)));
      refused.Set(static_cast<uint32_t>(i), row);
    }
    result.Set("refused", refused);
    result.Set("sums", Sums(env, *batch_));
    deferred_.Resolve(result);
  }

 private:
  NftSocket *handle_;
  NetlinkSocket *socket_;
  Napi::Promise::Deferred deferred_;
  std::unique_ptr<BatchBuilder> batch_;
  const uint8_t *operations_;
  size_t size_;
  Napi::ObjectReference keep_;
  Napi::ObjectReference keep_operations_;
  bool broken_ = false;
  int exchange_error_ = 0;
  std::vector<Refused> refused_;
};
}  // namespace

uint64_t ElementHash(const uint8_t *key, size_t key_len, const uint8_t *data, size_t data_len,
                     const std::string &comment) {
  // FNV-1a over all, then a finalizer, so that sums of similar elements do not cancel out.
  uint64_t h = 14695981039346656037ull;
  for (size_t i = 0; i < key_len; i++) h = (h ^ key[i]) * 1099511628211ull;
  h = (h ^ 0xff) * 1099511628211ull;
  for (size_t i = 0; i < data_len; i++) h = (h ^ data[i]) * 1099511628211ull;
  h = (h ^ 0xff) * 1099511628211ull;
  for (char c : comment) h = (h ^ static_cast<uint8_t>(c)) * 1099511628211ull;
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdull;
  h ^= h >> 33;
  h *= 0xc4ceb9fe1a85ec53ull;
  return h ^ (h >> 33);
}

// nftSums(family, layouts, operations: Uint8Array): the sums that commit() would answer.
Napi::Value NftSums(const Napi::CallbackInfo &info) {
  Napi::Uint8Array operations = info[2].As<Napi::Uint8Array>();
  BatchBuilder batch(static_cast<uint8_t>(info[0].As<Napi::Number>().Uint32Value()), "",
                     std::make_shared<const std::vector<SetLayout>>(ReadLayouts(info[1].As<Napi::Array>())), false);
  if (!batch.Build(operations.Data(), operations.ByteLength(), 0)) {
    throw Napi::Error::New(info.Env(), "broken packing of nftables operations");
  }
  return Sums(info.Env(), batch);
}

// commit(family, table, layouts, operations: Uint8Array, oneElementAMessage): Promise
Napi::Value StartCommit(NftSocket *handle, const Napi::CallbackInfo &info) {
  Napi::Uint8Array operations = info[3].As<Napi::Uint8Array>();
  const uint8_t family = static_cast<uint8_t>(info[0].As<Napi::Number>().Uint32Value());
  auto batch = std::make_unique<BatchBuilder>(family, info[1].As<Napi::String>(),
                                              handle->Layouts(family, info[2].As<Napi::Array>()),
                                              info[4].As<Napi::Boolean>());
  auto deferred = Napi::Promise::Deferred::New(info.Env());
  (new CommitWorker(handle, handle->socket(), deferred, std::move(batch), operations))->Queue();
  return deferred.Promise();
}
