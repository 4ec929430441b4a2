// Loading an object file: open, size the maps, set .rodata, load, all on a worker thread, as the verifier takes
// its time. A refusal comes back as an error with the verifier's log.
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "bpf.h"

namespace {

// What libbpf says while this thread works; it has one print function for the whole process.
thread_local std::string *said = nullptr;

int Listen(enum libbpf_print_level level, const char *format, va_list args) {
  if (!said || level == LIBBPF_DEBUG) return 0;
  char line[2048];
  int length = vsnprintf(line, sizeof(line), format, args);
  if (length > 0) said->append(line, std::min<size_t>(length, sizeof(line) - 1));
  return length;
}

struct LoadSpec {
  std::string path;
  std::string pin_root;
  std::map<std::string, uint32_t> sizes;
  // Programs that are not loaded, maps that are not pinned.
  std::vector<std::string> without, unpinned;
  std::vector<uint8_t> rodata;
};

struct LoadFailure {
  int err = 0;
  std::string step;
  std::string said;
  std::string log;
};

constexpr size_t kLogBytes = 4 << 20;

struct ObjectCloser {
  void operator()(bpf_object *object) const { bpf_object__close(object); }
};
using ObjectPtr = std::unique_ptr<bpf_object, ObjectCloser>;

bool Has(const std::vector<std::string> &names, const std::string &name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<std::string> TextsOf(const Napi::Value &value) {
  std::vector<std::string> texts;
  if (!value.IsArray()) return texts;
  Napi::Array array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); i++) texts.push_back(array.Get(i).As<Napi::String>());
  return texts;
}

// Sizes, pins and read-only data: everything that is settled between open and load.
int Configure(bpf_object *object, const LoadSpec &spec, std::string &step) {
  bpf_map *map;
  bpf_object__for_each_map(map, object) {
    std::string name = bpf_map__name(map);
    step = "map " + name;
    bool rodata = name.size() > 7 && name.compare(name.size() - 7, 7, ".rodata") == 0;
    if (rodata) {
      int err = spec.rodata.empty() ? 0 : bpf_map__set_initial_value(map, spec.rodata.data(), spec.rodata.size());
      if (err) return err;
    }
    if (bpf_map__is_internal(map)) continue;
    auto size = spec.sizes.find(name);
    if (size != spec.sizes.end()) {
      int err = bpf_map__set_max_entries(map, size->second);
      if (err) return err;
    }
    if (spec.pin_root.empty() || Has(spec.unpinned, name)) continue;
    int err = bpf_map__set_pin_path(map, (spec.pin_root + "/" + name).c_str());
    if (err) return err;
  }
  bpf_program *program;
  bpf_object__for_each_program(program, object) {
    std::string name = bpf_program__name(program);
    const bool wanted = !Has(spec.without, name);
    step = "program " + name;
    int err = bpf_program__set_autoload(program, wanted);
    if (err) return err;
  }
  return 0;
}

class Object : public Napi::ObjectWrap<Object> {
 public:
  // One constructor an environment: worker threads load the addon anew and end before the others.
  struct InstanceData {
    Napi::FunctionReference constructor;
  };

  static void Init(Napi::Env env, Napi::Object exports) {
    Napi::Function type = DefineClass(env, "BpfObject",
                                      {InstanceMethod("maps", &Object::Maps), InstanceMethod("programs", &Object::Programs),
                                       InstanceMethod("close", &Object::Close)});
    auto *data = new InstanceData{Napi::Persistent(type)};
    env.SetInstanceData(data);
  }

  explicit Object(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Object>(info) {}

  void Adopt(ObjectPtr object) { object_ = std::move(object); }

 private:
  bpf_object *Open(Napi::Env env) {
    if (!object_) throw Napi::Error::New(env, "the BPF object is closed");
    return object_.get();
  }

  // {name: {fd, type, keyBytes, valueBytes, entries}}
  Napi::Value Maps(const Napi::CallbackInfo &info) {
    Napi::Env env = info.Env();
    Napi::Object all = Napi::Object::New(env);
    bpf_map *map;
    bpf_object__for_each_map(map, Open(env)) {
      Napi::Object one = Napi::Object::New(env);
      one.Set("fd", bpf_map__fd(map));
      one.Set("type", static_cast<uint32_t>(bpf_map__type(map)));
      one.Set("keyBytes", bpf_map__key_size(map));
      one.Set("valueBytes", bpf_map__value_size(map));
      one.Set("entries", bpf_map__max_entries(map));
      all.Set(bpf_map__name(map), one);
    }
    return all;
  }

  // {name: fd}, loaded ones only.
  Napi::Value Programs(const Napi::CallbackInfo &info) {
    Napi::Env env = info.Env();
    Napi::Object all = Napi::Object::New(env);
    bpf_program *program;
    bpf_object__for_each_program(program, Open(env)) {
      int fd = bpf_program__fd(program);
      if (fd >= 0) all.Set(bpf_program__name(program), fd);
    }
    return all;
  }

  Napi::Value Close(const Napi::CallbackInfo &info) {
    object_.reset();
    return info.Env().Undefined();
  }

  ObjectPtr object_;
};


class Loader : public Napi::AsyncWorker {
 public:
  Loader(Napi::Env env, LoadSpec spec)
      : Napi::AsyncWorker(env), spec_(std::move(spec)), deferred_(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    std::string heard;
    std::vector<char> log(kLogBytes);
    said = &heard;
    Load(log);
    said = nullptr;
    failure_.said = heard;
    log.back() = 0;
    failure_.log = log.data();
  }

  void OnOK() override {
    Napi::Env env = Env();
    Napi::HandleScope scope(env);
    if (failure_.err) {
      deferred_.Reject(Failure(env).Value());
      return;
    }
    Napi::Object wrapped = Env().GetInstanceData<Object::InstanceData>()->constructor.New({});
    Napi::ObjectWrap<Object>::Unwrap(wrapped)->Adopt(std::move(object_));
    deferred_.Resolve(wrapped);
  }

  void OnError(const Napi::Error &error) override { deferred_.Reject(error.Value()); }

 private:
  void Load(std::vector<char> &log) {
    LIBBPF_OPTS(bpf_object_open_opts, options, .kernel_log_buf = log.data(), .kernel_log_size = log.size());
    failure_.step = "open " + spec_.path;
    bpf_object *object = bpf_object__open_file(spec_.path.c_str(), &options);
    if (!object) {
      failure_.err = errno ? errno : EINVAL;
      return;
    }
    object_.reset(object);
    int err = Configure(object, spec_, failure_.step);
    if (!err) {
      failure_.step = "load";
      err = bpf_object__load(object);
    }
    failure_.err = -err;
    if (err) object_.reset();
  }

  Napi::Error Failure(Napi::Env env) {
    Napi::Error error = Napi::Error::New(env, failure_.step + ": " + strerror(failure_.err));
    error.Set("code", Napi::String::New(env, ErrnoName(failure_.err)));
    error.Set("syscall", Napi::String::New(env, failure_.step));
    error.Set("said", Napi::String::New(env, failure_.said));
    error.Set("log", Napi::String::New(env, failure_.log));
    return error;
  }

  LoadSpec spec_;
  Napi::Promise::Deferred deferred_;
  LoadFailure failure_;
  ObjectPtr object_;
};

// bpfLoad({path, pinRoot, maps: {name: entries}, without: [program], rodata}): a promise of a BpfObject.
Napi::Value Load(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Napi::Object given = info[0].As<Napi::Object>();
  LoadSpec spec;
  spec.path = given.Get("path").As<Napi::String>();
  spec.pin_root = given.Get("pinRoot").As<Napi::String>();
  Napi::Object maps = given.Get("maps").As<Napi::Object>();
  Napi::Array names = maps.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); i++) {
    std::string name = names.Get(i).As<Napi::String>();
    spec.sizes[name] = maps.Get(name).As<Napi::Number>().Uint32Value();
  }
  spec.without = TextsOf(given.Get("without"));
  spec.unpinned = TextsOf(given.Get("unpinned"));
  Bytes rodata = BytesOf(given.Get("rodata"));
  spec.rodata.assign(rodata.data, rodata.data + rodata.size);
  Loader *loader = new Loader(env, std::move(spec));
  Napi::Promise promise = loader->Promise();
  loader->Queue();
  return promise;
}

}  // namespace

void InitBpfObject(Napi::Env env, Napi::Object exports) {
  libbpf_set_print(Listen);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  Object::Init(env, exports);
  exports.Set("bpfLoad", Napi::Function::New(env, Load));
}
