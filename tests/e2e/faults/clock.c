/* The clock of the day, set forward and back under a process that has this library preloaded: by as
 * many seconds as the 8 bytes of the file FAULTS_CLOCK say, at any time. The steady clock stays as it
 * is. Waits until a time of day end as the kernel would end them, which looks at the clock as it is
 * then: set forward, they end at once; set back, so much later. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *offset;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void) {
  real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  /* Where there is an older one of this name beside it, that is not the one that programs have. */
  real_cond_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!real_cond_timedwait) real_cond_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  const char *path = getenv("FAULTS_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *seen = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
  if (file >= 0) close(file);
  if (seen == MAP_FAILED || !real_clock_gettime || !real_cond_timedwait) abort();
  offset = seen;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  if (!real_clock_gettime) begin();
  int failed = real_clock_gettime(clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (now) *now = precise.tv_sec;
  return precise.tv_sec;
}

int timespec_get(struct timespec *now, int base) {
  return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

/* Waits in slices, for nobody wakes a sleeper when the pretended clock is set. All waits here are by
 * the clock of the day: who waits by another one says so to the condition, which nobody does. */
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
                           const struct timespec *until) {
  const int64_t slice = 20 * 1000 * 1000;
  for (;;) {
    struct timespec pretended, end;
    clock_gettime(CLOCK_REALTIME, &pretended);
    int64_t left = (int64_t)(until->tv_sec - pretended.tv_sec) * 1000000000 +
                   (until->tv_nsec - pretended.tv_nsec);
    int64_t wait = left < 0 ? 0 : left < slice ? left : slice;
    real_clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += wait;
    end.tv_sec += end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    int woken = real_cond_timedwait(condition, mutex, &end);
    if (woken != ETIMEDOUT || left <= slice) return woken;
  }
}

/* The same under the name that C has for it; in glibc both are of one layout. */
int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex,
                  const struct timespec *restrict until) {
  int woken = pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);
  return woken == 0 ? thrd_success : woken == ETIMEDOUT ? thrd_timedout : thrd_error;
}
