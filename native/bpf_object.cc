// Loading an object file in two steps, both on worker threads: first its maps, which whoever fills them can begin with;
// then its programs, a group of them on a thread of its own, since the verifier takes its time and the kernel runs any
// number of it side by side. A refusal comes back as an error with the verifier's log.
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <system_error>
#include <thread>
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
  // Maps that are not pinned.
  std::vector<std::string> unpinned;
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

bool IsRodata(const bpf_map *map) {
  std::string name = bpf_map__name(map);
  return name.size() > 7 && name.compare(name.size() - 7, 7, ".rodata") == 0;
}

// Frozen before the programs are loaded: each object has its own (.rodata, .rodata.x, .kconfig).
bool IsConstant(const bpf_map *map) {
  std::string name = bpf_map__name(map);
  return bpf_map__is_internal(map) &&
         (name.find(".rodata") != std::string::npos || name.find(".kconfig") != std::string::npos);
}

// Read-only data are built into each object that is opened, as the programs of it see them.
int SetRodata(bpf_object *object, const std::vector<uint8_t> &rodata) {
  if (rodata.empty()) return 0;
  bpf_map *map;
  bpf_object__for_each_map(map, object) {
    int err = IsRodata(map) ? bpf_map__set_initial_value(map, rodata.data(), rodata.size()) : 0;
    if (err) return err;
  }
  return 0;
}

// Sizes and pins: everything that is settled between open and load.
int ConfigureMaps(bpf_object *object, const LoadSpec &spec, std::string &step) {
  bpf_map *map;
  bpf_object__for_each_map(map, object) {
    std::string name = bpf_map__name(map);
    step = "map " + name;
    if (bpf_map__is_internal(map)) continue;
    auto size = spec.sizes.find(name);
    if (size != spec.sizes.end()) {
      int err = bpf_map__set_max_entries(map, size->second);
      if (err) return err;
    }
    if (spec.pin_root.empty() || std::count(spec.unpinned.begin(), spec.unpinned.end(), name)) continue;
    int err = bpf_map__set_pin_path(map, (spec.pin_root + "/" + name).c_str());
    if (err) return err;
  }
  return 0;
}

// Only these programs.
int Select(bpf_object *object, const std::vector<std::string> &wanted) {
  bpf_program *program;
  bpf_object__for_each_program(program, object) {
    bool one = std::find(wanted.begin(), wanted.end(), bpf_program__name(program)) != wanted.end();
    int err = bpf_program__set_autoload(program, one);
    if (err) return err;
  }
  return 0;
}

// One object over one file: opened and loaded on the thread that calls. What libbpf says goes into `failure`.
ObjectPtr LoadOne(const LoadSpec &spec, LoadFailure &failure,
                  const std::function<int(bpf_object *, std::string &)> &configure) {
  std::string heard;
  std::vector<char> log(kLogBytes);
  said = &heard;
  LIBBPF_OPTS(bpf_object_open_opts, options, .kernel_log_buf = log.data(), .kernel_log_size = log.size());
  failure.step = "open " + spec.path;
  ObjectPtr object(bpf_object__open_file(spec.path.c_str(), &options));
  int err = object ? 0 : -(errno ? errno : EINVAL);
  if (!err) {
    failure.step = "read-only data";
    err = SetRodata(object.get(), spec.rodata);
  }
  if (!err) err = configure(object.get(), failure.step);
  if (!err) {
    failure.step = "load";
    err = bpf_object__load(object.get());
  }
  said = nullptr;
  failure.err = -err;
  if (!err) return object;
  failure.said = heard;
  log.back() = 0;
  failure.log = log.data();
  return nullptr;
}

// The maps of `from` under the same names in `to`, but for those that each object has for itself.
int ShareMaps(bpf_object *from, bpf_object *to, std::string &step) {
  bpf_map *map;
  bpf_object__for_each_map(map, to) {
    if (IsConstant(map)) continue;
    step = std::string("map ") + bpf_map__name(map);
    bpf_map *shared = bpf_object__find_map_by_name(from, bpf_map__name(map));
    int err = shared ? bpf_map__reuse_fd(map, bpf_map__fd(shared)) : -ENOENT;
    if (err) return err;
  }
  return 0;
}

Napi::Error FailureOf(Napi::Env env, const LoadFailure &failure) {
  Napi::Error error = Napi::Error::New(env, failure.step + ": " + strerror(failure.err));
  error.Set("code", Napi::String::New(env, ErrnoName(failure.err)));
  error.Set("syscall", Napi::String::New(env, failure.step));
  error.Set("said", Napi::String::New(env, failure.said));
  error.Set("log", Napi::String::New(env, failure.log));
  return error;
}

// What a BpfObject holds: kept alive by whoever loads programs meanwhile.
struct Loaded {
  LoadSpec spec;
  ObjectPtr maps;
  // Programs, group by group.
  std::vector<ObjectPtr> programs;
};

class Object : public Napi::ObjectWrap<Object> {
 public:
  // One constructor an environment: worker threads load the addon anew and end before the others.
  struct InstanceData {
    Napi::FunctionReference constructor;
  };

  static void Init(Napi::Env env, Napi::Object exports) {
    Napi::Function type = DefineClass(env, "BpfObject",
                                      {InstanceMethod("maps", &Object::Maps), InstanceMethod("load", &Object::Load),
                                       InstanceMethod("programs", &Object::Programs),
                                       InstanceMethod("close", &Object::Close)});
    auto *data = new InstanceData{Napi::Persistent(type)};
    env.SetInstanceData(data);
  }

  explicit Object(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Object>(info) {}

  void Adopt(std::shared_ptr<Loaded> loaded) { loaded_ = std::move(loaded); }

 private:
  Loaded &Open(Napi::Env env) {
    if (!loaded_) throw Napi::Error::New(env, "the BPF object is closed");
    return *loaded_;
  }

  // {name: {fd, type, keyBytes, valueBytes, entries}}
  Napi::Value Maps(const Napi::CallbackInfo &info) {
    Napi::Env env = info.Env();
    Napi::Object all = Napi::Object::New(env);
    bpf_map *map;
    bpf_object__for_each_map(map, Open(env).maps.get()) {
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

  // load([[program, ...], ...]): a promise; each group on a thread of its own. All of them or none.
  Napi::Value Load(const Napi::CallbackInfo &info);

  // {name: fd}, loaded ones only.
  Napi::Value Programs(const Napi::CallbackInfo &info) {
    Napi::Env env = info.Env();
    Napi::Object all = Napi::Object::New(env);
    for (const ObjectPtr &object : Open(env).programs) {
      bpf_program *program;
      bpf_object__for_each_program(program, object.get()) {
        int fd = bpf_program__fd(program);
        if (fd >= 0) all.Set(bpf_program__name(program), fd);
      }
    }
    return all;
  }

  Napi::Value Close(const Napi::CallbackInfo &info) {
    loaded_.reset();
    return info.Env().Undefined();
  }

  std::shared_ptr<Loaded> loaded_;
};

class Opener : public Napi::AsyncWorker {
 public:
  Opener(Napi::Env env, LoadSpec spec)
      : Napi::AsyncWorker(env), loaded_(std::make_shared<Loaded>()), deferred_(Napi::Promise::Deferred::New(env)) {
    loaded_->spec = std::move(spec);
  }
  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    loaded_->maps = LoadOne(loaded_->spec, failure_, [this](bpf_object *object, std::string &step) {
      int err = ConfigureMaps(object, loaded_->spec, step);
      return err ? err : Select(object, {});
    });
  }

  void OnOK() override {
    Napi::Env env = Env();
    Napi::HandleScope scope(env);
    if (failure_.err) {
      deferred_.Reject(FailureOf(env, failure_).Value());
      return;
    }
    Napi::Object wrapped = env.GetInstanceData<Object::InstanceData>()->constructor.New({});
    Napi::ObjectWrap<Object>::Unwrap(wrapped)->Adopt(std::move(loaded_));
    deferred_.Resolve(wrapped);
  }

  void OnError(const Napi::Error &error) override { deferred_.Reject(error.Value()); }

 private:
  std::shared_ptr<Loaded> loaded_;
  Napi::Promise::Deferred deferred_;
  LoadFailure failure_;
};

class ProgramLoader : public Napi::AsyncWorker {
 public:
  ProgramLoader(Napi::Env env, std::shared_ptr<Loaded> loaded, std::vector<std::vector<std::string>> groups)
      : Napi::AsyncWorker(env),
        loaded_(std::move(loaded)),
        groups_(std::move(groups)),
        deferred_(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    std::vector<LoadFailure> failures(groups_.size());
    programs_.resize(groups_.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < groups_.size(); i++) {
      auto one = [this, i, &failures] { programs_[i] = LoadGroup(groups_[i], failures[i]); };
      // A process that may have no more threads takes longer.
      try {
        threads.emplace_back(one);
      } catch (const std::system_error &) {
        one();
      }
    }
    for (std::thread &thread : threads) thread.join();
#ifdef __GLIBC__
    // What the loads have freed stays in arenas of threads that are gone: a sixth of the process at its start.
    malloc_trim(0);
#endif
    for (LoadFailure &failure : failures) {
      if (failure.err && !failure_.err) failure_ = std::move(failure);
    }
  }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (failure_.err) {
      deferred_.Reject(FailureOf(Env(), failure_).Value());
      return;
    }
    for (ObjectPtr &object : programs_) loaded_->programs.push_back(std::move(object));
    deferred_.Resolve(Env().Undefined());
  }

  void OnError(const Napi::Error &error) override { deferred_.Reject(error.Value()); }

 private:
  ObjectPtr LoadGroup(const std::vector<std::string> &names, LoadFailure &failure) {
    return LoadOne(loaded_->spec, failure, [&](bpf_object *object, std::string &step) {
      int err = ShareMaps(loaded_->maps.get(), object, step);
      return err ? err : Select(object, names);
    });
  }

  std::shared_ptr<Loaded> loaded_;
  std::vector<std::vector<std::string>> groups_;
  std::vector<ObjectPtr> programs_;
  Napi::Promise::Deferred deferred_;
  LoadFailure failure_;
};

std::vector<std::string> NamesOf(const Napi::Value &value) {
  Napi::Array given = value.As<Napi::Array>();
  std::vector<std::string> names;
  for (uint32_t i = 0; i < given.Length(); i++) names.push_back(given.Get(i).As<Napi::String>());
  return names;
}

Napi::Value Object::Load(const Napi::CallbackInfo &info) {
  Open(info.Env());
  Napi::Array given = info[0].As<Napi::Array>();
  std::vector<std::vector<std::string>> groups;
  for (uint32_t i = 0; i < given.Length(); i++) groups.push_back(NamesOf(given.Get(i)));
  auto *loader = new ProgramLoader(info.Env(), loaded_, std::move(groups));
  Napi::Promise promise = loader->Promise();
  loader->Queue();
  return promise;
}

// bpfPrograms(path): the names of all programs of an object file.
Napi::Value Programs(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path = info[0].As<Napi::String>();
  ObjectPtr object(bpf_object__open_file(path.c_str(), nullptr));
  if (!object) {
    Napi::Error error = Napi::Error::New(env, "open " + path + ": " + strerror(errno));
    error.Set("code", Napi::String::New(env, ErrnoName(errno)));
    throw error;
  }
  Napi::Array names = Napi::Array::New(env);
  bpf_program *program;
  bpf_object__for_each_program(program, object.get()) {
    names.Set(names.Length(), Napi::String::New(env, bpf_program__name(program)));
  }
  return names;
}

// bpfOpen({path, pinRoot, maps: {name: entries}, rodata}): a promise of a BpfObject with maps and no programs yet.
Napi::Value OpenObject(const Napi::CallbackInfo &info) {
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
  Napi::Value unpinned = given.Get("unpinned");
  for (uint32_t i = 0; unpinned.IsArray() && i < unpinned.As<Napi::Array>().Length(); i++)
    spec.unpinned.push_back(unpinned.As<Napi::Array>().Get(i).As<Napi::String>());
  Bytes rodata = BytesOf(given.Get("rodata"));
  spec.rodata.assign(rodata.data, rodata.data + rodata.size);
  Opener *opener = new Opener(env, std::move(spec));
  Napi::Promise promise = opener->Promise();
  opener->Queue();
  return promise;
}

}  // namespace

void InitBpfObject(Napi::Env env, Napi::Object exports) {
  libbpf_set_print(Listen);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  Object::Init(env, exports);
  exports.Set("bpfOpen", Napi::Function::New(env, OpenObject));
  exports.Set("bpfPrograms", Napi::Function::New(env, Programs));
}
