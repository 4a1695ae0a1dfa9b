/*
 * A fault shim under the store: preloaded, it stands between SQLite (and std) and libc's file calls, for the files of
 * one directory only. It counts their operations, and kills the process, fails a call, or writes all down.
 *
 *   SHIM_DIR    the directory
 *   SHIM_KILL   before:N    SIGKILL before the Nth operation
 *               sync:N      SIGKILL after the Nth fsync, rename, unlink or ftruncate
 *   SHIM_FAIL   errno:kind:N:M   the Nth and the M - 1 following calls of a kind fail; kind is sync or write
 *   SHIM_LOG    a file that gets every operation with its bytes, and what the process says on its standard output
 *   SHIM_COUNT  a file that gets the number of operations, and of those of kind sync, at the end
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define FDS 1024

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static char dir[4096];
static size_t dir_len;
static uint32_t file_of[FDS]; /* 0: not ours */
static uint32_t files;
static long ops, syncs, writes;
static long kill_before, kill_sync;
static int fail_errno, fail_sync;
static long fail_from, fail_count;
static int log_fd = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("SHIM_DIR");
    if (!text) return;
    snprintf(dir, sizeof dir, "%s", text);
    dir_len = strlen(dir);
    if ((text = getenv("SHIM_KILL"))) {
        if (!strncmp(text, "before:", 7)) kill_before = atol(text + 7);
        if (!strncmp(text, "sync:", 5)) kill_sync = atol(text + 5);
    }
    if ((text = getenv("SHIM_FAIL"))) {
        char kind[8] = "";
        sscanf(text, "%d:%7[a-z]:%ld:%ld", &fail_errno, kind, &fail_from, &fail_count);
        fail_sync = !strcmp(kind, "sync");
    }
    if ((text = getenv("SHIM_LOG")))
        log_fd = syscall(SYS_openat, AT_FDCWD, text, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("SHIM_COUNT");
    if (!dir_len || !path) return;
    char text[64];
    int n = snprintf(text, sizeof text, "%ld %ld %ld\n", ops, syncs, writes);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    if (fd >= 0) syscall(SYS_write, fd, text, n);
}

static int ours(const char *path) {
    return dir_len && path && !strncmp(path, dir, dir_len);
}

static int file(int fd) {
    return fd >= 0 && fd < FDS ? (int)file_of[fd] : 0;
}

static void note(char op, uint32_t file, uint64_t at, const void *bytes, uint32_t len) {
    if (log_fd < 0) return;
    char head[17];
    head[0] = op;
    memcpy(head + 1, &file, 4);
    memcpy(head + 5, &at, 8);
    memcpy(head + 13, &len, 4);
    syscall(SYS_write, log_fd, head, sizeof head);
    if (len) syscall(SYS_write, log_fd, bytes, len);
}

/* Called with the lock held, before an operation: returns an errno to fail with, or 0. */
static int before(int sync) {
    ops++;
    if (ops == kill_before) kill(getpid(), SIGKILL);
    long nth = sync ? ++syncs : ++writes;
    if (fail_count && sync == fail_sync && nth >= fail_from && nth < fail_from + fail_count) return fail_errno;
    return 0;
}

static void after(int sync) {
    if (sync && syncs == kill_sync) kill(getpid(), SIGKILL);
}

static int opened(int fd, const char *path, int existed) {
    if (fd >= 0 && fd < FDS) {
        file_of[fd] = ++files;
        note('O', files, existed, path, strlen(path));
    }
    return fd;
}

static int do_open(int at, const char *path, int flags, mode_t mode) {
    if (!ours(path)) return syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat found;
    int existed = stat(path, &found) == 0;
    int fail = !existed && (flags & O_CREAT) ? before(0) : 0;
    int fd = -1;
    if (fail && !fail_sync) errno = fail;
    else fd = opened(syscall(SYS_openat, at, path, flags, mode), path, existed);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list args; va_start(args, flags); mode = va_arg(args, mode_t); va_end(args); }

int open(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return do_open(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return do_open(at, path, flags, mode); }

int close(int fd) {
    pthread_mutex_lock(&lock);
    if (file(fd)) file_of[fd] = 0;
    pthread_mutex_unlock(&lock);
    return syscall(SYS_close, fd);
}

static ssize_t do_pwrite(int fd, const void *bytes, size_t len, off64_t at) {
    if (!file(fd)) return syscall(SYS_pwrite64, fd, bytes, len, at);
    pthread_mutex_lock(&lock);
    ssize_t done = -1;
    int fail = before(0);
    if (fail) errno = fail;
    else {
        done = syscall(SYS_pwrite64, fd, bytes, len, at);
        if (done > 0) note('W', file(fd), at, bytes, done);
        after(0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return do_pwrite(fd, bytes, len, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) { return do_pwrite(fd, bytes, len, at); }

ssize_t write(int fd, const void *bytes, size_t len) {
    if (file(fd)) {
        ssize_t wrote = do_pwrite(fd, bytes, len, lseek(fd, 0, SEEK_CUR));
        if (wrote > 0) lseek(fd, wrote, SEEK_CUR);
        return wrote;
    }
    if (fd != 1 || log_fd < 0) return syscall(SYS_write, fd, bytes, len);
    pthread_mutex_lock(&lock);
    ssize_t done = syscall(SYS_write, fd, bytes, len);
    if (done > 0) note('M', 0, 0, bytes, done);
    pthread_mutex_unlock(&lock);
    return done;
}

static int do_truncate(int fd, off64_t len) {
    if (!file(fd)) return syscall(SYS_ftruncate, fd, len);
    pthread_mutex_lock(&lock);
    int fail = before(1), done = -1;
    if (fail) errno = fail;
    else {
        done = syscall(SYS_ftruncate, fd, len);
        if (!done) note('T', file(fd), len, 0, 0);
        after(1);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t len) { return do_truncate(fd, len); }
int ftruncate64(int fd, off64_t len) { return do_truncate(fd, len); }

static int do_sync(int fd, long call) {
    if (!file(fd)) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    int fail = before(1), done = -1;
    if (fail) {
        note('F', file(fd), 0, 0, 0);
        errno = fail;
    } else {
        done = syscall(call, fd);
        if (!done) note('S', file(fd), 0, 0, 0);
        after(1);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int fsync(int fd) { return do_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }

int rename(const char *from, const char *to) {
    if (!ours(from)) return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    pthread_mutex_lock(&lock);
    int fail = before(1), done = -1;
    if (fail) errno = fail;
    else {
        done = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
        char both[8192];
        int len = snprintf(both, sizeof both, "%s\n%s", from, to);
        if (!done) note('R', 0, 0, both, len);
        after(1);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int unlink(const char *path) {
    if (!ours(path)) return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&lock);
    int fail = before(1), done = -1;
    if (fail) errno = fail;
    else {
        done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
        if (!done) note('U', 0, 0, path, strlen(path));
        after(1);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
