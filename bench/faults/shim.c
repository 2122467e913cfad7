/* A disk and a clock that fail on demand: preloaded before libc (LD_PRELOAD), idle until fault_set.
 *
 * Files under one folder get ENOSPC once a number of bytes has been written to them, or EIO at every
 * n-th read, write or fsync. The clock of the day goes back by some seconds after its n-th reading;
 * the monotonic one, as in the kernel, does not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { READ, WRITE, SYNC };
static char under[4096];
static long budget, every[3], calls[3], readings, back_after;
static double back_by;
static int active, hits;

/* budget: bytes, below 0 for no limit. read, write, sync: fail every n-th call, 0 for none. */
void fault_set(const char *folder, long bytes, long read_n, long write_n, long sync_n,
               long after, double seconds) {
    strncpy(under, folder, sizeof under - 1);
    budget = bytes;
    every[READ] = read_n, every[WRITE] = write_n, every[SYNC] = sync_n;
    memset(calls, 0, sizeof calls);
    readings = hits = 0;
    back_after = after, back_by = seconds;
    active = 1;
}

int fault_hits(void) { return hits; }

static int watched(int file) {
    char link[64], path[4096];
    if (!active) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strncmp(path, under, strlen(under)) == 0;
}

static int broken(int file, int kind) {
    if (!active || !every[kind] || !watched(file)) return 0;
    if (__sync_add_and_fetch(&calls[kind], 1) % every[kind]) return 0;
    hits++;
    errno = EIO;
    return 1;
}

/* How many of `size` bytes still fit; -1 if none do. */
static ssize_t room(int file, size_t size) {
    if (!active || budget < 0 || !watched(file)) return size;
    long left = __sync_sub_and_fetch(&budget, size) + (long)size;
    if (left >= (long)size) return size;
    budget = 0;
    if (left > 0) return left;
    hits++;
    errno = ENOSPC;
    return -1;
}

#define REAL(name) static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t read(int file, void *to, size_t size) {
    REAL(read);
    return broken(file, READ) ? -1 : real(file, to, size);
}

ssize_t pread64(int file, void *to, size_t size, off64_t at) {
    REAL(pread64);
    return broken(file, READ) ? -1 : real(file, to, size, at);
}

ssize_t write(int file, const void *from, size_t size) {
    REAL(write);
    if (broken(file, WRITE)) return -1;
    ssize_t fits = room(file, size);
    return fits < 0 ? -1 : real(file, from, fits);
}

int posix_fallocate64(int file, off64_t at, off64_t size) {
    REAL(posix_fallocate64);
    if (broken(file, WRITE)) return EIO;
    return room(file, size) < size ? ENOSPC : real(file, at, size);
}

int fsync(int file) {
    REAL(fsync);
    return broken(file, SYNC) ? -1 : real(file);
}

static double shift(void) {
    if (!active || !back_after || ++readings < back_after) return 0;
    if (readings == back_after) hits++;
    return back_by;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec -= (time_t)shift();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(gettimeofday);
    int result = real(now, zone);
    now->tv_sec -= (time_t)shift();
    return result;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
