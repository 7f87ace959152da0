/* Faults in one folder of one process, for LD_PRELOAD on Linux.
 *
 * Every operation that changes the folder, or what lies below it, is counted; those from `first` to `last` fail, or
 * end the process. Armed by fault_arm(), or in a process of its own by FAULT_FOLDER, FAULT_FIRST, FAULT_LAST (default:
 * the first alone), FAULT_ERROR and FAULT_LOG. The error is a number out of errno.h, or
 *   crash   the process ends at once
 *   power   so it does, and with it goes what was written and not synced; names stay as they are (of what file
 *           systems may do this is the nastiest: a rename that is on the disk before the bytes it stands for)
 * A write that is hit does half of its bytes first; of a full disk it then returns those, and only the next one fails.
 * ENOSPC spares what needs no room: removing, shortening, opening what is there. A sync only counts, as nothing here
 * outlives the machine. The log has a line for each operation: its kind, its path below the folder, and " !" where hit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CRASH = -1, POWER = -2, EXIT_CODE = 99, FILES = 512 };
enum { FREES, NEEDS_ROOM };

static char folder[PATH_MAX];
static long first, last, count;
static int error, full, log_to = -1;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static struct { char path[PATH_MAX]; long bytes; } unsynced[FILES]; /* bytes: how many of it are on the disk */

void fault_arm(const char *where, long from, long to, int what, const char *log)
{
    first = from, last = to, error = what, count = 0, full = 0;
    memset(unsynced, 0, sizeof unsynced);
    if (log_to >= 0)
        syscall(SYS_close, log_to);
    log_to = *log ? syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    snprintf(folder, sizeof folder, "%s", where);
}

long fault_count(void) { return count; }

__attribute__((constructor)) static void arm_from_environment(void)
{
    const char *where = getenv("FAULT_FOLDER"), *from = getenv("FAULT_FIRST"), *to = getenv("FAULT_LAST");
    const char *what = getenv("FAULT_ERROR"), *log = getenv("FAULT_LOG");
    if (!where || !from || !what)
        return;
    int number = !strcmp(what, "crash") ? CRASH : !strcmp(what, "power") ? POWER : atoi(what);
    fault_arm(where, atol(from), atol(to ? to : from), number, log ? log : "");
}

/* ---------------------------------------------------------------------------------------------- where and what */

static const char *below(const char *path)
{
    size_t length = strlen(folder);
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]) ? path + length : NULL;
}

static void path_of(int descriptor, char *path)
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = *folder ? syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1) : 0;
    path[length > 0 ? length : 0] = 0;
}

static void path_at(int directory, const char *name, char *path)
{
    char from[PATH_MAX] = "";
    if (*name != '/' && directory != AT_FDCWD)
        path_of(directory, from);
    else if (*name != '/' && !getcwd(from, sizeof from))
        *from = 0;
    if (snprintf(path, PATH_MAX, "%s%s%s", from, *from ? "/" : "", name) >= PATH_MAX)
        *path = 0;
}

/* Counts one operation; what is to happen to it: 0, an error number, CRASH or POWER. */
static int fate(const char *kind, const char *path, int need)
{
    const char *inside = below(path);
    if (!inside)
        return 0;
    pthread_mutex_lock(&one_at_a_time);
    count++;
    int hit = first <= count && count <= last && (error != ENOSPC || need == NEEDS_ROOM) ? error : 0;
    char line[PATH_MAX + 40];
    int length = snprintf(line, sizeof line, "%s %s%s\n", kind, inside, hit ? " !" : "");
    if (log_to >= 0)
        syscall(SYS_write, log_to, line, length);
    pthread_mutex_unlock(&one_at_a_time);
    return hit;
}

static int hit_by(int what)
{
    if (what == POWER)
        for (int i = 0; i < FILES; i++)
            if (*unsynced[i].path)
                syscall(SYS_truncate, unsynced[i].path, unsynced[i].bytes);
    if (what < 0)
        _exit(EXIT_CODE);
    errno = what;
    return -1;
}

/* ------------------------------------------------------------------------------------- what is not on the disk */

static void forget(const char *path)
{
    for (int i = 0; i < FILES; i++)
        if (!strcmp(unsynced[i].path, path))
            *unsynced[i].path = 0;
}

static void note(const char *path, long bytes, int anew)
{
    if (error != POWER || !below(path))
        return;
    pthread_mutex_lock(&one_at_a_time);
    int place = -1;
    for (int i = FILES - 1; i >= 0; i--) {
        if (!strcmp(unsynced[i].path, path) && !anew)
            goto done;
        if (!*unsynced[i].path)
            place = i;
    }
    forget(path);
    if (place < 0)
        abort();
    strcpy(unsynced[place].path, path);
    unsynced[place].bytes = bytes;
done:
    pthread_mutex_unlock(&one_at_a_time);
}

static void moved(const char *from, const char *to)
{
    size_t length = strlen(from);
    pthread_mutex_lock(&one_at_a_time);
    forget(to);
    for (int i = 0; i < FILES; i++) {
        char *path = unsynced[i].path, after[PATH_MAX];
        if (strncmp(path, from, length) || (path[length] && path[length] != '/'))
            continue;
        if (snprintf(after, sizeof after, "%s%s", to, path + length) < PATH_MAX)
            strcpy(path, after);
    }
    pthread_mutex_unlock(&one_at_a_time);
}

/* ---------------------------------------------------------------------------------------------------- writing */

static ssize_t put_now(int fd, const struct iovec *parts, int n, off_t at)
{
    return at < 0 ? syscall(SYS_writev, fd, parts, n) : syscall(SYS_pwritev, fd, parts, n, at, 0);
}

static ssize_t put(int fd, const struct iovec *parts, int n, off_t at)
{
    char path[PATH_MAX];
    path_of(fd, path);
    struct stat before;
    if (below(path) && !fstat(fd, &before))
        note(path, before.st_size, 0);
    int hit = fate("write", path, NEEDS_ROOM);
    if (!hit)
        return put_now(fd, parts, n, at);
    struct iovec some[IOV_MAX];
    size_t half = 0, left;
    for (int i = 0; i < n; i++)
        half += parts[i].iov_len;
    left = half /= 2;
    for (int i = 0; i < n; i++, left -= some[i - 1].iov_len)
        some[i] = (struct iovec){parts[i].iov_base, parts[i].iov_len < left ? parts[i].iov_len : left};
    ssize_t done = half && !full ? put_now(fd, some, n, at) : 0;
    if (hit == ENOSPC && !full++ && done > 0)
        return done;
    return hit_by(hit);
}

ssize_t write(int fd, const void *data, size_t n) { return put(fd, &(struct iovec){(void *)data, n}, 1, -1); }

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    return put(fd, &(struct iovec){(void *)data, n}, 1, at);
}

ssize_t writev(int fd, const struct iovec *parts, int n) { return put(fd, parts, n, -1); }

ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t at) { return put(fd, parts, n, at); }

ssize_t sendfile(int to, int from, off_t *at, size_t n)
{
    char path[PATH_MAX];
    path_of(to, path);
    note(path, 0, 0);
    int hit = fate("write", path, NEEDS_ROOM);
    return hit ? hit_by(hit) : syscall(SYS_sendfile, to, from, at, n);
}

int ftruncate(int fd, off_t size)
{
    char path[PATH_MAX];
    path_of(fd, path);
    int hit = fate("truncate", path, FREES);
    return hit ? hit_by(hit) : syscall(SYS_ftruncate, fd, size);
}

int fsync(int fd)
{
    char path[PATH_MAX];
    path_of(fd, path);
    if (!below(path))
        return syscall(SYS_fsync, fd);
    int hit = fate("sync", path, NEEDS_ROOM);
    if (hit)
        return hit_by(hit);
    pthread_mutex_lock(&one_at_a_time);
    forget(path);
    pthread_mutex_unlock(&one_at_a_time);
    return 0;
}

int fdatasync(int fd) { return fsync(fd); }

/* ------------------------------------------------------------------------------------------------------ names */

int openat(int directory, const char *name, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, int) : 0;
    va_end(more);
    char path[PATH_MAX] = "";
    if (flags & O_CREAT)
        path_at(directory, name, path);
    int there = below(path) && !syscall(SYS_faccessat, directory, name, F_OK);
    int hit = fate("open", path, there ? FREES : NEEDS_ROOM);
    if (hit)
        return hit_by(hit);
    int fd = syscall(SYS_openat, directory, name, flags, mode);
    if (fd >= 0 && (!there || flags & O_TRUNC))
        note(path, 0, 1);
    return fd;
}

int open(const char *name, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, int) : 0;
    va_end(more);
    return openat(AT_FDCWD, name, flags, mode);
}

int renameat2(int directory, const char *name, int to_directory, const char *to_name, unsigned flags)
{
    char from[PATH_MAX], to[PATH_MAX];
    path_at(directory, name, from);
    path_at(to_directory, to_name, to);
    int hit = fate("rename", below(from) ? from : to, NEEDS_ROOM);
    if (hit)
        return hit_by(hit);
    int failed = syscall(SYS_renameat2, directory, name, to_directory, to_name, flags);
    if (!failed)
        moved(from, to);
    return failed;
}

int renameat(int directory, const char *name, int to_directory, const char *to_name)
{
    return renameat2(directory, name, to_directory, to_name, 0);
}

int rename(const char *name, const char *to_name) { return renameat2(AT_FDCWD, name, AT_FDCWD, to_name, 0); }

int unlinkat(int directory, const char *name, int flags)
{
    char path[PATH_MAX];
    path_at(directory, name, path);
    int hit = fate(flags & AT_REMOVEDIR ? "rmdir" : "unlink", path, FREES);
    return hit ? hit_by(hit) : syscall(SYS_unlinkat, directory, name, flags);
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int directory, const char *name, mode_t mode)
{
    char path[PATH_MAX];
    path_at(directory, name, path);
    int hit = fate("mkdir", path, NEEDS_ROOM);
    return hit ? hit_by(hit) : syscall(SYS_mkdirat, directory, name, mode);
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

/* The same by the names that programs call which were compiled for large files. */
int open64(const char *, int, ...) __attribute__((alias("open")));
int openat64(int, const char *, int, ...) __attribute__((alias("openat")));
ssize_t pwrite64(int, const void *, size_t, off_t) __attribute__((alias("pwrite")));
ssize_t pwritev64(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev")));
ssize_t sendfile64(int, int, off_t *, size_t) __attribute__((alias("sendfile")));
int ftruncate64(int, off_t) __attribute__((alias("ftruncate")));
