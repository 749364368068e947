// Faults of the disk, of the clock and of the processes of a study, on demand. Loaded before libc (LD_PRELOAD).
//
// Counts the calls that change files below a folder, and at the n-th does what the environment says; see
// faults/shim.py, which writes it. Calls within libc itself (stdio's flush) cannot be seen, so fwrite is
// counted in their place. What a process maps into memory is not counted either.

#include <dlfcn.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

constexpr time_t kBack = 3600;  // seconds that the clock jumps backwards

std::string variable(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

// `driver`, `worker:N`, or nothing: by the command line, for a library has no other way to know.
std::string role() {
  std::string line;
  char buffer[4096];
  const int file = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY);
  for (long got; (got = syscall(SYS_read, file, buffer, sizeof buffer)) > 0;) line.append(buffer, got);
  syscall(SYS_close, file);
  for (char& c : line) c = c == '\0' ? ' ' : c;
  if (line.find("qscale.sweep.worker ") != std::string::npos) {
    const size_t at = line.find(" --worker ");
    return "worker:" + (at == std::string::npos ? "0" : line.substr(at + 10, line.find(' ', at + 10) - at - 10));
  }
  return line.find("qscale sweep run ") != std::string::npos ? "driver" : "";
}

struct Settings {
  std::string root = variable("QSCALE_FAULT_ROOT") + "/", marks = variable("QSCALE_FAULT_MARKS") + "/";
  std::string pattern = variable("QSCALE_FAULT_PATH"), calls = "," + variable("QSCALE_FAULT_CALLS") + ",";
  std::string kind = variable("QSCALE_FAULT_KIND"), me = role();
  long at = atol(variable("QSCALE_FAULT_AT").c_str());
  unsigned long seed = strtoul(variable("QSCALE_FAULT_SEED").c_str(), nullptr, 10);
  bool chosen = is_chosen(variable("QSCALE_FAULT_WHO"));
  std::atomic<long> seen{0};

  bool is_chosen(const std::string& who) const {
    if (me.empty() || kind.empty()) return false;
    return who == "all" || who == me || (who == "workers" && me != "driver");
  }
  bool marked(const char* name) const { return syscall(SYS_faccessat, AT_FDCWD, (marks + name).c_str(), F_OK) == 0; }

  // The one that makes the mark is the one that fires; a process that takes its place later lives.
  bool fire(const std::string& what) const {
    const long file = syscall(SYS_openat, AT_FDCWD, (marks + "fired").c_str(), O_CREAT | O_EXCL | O_WRONLY, 0666);
    if (file < 0) return false;
    syscall(SYS_write, file, what.data(), what.size());
    syscall(SYS_close, file);
    return true;
  }
  void log(const std::string& line) const {
    const long file =
        syscall(SYS_openat, AT_FDCWD, (marks + "log").c_str(), O_CREAT | O_APPEND | O_WRONLY, 0666);
    syscall(SYS_write, file, line.data(), line.size());
    syscall(SYS_close, file);
  }
};

Settings& settings() {
  static Settings it;
  return it;
}

std::string linked(int descriptor) {
  char target[PATH_MAX];
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
  const long length = syscall(SYS_readlinkat, AT_FDCWD, link.c_str(), target, sizeof target);
  return length > 0 ? std::string(target, length) : "";
}

std::string absolute(int folder, const char* path) {
  if (path[0] == '/') return path;
  char here[PATH_MAX];
  if (folder != AT_FDCWD) return linked(folder) + "/" + path;
  return syscall(SYS_getcwd, here, sizeof here) > 0 ? std::string(here) + "/" + path : path;
}

bool writes(int descriptor) {
  const long flags = syscall(SYS_fcntl, descriptor, F_GETFL);
  return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
}

bool takes_space(const std::string& call) {
  return call == "create" || call == "write" || call == "mkdir" || call == "truncate" || call == "sync";
}

[[noreturn]] void die() {
  if (settings().kind == "cut" && settings().me != "driver") syscall(SYS_kill, getppid(), SIGKILL);
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

enum class Fate { live, fail, die, tear };

// What becomes of a call; sets errno where it fails.
Fate judge(const std::string& call, const std::string& path) {
  Settings& set = settings();
  if (!set.chosen || path.compare(0, set.root.size(), set.root) != 0) return Fate::live;
  const std::string name = path.substr(set.root.size());
  if (set.calls != ",," && set.calls.find("," + call + ",") == std::string::npos) return Fate::live;
  if (!set.pattern.empty() && fnmatch(set.pattern.c_str(), name.c_str(), 0) != 0) return Fate::live;
  const bool full = set.kind == "full" || set.kind == "full-once";
  if (full && !takes_space(call)) return Fate::live;
  const std::string line = set.me + " " + call + " " + name + "\n";
  if (set.kind == "log") set.log(line);
  if (set.kind == "log" || set.kind == "clock") return Fate::live;
  const bool now = ++set.seen == set.at && set.fire(line);
  if (full && (now || (set.kind == "full" && set.marked("fired") && !set.marked("released")))) {
    errno = ENOSPC;
    return Fate::fail;
  }
  if (!now) return Fate::live;
  if (set.kind == "torn" || set.kind == "cut") return Fate::tear;
  if (set.kind == "kill") return Fate::die;
  errno = EIO;
  return Fate::fail;
}

bool clock_is_back() {
  static std::atomic<bool> back{false};
  Settings& set = settings();
  if (!set.chosen || set.kind != "clock") return false;
  if (!back) back = set.marked("fired") || (++set.seen == set.at && set.fire(set.me + " clock\n"));
  return back;
}

// Times of files come from the kernel, whose clock is right: put them back by hand.
void stamp(int folder, const char* path, int descriptor) {
  Settings& set = settings();
  if (!set.chosen || set.kind != "clock" || !set.marked("fired")) return;
  const std::string name = path == nullptr ? linked(descriptor) : absolute(folder, path);
  if (name.compare(0, set.root.size(), set.root) != 0) return;
  timespec now[2];
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &now[0]);
  now[0].tv_sec -= kBack;
  now[1] = now[0];
  syscall(SYS_utimensat, AT_FDCWD, name.c_str(), now, AT_SYMLINK_NOFOLLOW);
}

template <class Call>
Call next(const char* name) {
  return reinterpret_cast<Call>(dlsym(RTLD_NEXT, name));
}

// The call, or what becomes of it: of those that are killed, half are killed when it is done.
template <class Real>
auto guarded(const char* call, const std::string& path, Real real) -> decltype(real()) {
  const int before = errno;
  switch (judge(call, path)) {
    case Fate::fail:
      return -1;
    case Fate::die:
      if (settings().seed % 2) real();
      die();
    case Fate::tear:
      die();
    case Fate::live:
      break;
  }
  errno = before;
  return real();
}

// As above; a torn write leaves the first bytes of what was to be written.
template <class Part>
ssize_t written(int descriptor, size_t bytes, Part part) {
  const int before = errno;
  switch (judge("write", linked(descriptor))) {
    case Fate::fail:
      return -1;
    case Fate::die:
      if (settings().seed % 2) part(bytes);
      die();
    case Fate::tear:
      if (bytes) part(settings().seed % bytes);
      die();
    case Fate::live:
      break;
  }
  errno = before;
  const ssize_t done = part(bytes);
  const int after = errno;
  stamp(AT_FDCWD, nullptr, descriptor);
  errno = after;
  return done;
}

template <class Real>
int opened(int folder, const char* path, int flags, Real real) {
  if ((flags & (O_CREAT | O_TRUNC)) == 0 && (flags & O_ACCMODE) == O_RDONLY) return real();
  return guarded(flags & O_CREAT ? "create" : "open", absolute(folder, path), real);
}

template <class Real>
int renamed(int from, const char* old, int to, const char* path, Real real) {
  const int done = guarded("rename", absolute(from, old), real);
  if (done == 0) stamp(to, path, -1);
  return done;
}

}  // namespace

#define MODE()                                        \
  mode_t mode = 0;                                    \
  if (flags & (O_CREAT | O_TMPFILE)) {                \
    va_list rest;                                     \
    va_start(rest, flags);                            \
    mode = va_arg(rest, mode_t);                      \
    va_end(rest);                                     \
  }

#define OPEN(name)                                                                    \
  int name(const char* path, int flags, ...) {                                        \
    static auto real = next<int (*)(const char*, int, ...)>(#name);                   \
    MODE()                                                                            \
    return opened(AT_FDCWD, path, flags, [&] { return real(path, flags, mode); });    \
  }

#define OPENAT(name)                                                                        \
  int name(int folder, const char* path, int flags, ...) {                                  \
    static auto real = next<int (*)(int, const char*, int, ...)>(#name);                    \
    MODE()                                                                                  \
    return opened(folder, path, flags, [&] { return real(folder, path, flags, mode); });    \
  }

#define OF_DESCRIPTOR(name, call, parameters, ...)                                     \
  int name parameters {                                                                \
    static auto real = next<int (*) parameters>(#name);                                \
    return guarded(call, linked(file), [&] { return real(__VA_ARGS__); });             \
  }

#define PWRITE(name, offset_t)                                                                  \
  ssize_t name(int file, const void* data, size_t bytes, offset_t at) {                         \
    static auto real = next<ssize_t (*)(int, const void*, size_t, offset_t)>(#name);            \
    return written(file, bytes, [&](size_t part) { return real(file, data, part, at); });       \
  }

extern "C" {

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
OF_DESCRIPTOR(fsync, "sync", (int file), file)
OF_DESCRIPTOR(fdatasync, "sync", (int file), file)
OF_DESCRIPTOR(ftruncate, "truncate", (int file, off_t length), file, length)
OF_DESCRIPTOR(ftruncate64, "truncate", (int file, off64_t length), file, length)
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int file, const void* data, size_t bytes) {
  static auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  return written(file, bytes, [&](size_t part) { return real(file, data, part); });
}

ssize_t writev(int file, const iovec* parts, int count) {
  static auto real = next<ssize_t (*)(int, const iovec*, int)>("writev");
  size_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += parts[i].iov_len;
  return written(file, bytes, [&](size_t part) {
    if (part == bytes) return real(file, parts, count);
    return static_cast<ssize_t>(syscall(SYS_write, file, parts[0].iov_base, std::min(part, parts[0].iov_len)));
  });
}

size_t fwrite(const void* data, size_t size, size_t count, FILE* stream) {
  static auto real = next<size_t (*)(const void*, size_t, size_t, FILE*)>("fwrite");
  const ssize_t done = written(fileno(stream), size * count, [&](size_t part) {
    if (part == size * count) return static_cast<ssize_t>(size * real(data, size, count, stream));
    const size_t bytes = real(data, 1, part, stream);
    fflush(stream);  // or it would die with the process
    return static_cast<ssize_t>(bytes);
  });
  return done < 0 || size == 0 ? 0 : static_cast<size_t>(done) / size;
}

int close(int file) {
  static auto real = next<int (*)(int)>("close");
  if (!writes(file)) return real(file);
  const int before = errno;
  const Fate fate = judge("close", linked(file));
  if (fate == Fate::die || fate == Fate::tear) die();
  const int why = errno;
  const int done = real(file);
  if (fate != Fate::fail) {
    if (done == 0) errno = before;
    return done;
  }
  errno = why;  // closed all the same, as by the kernel
  return -1;
}

int rename(const char* old, const char* path) {
  static auto real = next<int (*)(const char*, const char*)>("rename");
  return renamed(AT_FDCWD, old, AT_FDCWD, path, [&] { return real(old, path); });
}

int renameat(int from, const char* old, int to, const char* path) {
  static auto real = next<int (*)(int, const char*, int, const char*)>("renameat");
  return renamed(from, old, to, path, [&] { return real(from, old, to, path); });
}

int unlink(const char* path) {
  static auto real = next<int (*)(const char*)>("unlink");
  return guarded("unlink", absolute(AT_FDCWD, path), [&] { return real(path); });
}

int unlinkat(int folder, const char* path, int flags) {
  static auto real = next<int (*)(int, const char*, int)>("unlinkat");
  return guarded("unlink", absolute(folder, path), [&] { return real(folder, path, flags); });
}

int rmdir(const char* path) {
  static auto real = next<int (*)(const char*)>("rmdir");
  return guarded("unlink", absolute(AT_FDCWD, path), [&] { return real(path); });
}

int mkdir(const char* path, mode_t mode) {
  static auto real = next<int (*)(const char*, mode_t)>("mkdir");
  const int done = guarded("mkdir", absolute(AT_FDCWD, path), [&] { return real(path, mode); });
  if (done == 0) stamp(AT_FDCWD, path, -1);
  return done;
}

int clock_gettime(clockid_t clock, timespec* now) noexcept {
  const int done = syscall(SYS_clock_gettime, clock, now);
  if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) && clock_is_back())
    now->tv_sec -= kBack;
  return done;
}

int gettimeofday(timeval* now, void*) noexcept {
  timespec fine;
  clock_gettime(CLOCK_REALTIME, &fine);
  *now = {fine.tv_sec, fine.tv_nsec / 1000};
  return 0;
}

time_t time(time_t* into) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (into != nullptr) *into = now.tv_sec;
  return now.tv_sec;
}

}  // extern "C"
